"""Evidence maps against each other by cross-validation: trained on field labels alone, held against boxes.

A run is a task, a seed and the fold left out. It trains a classifier, on which CAM, Grad-CAM++ and LayerCAM rest, two
decoders of NEGEV over it, and a classifier of its own for multiple-instance learning. All map the fields left out.
"""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from wsi_detect import __version__, artifact
from wsi_detect.config import Config, parse
from wsi_detect.data.bags import LabelledSlide
from wsi_detect.detectors.activation_maps import MAPPERS, Mapper, instance_probability
from wsi_detect.detectors.heatmap import EvidenceModel
from wsi_detect.errors import ConfigError, OutputBusyError
from wsi_detect.evaluation.evidence_figures import Map, evidence_figures, oracle_map
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.training.cross_validation import LabelledFields, tiled
from wsi_detect.training.grid import FieldsConfig, digest_of, merged
from wsi_detect.training.heatmap_config import EvidenceTrainingConfig
from wsi_detect.training.heatmap_trainer import train_classifier, train_decoder
from wsi_detect.training.records import Results

NEGEV, NEGEV_OTSU, MIL, ORACLE, RANDOM = "negev", "negev_otsu", "mil", "oracle", "random"
#: The activation map as a probability, not normalised image by image: maps of different fields can be compared.
CAM_PROBABILITY = "cam_probability"
#: Every method; a second decoder may be left out.
METHODS = (ORACLE, NEGEV, NEGEV_OTSU, *MAPPERS, CAM_PROBABILITY, MIL, RANDOM)

_log = logging.getLogger(__name__)


class Task(Config):
    """What counts as region."""

    title: str
    #: Words of the taxonomy.
    region: tuple[str, ...] = Field(min_length=1)


class MapComparisonConfig(Config):
    """The section `map_comparison`."""

    folds: int = Field(5, ge=2)
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: dict[str, Task]
    #: What multiple-instance learning changes in `evidence_training`.
    mil: dict[str, Any] = Field(default_factory=dict)
    #: What a second decoder changes, over the same classifier; None for no second one.
    negev_otsu: dict[str, Any] | None = None

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """Everything that is trained → what it changes."""
        second = {} if self.negev_otsu is None else {NEGEV_OTSU: self.negev_otsu}
        return {NEGEV: {}, **second, MIL: self.mil}


class MapComparisonJob(Config):
    """The sections of the file."""

    fields: FieldsConfig
    tiling: TilingConfig = TilingConfig()
    evidence_training: EvidenceTrainingConfig = EvidenceTrainingConfig()
    map_comparison: MapComparisonConfig

    @model_validator(mode="after")
    def _known_classes(self) -> "MapComparisonJob":
        for name, task in self.map_comparison.tasks.items():
            unknown = [label for label in task.region if label not in self.fields.classes]
            if unknown:
                raise ValueError(f"tasks.{name}: {unknown[0]!r} is not in fields.classes")
            if not name.isalnum():
                raise ValueError(f"tasks: {name!r} is to be letters and digits; it names files")
        return self


@dataclass(frozen=True, slots=True)
class MapRun:
    """A task, a seed, the fold left out."""

    task: str
    seed: int
    fold: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.task}-s{self.seed}-f{self.fold}"


@dataclass(frozen=True, slots=True)
class MapBench:
    """What every run needs: the declaration, the labelled fields, where records go."""

    job: MapComparisonJob
    fields: LabelledFields
    results: Results


def map_runs(config: MapComparisonConfig) -> list[MapRun]:
    """All runs, seed by seed, so that a stop leaves whole ones."""
    return [MapRun(task, seed, fold) for seed in config.seeds for task in config.tasks for fold in range(config.folds)]


def map_facts(fields: LabelledFields, job: MapComparisonJob) -> dict[str, Any]:
    """What all runs share, and how many fields are fully negative in each task."""
    counts = {name: _negative(fields, task) for name, task in job.map_comparison.tasks.items()}
    return {
        **fields.own_facts(),
        "facts": job.fields.model_dump(mode="json"),
        "folds": job.map_comparison.folds,
        "negative_fields": {name: int(negative.sum()) for name, negative in counts.items()},
    }


