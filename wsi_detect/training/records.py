"""Finished runs of a comparison, one small JSON each, and which of the declared ones are there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError
from wsi_detect.evaluation.out_of_fold import OutOfFold, join
from wsi_detect.training.grid import ComparisonJob, Row, Run, digest_of, planned, resolve, shared

DECLARATION = "declaration.json"
#: Raised when the meaning of a record changes; part of every digest.
RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class Results:
    """The folder of finished runs that share fields, folds and endpoints.

    Attributes:
        folder: named after `declaration`.
        declaration: digest of what they share.
    """

    folder: Path
    declaration: str

    @classmethod
    def enter(cls, results: Path, facts: Mapping[str, Any]) -> "Results":
        """Find the folder of a declaration below `results`, or begin one; `facts` go into its `declaration.json`."""
        declaration = digest_of({**facts, "record": RECORD_VERSION})
        folder = results / declaration
        path = folder / DECLARATION
        if not path.exists():
            artifact.write_json(path, dict(facts))
        return cls(folder, declaration)

    @classmethod
    def find(cls, results: Path, job: ComparisonJob) -> "Results":
        """Find the folder of a declaration below `results` without its fields, by all else that its runs share.

        Raises:
            MissingArtifactError: there is none, or more than one: of other fields.
            DamagedArtifactError: its `declaration.json` was changed.
        """
        wanted = shared(job)
        read = {path.parent: artifact.read_json(path) for path in sorted(results.glob(f"*/{DECLARATION}"))}
        fitting = [folder for folder, facts in read.items() if wanted.items() <= facts.items()]
        if len(fitting) != 1:
            raise MissingArtifactError(f"{len(fitting)} folders in {results} are of this declaration; give the fields")
        (folder,) = fitting
        if digest_of({**read[folder], "record": RECORD_VERSION}) != folder.name:
            raise DamagedArtifactError(f"{folder / DECLARATION} is not the declaration that the folder is named after")
        return cls(folder, folder.name)

    @property
    def groups(self) -> dict[str, int]:
        """Number of the patient, slide or field that each field belongs to: what is resampled."""
        fields = artifact.read_json(self.folder / DECLARATION)["fields"]
        return {name: int(entry["group"]) for name, entry in fields.items()}

    def digest(self, job: ComparisonJob, run: Run, learning_rate: float | None = None) -> str:
        """Digest of everything that decides a run, but what is left at its default: a new setting spoils no record."""
        sections = zip(("tiling", "training"), resolve(job, run, learning_rate), strict=True)
        made = {name: section.model_dump(mode="json", exclude_defaults=True) for name, section in sections}
        return digest_of({"declaration": self.declaration, "run": run.to_plain(), **made})

    def path(self, run: Run) -> Path:
        """File of a run."""
        return self.folder / f"{run.name}.json"

    def read(self, run: Run, digest: str | None = None) -> dict[str, Any] | None:
        """Record of a finished run; None if it is not there, or is one of other settings than the digest's.

        Raises:
            DamagedArtifactError: the file is not a record.
        """
        path = self.path(run)
        if not path.exists():
            return None
        record = artifact.read_json(path)
        if not {"run", "digest", "made", "found", "macro_ap50"} <= set(record):
            raise DamagedArtifactError(f"{path} is not the record of a run; delete it and run again")
        return record if digest in (None, record["digest"]) else None

    def current(self, job: ComparisonJob, run: Run) -> dict[str, Any] | None:
        """Record of a run if it was made as the job now declares, with the learning rate its trials chose."""
        record = self.read(run)
        if record is None or record["digest"] != self.digest(job, run, record["made"].get("chosen_rate")):
            return None
        return record

    def write(self, run: Run, record: Mapping[str, Any]) -> Path:
        """Write a record, whole or not at all."""
        artifact.write_json(self.path(run), record)
        return self.path(run)


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """What is there of a row.

    Attributes:
        row: which.
        seeds: seed → detections of all fields, each made by the model that had not seen it; whole seeds only.
        done: finished runs.
        declared: runs in all.
        made: how each was made, of one of its runs; empty if there is none.
        seconds: of the finished runs, together.
        versions: of this package that made them. One seed says the same under another only if what trains is the same.
    """

    row: Row
    seeds: Mapping[int, OutOfFold]
    done: int
    declared: int
    made: Mapping[str, Any]
    seconds: float
    versions: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every declared run is finished."""
        return self.done == self.declared


def finished(
    results: Results, job: ComparisonJob, only: Sequence[str] = (), folds: Sequence[int] = ()
) -> list[Finished]:
    """All declared rows, in the order of the declaration, with what is finished of each.

    Args:
        results: where the records are.
        job: the declaration.
        only: as in `grid.planned`.
        folds: take seeds as whole that have these folds, for a look before all are finished; all of them otherwise.

    Raises:
        DamagedArtifactError: a record cannot be read, or its folds do not go together.
    """
    runs = planned(job.cross_validation, only)
    wanted = set(folds or range(job.cross_validation.folds))
    found = []
    for row in dict.fromkeys(run.row for run in runs):
        mine = [run for run in runs if run.row == row]
        records = {run: record for run in mine if (record := results.current(job, run))}
        seeds = {}
        for seed in dict.fromkeys(run.seed for run in mine):
            parts = [records.get(run) for run in mine if run.seed == seed and run.fold in wanted]
            if all(part is not None for part in parts) and len(parts) == len(wanted):
                seeds[seed] = join([OutOfFold.from_json(part["found"]) for part in parts if part])
        made: Mapping[str, Any] = next((record["made"] for record in records.values()), {})
        spent = float(sum(record["seconds"] for record in records.values()))
        versions = tuple(sorted({str(record["version"]) for record in records.values()}))
        found.append(Finished(row, seeds, len(records), len(mine), made, spent, versions))
    return found
