"""A comparison as it is declared: detectors, methods, samplers, seeds and folds, and the runs that follow from them.

Everything that decides a run's weights is here, before any run; a run is known by the digest of it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import Field, model_validator

from wsi_detect.config import Config, parse
from wsi_detect.errors import ConfigError
from wsi_detect.evaluation.compare import ComparisonConfig
from wsi_detect.evaluation.out_of_fold import Endpoints
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.training.config import TrainingConfig


class FieldsConfig(Config):
    """Facts the field files do not hold."""

    mpp: float
    classes: tuple[str, ...]
    #: Decides which fields share a fold; not the seed of the training.
    fold_seed: int = 0


class Variant(Config):
    """What one entry of an axis changes in the sections `training` and `tiling`."""

    title: str | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    tiling: dict[str, Any] = Field(default_factory=dict)


class Grid(Config):
    """Every detector with every method, sampler and seed."""

    detectors: tuple[str, ...]
    methods: tuple[str, ...]
    samplers: tuple[str, ...]
    seeds: tuple[int, ...]


class Tuning(Config):
    """Trials of every method in every fold, on training fields only: one for each learning rate.

    The fold after the one left out is watched and the rest trained on; the rate with the best primary endpoint there
    is the one of that method in that fold, for every seed. One rate is no trial. The list is the same for all methods,
    so that each has the same number of trials.
    """

    learning_rates: tuple[float, ...] = ()
    #: Of a trial; None for as many as a run has.
    steps: int | None = Field(None, ge=1)


class Reference(Config):
    """The run whose primary endpoint says whether the baseline was trained enough."""

    detector: str
    method: str
    sampler: str
    #: The baseline must reach this share of it, or the tables say `under-trained`.
    share: float = Field(0.9, gt=0, le=1)


class CrossValidationConfig(Config):
    """The section `cross_validation`.

    Attributes:
        folds: parts of the fields; each is left out once.
        baseline: the method all others of the same detector and sampler are held against.
        reference: see `Reference`.
        detectors, methods, samplers: the axes.
        tuning: see `Tuning`.
        grids: which of their combinations are run; earlier ones first, within a seed.
        endpoints: what is read from the detections.
    """

    folds: int = Field(5, ge=2)
    baseline: str
    reference: Reference | None = None
    detectors: dict[str, Variant]
    methods: dict[str, Variant]
    samplers: dict[str, Variant]
    tuning: Tuning = Tuning()
    grids: dict[str, Grid]
    endpoints: Endpoints = Endpoints()

    @model_validator(mode="after")
    def _everything_is_declared(self) -> "CrossValidationConfig":
        for axis, known in (("detectors", self.detectors), ("methods", self.methods), ("samplers", self.samplers)):
            wrong = [name for name in known if not name.replace("_", "").isalnum()]
            if wrong:
                raise ValueError(f"{axis}: {wrong[0]!r} is to be letters, digits and _; it names files")
            for grid, content in self.grids.items():
                unknown = [name for name in getattr(content, axis) if name not in known]
                if unknown:
                    raise ValueError(f"grids.{grid}.{axis}: {unknown[0]!r} is not declared; known: {', '.join(known)}")
        if self.baseline not in self.methods:
            raise ValueError(f"baseline {self.baseline!r} is not a method; known: {', '.join(self.methods)}")
        return self


class ReportConfig(Config):
    """Where tables and plots go."""

    #: Beginning of the names of their places in a document, and of the plots' files.
    prefix: str = Field("losses", pattern=r"^[a-z0-9]+$")


class ComparisonJob(Config):
    """The sections of the file."""

    fields: FieldsConfig
    tiling: TilingConfig = TilingConfig()
    training: TrainingConfig = TrainingConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    cross_validation: CrossValidationConfig
    report: ReportConfig = ReportConfig()

    @model_validator(mode="after")
    def _nobody_has_seen_the_fields(self) -> "ComparisonJob":
        axes = self.cross_validation
        variants = [*axes.detectors.values(), *axes.methods.values(), *axes.samplers.values()]
        if self.training.start_from or any(variant.training.get("start_from") for variant in variants):
            raise ValueError("training.start_from: a bundle may have been trained on the fields that are left out")
        return self


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the tables: what is trained in every fold, with every seed."""

    detector: str
    method: str
    sampler: str