def settle_map(bench: MapBench, run: MapRun) -> bool:
    """Do a run, unless it is recorded with these very settings.

    Returns:
        Whether it is recorded now; False if another process is at it.
    """
    if map_record(bench.results, bench.job, run) is not None:
        return True
    try:
        with artifact.lock(bench.fields.work / "locks" / run.name):
            # Another process may have finished it while this one came to the lock.
            if map_record(bench.results, bench.job, run) is None:
                record = _run(bench, run)
                artifact.write_json(record_path(bench.results, run), record)
                shutil.rmtree(_folder(bench, run))
                shown = {name: figures["pxap"] for name, figures in record["figures"].items()}
                _log.info("%s: PxAP %s, %d s", run.name, shown, record["seconds"])
    except OutputBusyError:
        return False
    return True


def map_record(results: Results, job: MapComparisonJob, run: MapRun) -> dict[str, Any] | None:
    """Record of a run if it is there and was made as the job now declares."""
    path = record_path(results, run)
    if not path.exists():
        return None
    record = artifact.read_json(path)
    return record if record.get("digest") == _digest(results, job, run) else None


def record_path(results: Results, run: MapRun) -> Path:
    """File of a run."""
    return results.folder / f"{run.name}.json"


def settings(job: MapComparisonJob, run: MapRun, changes: Mapping[str, Any] | None = None) -> EvidenceTrainingConfig:
    """Settings of a run's training; `changes` are those of what is trained."""
    values = merged(job.evidence_training.model_dump(mode="json"), changes or {})
    values |= {"region": job.map_comparison.tasks[run.task].region, "seed": run.seed, "per_class": False}
    return parse(values, EvidenceTrainingConfig, where=f"map_comparison, run {run.name}")


