"""Many slides: which are done, which are to do, what became of each, and the exit code of it all."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsi_detect import __version__, artifact
from wsi_detect.errors import SlideError, StaleArtifactError
from wsi_detect.inference import EVIDENCE_RUNTIMES, RUNTIMES, EvidenceRuntime, Runtime
from wsi_detect.run import stages
from wsi_detect.run.config import RunConfig, RunOptions
from wsi_detect.run.slide_list import SlideRow, part_of, write_slides
from wsi_detect.run.status import NOT_SCREENED, SCREENED, STATUS, Status
from wsi_detect.run.summary import exit_code_of, write_csv
from wsi_detect.workers import Outcome, map_items

if TYPE_CHECKING:
    from wsi_detect.detectors.evidence_info import EvidenceMapper
    from wsi_detect.inference.detector import Detector

RUN = "run.json"
_FAILURE = ("slide_id", "status", "reason")
_COLUMNS = (*_FAILURE, "cells")
_SHARES = (
    "examined_fraction",
    "unreadable_fraction",
    "no_data_fraction",
    "failed_fraction",
    "gated_fraction",
    "out_of_focus_fraction",
    "focus_unmeasured_fraction",
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is done to every slide, and where; crosses to worker processes.

    Attributes:
        out: folder of the run.
        bundle: the model.
        config: of all stages.
        options: what is decided from run to run.
        device: for the detector.
        part: `i/n` takes a disjoint part of the slides, for schedulers; parts may run at once into one folder.
        runtime: how the bundle is loaded; None looks up `config.detection.runtime`.
        evidence_bundle: the evidence model; None maps no evidence.
        evidence_runtime: how that is loaded; None looks up the same.
    """

    out: Path
    bundle: Path
    config: RunConfig = field(default_factory=RunConfig)
    options: RunOptions = field(default_factory=RunOptions)
    device: str = "auto"
    part: str | None = None
    runtime: Runtime | None = None
    evidence_bundle: Path | None = None
    evidence_runtime: EvidenceRuntime | None = None

    def __call__(self) -> "tuple[Batch, Detector, EvidenceMapper | None]":
        """Set up a worker: load the models once."""
        rule = self.config.detection
        load = self.runtime or RUNTIMES[rule.runtime]
        detector = load(
            self.bundle, self.device, score_threshold=rule.score_threshold, nms=rule.nms, threads=rule.threads
        )
        if self.evidence_bundle is None:
            return self, detector, None
        load_evidence = self.evidence_runtime or EVIDENCE_RUNTIMES[rule.runtime]
        return self, detector, load_evidence(self.evidence_bundle, self.device, threads=self.config.evidence.threads)

    def file(self, name: str, suffix: str) -> Path:
        """Path of a file of the run; each part of a run has its own."""
        part = "" if self.part is None else f".part-{self.part.replace('/', '-of-')}"
        return self.out / f"{name}{part}{suffix}"


def run_batch(
    rows: Sequence[SlideRow],
    batch: Batch,
    *,
    workers: int | None = 1,
    ray_address: str | None = None,
    on_done: Callable[[Status], None] | None = None,
) -> list[Status]:
    """Screen slides; the same call again continues where the last one stopped.

    Args:
        rows: the slides, in any order.
        batch: what is done to each.
        workers: processes, each with its own detector; 0 works in this process. Tables do not depend on it.
        ray_address: map over the Ray cluster there; `batch.out` must be a folder all its machines share.
        on_done: called with each slide's status as it becomes known.

    Returns:
        The statuses, by slide id. `slides.parquet`, `summary.csv` and `failures.csv` are written to `batch.out`.

    Raises:
        OutputBusyError: another run holds the folder, or a slide in it.
        StaleArtifactError: results made under another configuration or model are there and `overwrite` is not set.
        ConfigError: a gate without an evidence model.
        EnvironmentFaultError: the machine stands in the way.
    """
    from wsi_detect.detectors.evidence_info import read_evidence_info
    from wsi_detect.detectors.info import read_info

    rows = sorted(rows, key=lambda row: row.slide_id)
    rows = rows if batch.part is None else part_of(rows, batch.part)
    info = read_info(batch.bundle)
    evidence = None if batch.evidence_bundle is None else read_evidence_info(batch.evidence_bundle)
    with ExitStack() as held:
        held.enter_context(artifact.lock(batch.out if batch.part is None else batch.file("", "")))
        _sweep(batch)
        _record_run(batch, info.model_id, None if evidence is None else evidence.model_id)
        write_slides(batch.file("slides", ".parquet"), rows)
        statuses = _finished(rows, batch, (info, evidence))
        todo = [row for row in rows if row.slide_id not in statuses]
        if statuses:
            _log.info("resuming: %d of %d slides done", len(statuses), len(rows))
        for status in statuses.values():
            _tell(on_done, status)
        for outcome in map_items(_screen, todo, batch, workers=workers, ray_address=ray_address):
            status = _status_of(outcome, batch.out)
            statuses[status["slide_id"]] = status
            _log.info("%s: %s, by %s", status["slide_id"], status["status"], outcome.worker)
            _tell(on_done, status)
        result = [statuses[row.slide_id] for row in rows]
        _write_tables(batch, result, info.classes)
    return result