@dataclass(frozen=True, slots=True)
class Run:
    """One training: a row, a seed, the fold left out; `trial` is the number of the learning rate it tries."""

    row: Row
    seed: int
    fold: int
    trial: int | None = None

    @property
    def name(self) -> str:
        """Of its file."""
        trial = "" if self.trial is None else f"-t{self.trial}"
        return f"{self.row.detector}-{self.row.method}-{self.row.sampler}-s{self.seed}-f{self.fold}{trial}"

    def to_plain(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self.row), "seed": self.seed, "fold": self.fold, "trial": self.trial}


def planned(config: CrossValidationConfig, only: Sequence[str] = ()) -> list[Run]:
    """All runs, seed by seed, so that a stop leaves whole paired comparisons: grid by grid, fold by fold, then methods.

    Args:
        config: the declaration.
        only: names of grids or parts of names of runs; runs that fit none of them are left out.

    Raises:
        ConfigError: a word fits nothing.
    """
    every = [(run, grid) for grid, content in config.grids.items() for run in _runs(content, config.folds)]
    every.sort(key=lambda entry: entry[0].seed)
    lost = [word for word in only if not any(word == grid or word in run.name for run, grid in every)]
    if lost:
        raise ConfigError(f"--only {lost[0]!r} fits no run; grids: {', '.join(config.grids)}")
    fitting = [run for run, grid in every if not only or any(word == grid or word in run.name for word in only)]
    return list(dict.fromkeys(fitting))


def trials(config: CrossValidationConfig, run: Run) -> list[Run]:
    """The trials a run rests on, one for each learning rate; none where there is nothing to choose."""
    rates = config.tuning.learning_rates
    seeds = [seed for grid in config.grids.values() if run.row in _rows(grid) for seed in grid.seeds]
    return [Run(run.row, min(seeds), run.fold, k) for k in range(len(rates))] if len(rates) > 1 else []


def resolve(job: ComparisonJob, run: Run, learning_rate: float | None = None) -> tuple[TilingConfig, TrainingConfig]:
    """Settings of a run: the sections, then what detector, sampler and method change, in this order.

    Args:
        job: the declaration.
        run: one of its runs.
        learning_rate: chosen by trials; None leaves the declared one.

    Raises:
        ConfigError: a change names an unknown key or a value out of range.
    """
    axes = job.cross_validation
    row = run.row
    tiling, training = job.tiling.model_dump(mode="json"), job.training.model_dump(mode="json")
    for variant in (axes.detectors[row.detector], axes.samplers[row.sampler], axes.methods[row.method]):
        tiling, training = merged(tiling, variant.tiling), merged(training, variant.training)
    rates = axes.tuning.learning_rates
    if run.trial is not None:
        learning_rate = rates[run.trial]
        training["steps"] = axes.tuning.steps or training["steps"]
    elif learning_rate is None and len(rates) == 1:
        learning_rate = rates[0]
    if learning_rate is not None:
        training["optimiser"]["learning_rate"] = learning_rate
    training["seed"] = run.seed
    where = f"cross_validation, run {run.name}"
    return parse(tiling, TilingConfig, where=where), parse(training, TrainingConfig, where=where)


def shared(job: ComparisonJob) -> dict[str, Any]:
    """What all runs of a declaration have in common, but the fields themselves; plain values."""
    return {
        "facts": job.fields.model_dump(mode="json"),
        # What is not asked for is left out: a question that somebody else may ask spoils no record.
        "endpoints": job.cross_validation.endpoints.model_dump(mode="json", exclude_none=True),
        "folds": job.cross_validation.folds,
    }


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Put changes into plain values: mappings key by key, anything else replaced."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def digest_of(content: Mapping[str, Any]) -> str:
    """Hash of plain values, 12 hex digits."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _rows(grid: Grid) -> list[Row]:
    return [Row(d, m, s) for d in grid.detectors for s in grid.samplers for m in grid.methods]


def _runs(grid: Grid, folds: int) -> list[Run]:
    return [Run(row, seed, fold) for seed in grid.seeds for fold in range(folds) for row in _rows(grid)]