def field_pixels(store: PatchStore) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of a whole field at the resolution of its store.

    Raises:
        ConfigError: the field has more than one patch.
    """
    if len(store) != 1:
        raise ConfigError(
            f"field {store.slide.slide_id} has {len(store)} patches; raise tiling.patch_px to hold a field"
        )
    frame = store.frame(0)
    # At the far edges the last px of the store may be part white.
    width, height = (int((side + 1e-6) / frame.scale) for side in (store.slide.width_px, store.slide.height_px))
    return store.read(0, (0, 0, width, height)).rgb


def _run(bench: MapBench, run: MapRun) -> dict[str, Any]:
    begun = time.monotonic()
    stores = tiled(bench.fields, bench.job.tiling)
    left_out = bench.fields.folds == run.fold
    task = bench.job.map_comparison.tasks[run.task]
    negative = _negative(bench.fields, task)
    slides = [
        LabelledSlide(bench.fields.ids[k], stores[bench.fields.ids[k]].path, np.array([not negative[k]]))
        for k in np.flatnonzero(~left_out)
    ]
    watched = np.flatnonzero(left_out)
    images = [field_pixels(stores[bench.fields.ids[k]]) for k in watched]
    maps = _learned(bench, run, slides, images)
    boxes = [_boxes(bench, task, int(k)) for k in watched]
    maps |= _bounds(bench, run, images, boxes)
    return {
        "run": asdict(run),
        "digest": _digest(bench.results, bench.job, run),
        "fields": {"trained": len(slides), "trained_negative": sum(slide.negative for slide in slides)}
        | {"mapped": len(watched), "mapped_negative": int(negative[watched].sum())},
        "figures": {name: _rounded(asdict(evidence_figures(found, boxes))) for name, found in maps.items()},
        "seconds": round(time.monotonic() - begun),
        "version": __version__,
    }


def _learned(
    bench: MapBench, run: MapRun, slides: Sequence[LabelledSlide], images: Sequence[NDArray[np.uint8]]
) -> dict[str, list[Map]]:
    """Train, and map the images with every method that learns."""
    folder = _folder(bench, run)
    each = {name: settings(bench.job, run, changes) for name, changes in bench.job.map_comparison.variants.items()}
    machine = each[NEGEV].accelerator
    device = torch.device("cuda" if machine != "cpu" and torch.cuda.is_available() else "cpu")
    maps = {}
    for name in (name for name in each if name != MIL):
        # The second time it is read from the folder.
        model = train_classifier(slides, folder / "classifier", each[NEGEV])
        train_decoder(model, slides, folder / name, each[name])
        maps[name] = _mapped(model, _evidence, images, device)
    over: dict[str, Mapper] = {**MAPPERS, CAM_PROBABILITY: instance_probability}
    maps |= {name: _mapped(model, mapper, images, device) for name, mapper in over.items()}
    instances = train_classifier(slides, folder / MIL, each[MIL])
    return maps | {MIL: _mapped(instances, instance_probability, images, device)}


def _evidence(model: EvidenceModel, images: Tensor, columns: Tensor) -> Tensor:
    with torch.no_grad():
        return model.evidence(images)


def _mapped(
    model: EvidenceModel, mapper: Mapper, images: Sequence[NDArray[np.uint8]], device: torch.device
) -> list[Map]:
    model = model.to(device).eval()
    column = torch.zeros(1, dtype=torch.int64, device=device)
    found = []
    for image in images:
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(device)
        # Interpolation of values in [0, 1] may leave it by rounding.
        found.append(mapper(model, pixels, column)[0].float().clamp(0, 1).cpu().numpy())
    return found


def _bounds(
    bench: MapBench, run: MapRun, images: Sequence[NDArray[np.uint8]], boxes: Sequence[NDArray[np.float64]]
) -> dict[str, list[Map]]:
    """Ceiling and floor."""
    task = bench.job.map_comparison.tasks[run.task]
    trained = [_boxes(bench, task, int(k)) for k in np.flatnonzero(bench.fields.folds != run.fold)]
    sides = np.concatenate([found[:, 2:] - found[:, :2] for found in trained])
    diameter = float(np.median(sides))
    rng = np.random.default_rng([run.seed, run.fold])
    shapes = [image.shape[:2] for image in images]
    return {
        ORACLE: [oracle_map(found, shape, diameter) for found, shape in zip(boxes, shapes, strict=True)],
        RANDOM: [rng.random(shape, dtype=np.float32) for shape in shapes],
    }


def _boxes(bench: MapBench, task: Task, field: int) -> NDArray[np.float64]:
    """Boxes (N, 4) of the cells of a field that count, px of the maps."""
    truth = bench.fields.truths[field]
    counts = np.array([label in task.region for label in truth.labels], bool)
    scale = bench.fields.config.mpp / (bench.job.tiling.mpp or bench.fields.config.mpp)
    return np.asarray(truth.boxes[counts] * scale)


def _negative(fields: LabelledFields, task: Task) -> NDArray[np.bool_]:
    """Fields (F,) without any cell that counts."""
    return np.array([not set(task.region) & set(truth.labels) for truth in fields.truths])


def _digest(results: Results, job: MapComparisonJob, run: MapRun) -> str:
    """Digest of everything that decides a run, but what is left at its default and how it is computed."""
    machine = {"accelerator", "devices", "precision", "threads"}
    made = [
        settings(job, run, changes).model_dump(mode="json", exclude_defaults=True, exclude=machine)
        for changes in job.map_comparison.variants.values()
    ]
    for one in made:
        one.get("bag", {}).pop("workers", None)
    return digest_of(
        {
            "declaration": results.declaration,
            "run": asdict(run),
            "tiling": job.tiling.model_dump(mode="json", exclude_defaults=True),
            "training": made,
        }
    )


def _rounded(figures: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 3) for name, value in figures.items()}


def _folder(bench: MapBench, run: MapRun) -> Path:
    return bench.fields.work / "runs" / f"{run.name}-{_digest(bench.results, bench.job, run)}"