def exit_code(statuses: Sequence[Mapping[str, Any]]) -> int:
    """0 when every slide is SCREENED, 4 when every one is NOT SCREENED, 3 in between."""
    return exit_code_of((status["status"] for status in statuses), good={SCREENED}, bad=NOT_SCREENED)


def _screen(state: "tuple[Batch, Detector, EvidenceMapper | None]", row: SlideRow) -> Status:
    batch, detector, mapper = state
    with artifact.lock(batch.out / row.slide_id):
        return stages.run_slide(row, batch.out, detector, batch.config, batch.options, mapper)


def _status_of(outcome: Outcome[SlideRow, Status], out: Path) -> Status:
    if outcome.result is not None:
        return outcome.result
    return stages.give_up(outcome.item, out, outcome.error or "unknown")


def _sweep(batch: Batch) -> None:
    """Remove this run's own half-written files; those of other parts may be being written."""
    mine = [batch.file("slides", ".parquet"), batch.file("summary", ".csv"), batch.file("failures", ".csv")]
    for path in [*mine, *([batch.out / RUN] if batch.part is None else [])]:
        for leftover in batch.out.glob(f"{path.name}.*{artifact.PARTIAL}"):
            leftover.unlink()


def _tell(on_done: Callable[[Status], None] | None, status: Status) -> None:
    if on_done is not None:
        on_done(status)


def _record_run(batch: Batch, model_id: str, evidence_model_id: str | None) -> None:
    """Enter configuration and models; refuse to mix them with those of an earlier run."""
    path = batch.out / RUN
    values = {"config": batch.config.model_dump(mode="json"), "model_id": model_id, "version": __version__}
    if evidence_model_id is not None:
        values["evidence_model_id"] = evidence_model_id
    if path.exists():
        known = artifact.read_json(path)
        changes = _differences("", {**known, "version": __version__}, values)
        if changes and not batch.options.overwrite:
            raise StaleArtifactError(
                f"{batch.out} holds a run with other settings: {'; '.join(changes[:5])}; "
                "use --overwrite or give another --out"
            )
        if not changes:
            return
    artifact.write_json(path, values)


def _differences(where: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(set(old) | set(new))
        return [text for name in names for text in _differences(f"{where}.{name}", old.get(name), new.get(name))]
    return [] if old == new else [f"{where.removeprefix('.').removeprefix('config.')} {old} → {new}"]


def _finished(rows: Sequence[SlideRow], batch: Batch, infos: tuple[Any, Any]) -> dict[str, Status]:
    """Statuses of the slides that need nothing more; results of another plan are refused before anything starts."""
    done: dict[str, Status] = {}
    stale: list[str] = []
    for row in rows:
        try:
            job = stages.plan(row, batch.out, infos[0], batch.config, batch.options, infos[1])
        except (SlideError, OSError) as error:
            # The worker meets it again and records it.
            _log.debug("%s cannot be planned: %s", row.slide_id, error)
            continue
        if stages.is_finished(job):
            done[row.slide_id] = artifact.read_json(job.folder / STATUS)
        elif stages.stale_stages(job):
            stale.append(row.slide_id)
    if stale and not batch.options.overwrite:
        raise StaleArtifactError(
            f"results of {len(stale)} slide(s), first {stale[0]}, were made from another slide file, resolution, "
            "preparation or model; use --overwrite or give another --out"
        )
    return done


def _summary_row(status: Status, classes: Sequence[str]) -> dict[str, Any]:
    counts = status.get("counts") or {}
    return {
        **{name: status.get(name) for name in _COLUMNS},
        **{name: counts.get(name) for name in classes},
        **{name: status.get(name) for name in _SHARES},
        "outside_domain": status.get("outside_domain"),
    }


def _write_tables(batch: Batch, statuses: Sequence[Status], classes: Sequence[str]) -> None:
    rows = [_summary_row(status, classes) for status in statuses]
    write_csv(batch.file("summary", ".csv"), list(rows[0]) if rows else _FAILURE, rows)
    failed = [status for status in statuses if status["status"] != SCREENED]
    write_csv(batch.file("failures", ".csv"), _FAILURE, failed)
