"""The stage evaluate: a detector against labelled fields of any size, or the cells of slides against annotations."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from wsi_detect import artifact
from wsi_detect.errors import LabelError, NonFiniteError
from wsi_detect.evaluation.average_precision import ap50
from wsi_detect.evaluation.fields import FieldDetector, FieldPrediction, FieldTruth, check_finite, read_fields
from wsi_detect.evaluation.figures import EvaluationConfig, make_pools, with_intervals
from wsi_detect.schema import ANNOTATIONS, BOX_COLUMNS, CELLS, METRICS
from wsi_detect.taxonomy import gravest_first

if TYPE_CHECKING:
    from wsi_detect.detectors.info import DetectorInfo

_log = logging.getLogger(__name__)

METRICS_FILE = "metrics.parquet"


class _PatchDetections(Protocol):
    # What `inference.Detections` looks like from here; this room lies below that one.
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_scores: NDArray[np.float32]

    def is_finite(self) -> bool: ...


class _PatchDetector(Protocol):
    @property
    def info(self) -> "DetectorInfo": ...

    def __call__(self, patches: NDArray[np.uint8]) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class WholeImage:
    """A patch detector shown whole images of any size, one at a time."""

    detector: _PatchDetector

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the model."""
        return tuple(self.detector.info.classes)

    def __call__(self, image: NDArray[np.uint8]) -> FieldPrediction:
        """Image (H, W, 3) uint8 RGB → cells in image px.

        Raises:
            NonFiniteError: the network gave a value that is not finite.
        """
        found: _PatchDetections = self.detector(image[None])[0]
        if not found.is_finite():
            raise NonFiniteError("the model gave a value that is not finite")
        labels = [self.classes[k] for k in found.labels]
        boxes, scores = found.boxes.astype(np.float64), found.scores.astype(np.float64)
        return FieldPrediction("", boxes, scores, labels, found.class_scores.astype(np.float64))


def predict_fields(
    detector: FieldDetector, truths: Sequence[FieldTruth], images: Path, rescale: float = 1.0
) -> tuple[list[FieldPrediction], list[FieldTruth]]:
    """Show a detector every field.

    Args:
        detector: takes a whole image.
        truths: fields whose `image_id` is a file name.
        images: folder of the files.
        rescale: resize images and boxes by this factor first.

    Returns:
        Predictions, and the truth in the px they are in (the truth given, if nothing was rescaled).

    Raises:
        LabelError: a file is missing, or is not of the size the truth says.
        NonFiniteError: the detector gave a box or a score that is not finite.
    """
    predictions, scaled = [], []
    for number, truth in enumerate(truths, start=1):
        pixels, field = _load(truth, images, rescale)
        found = replace(detector(pixels), image_id=truth.image_id)
        check_finite(found)
        predictions.append(found)
        scaled.append(field)
        _log.debug("field %d of %d: %d cells", number, len(truths), len(found.scores))
    return predictions, scaled


def evaluate_fields(
    detector: FieldDetector, coco: Path, images: Path, config: EvaluationConfig | None = None
) -> dict[str, float | None]:
    """Evaluate a detector on labelled fields; one forward for each whole image.

    Classes are matched by name. A class the truth does not have is None. A class the detector does not know has average
    precision 0: its cells were not found under their name.

    Args:
        detector: takes a whole image; `WholeImage(detector)` for a model bundle that was loaded.
        coco: truth, a COCO file whose categories are taxonomy names.
        images: folder of its files.
        config: how to evaluate.

    Returns:
        `ap50/<class>`, `ap50/mean` (over the classes of the truth), `ap50/agnostic`, `recall@<n>fppi/any_abnormal`,
        `n/<class>`; for each figure `ci_low/…`, `ci_high/…` and `ci_undefined/…`, the number of replicates in which it
        had no value; and `images`.

    Raises:
        LabelError: the truth is not usable, or a file is missing or of another size.
        NonFiniteError: the detector gave a box or a score that is not finite.
        MissingExtraError: faster-coco-eval is not installed.
    """
    config = config or EvaluationConfig()
    truths = read_fields(coco)
    if not truths:
        raise LabelError(f"{coco} names no image")
    return evaluate_predictions(*predict_fields(detector, truths, images, config.rescale), detector.classes, config)


def evaluate_predictions(
    predictions: Sequence[FieldPrediction],
    truths: Sequence[FieldTruth],
    classes: Sequence[str],
    config: EvaluationConfig,
) -> dict[str, float | None]:
    """Compute the figures of `evaluate_fields` from predictions already made; `classes` are the detector's."""
    names = gravest_first({*classes, *(label for truth in truths for label in truth.labels)})
    pools = make_pools(predictions, truths, names, config.merge_iou)
    values = pools.figures(config.false_positives)
    values |= {f"ap50/{name}": value for name, value in ap50(predictions, truths, names, config.merge_iou).items()}
    result: dict[str, float | None] = {"images": len(truths)}
    result |= {f"n/{name}": number for name, number in pools.counts().items()}
    for name, (value, interval) in with_intervals(values, pools, config).items():
        result[name] = value
        if config.replicates:
            defined = value is not None
            result[f"ci_low/{name}"] = interval.low if defined else None
            result[f"ci_high/{name}"] = interval.high if defined else None
            result[f"ci_undefined/{name}"] = interval.undefined
    return result


def evaluate_cells(
    cells: Sequence[Path],
    annotations: Path,
    out: Path,
    config: EvaluationConfig | None = None,
    *,
    slides: Collection[str] | None = None,
) -> Path:
    """Evaluate the cells of slides against experts' annotations; the image of every figure is a slide.

    Args:
        cells: one `cells.parquet` a slide.
        annotations: table of `schema.ANNOTATIONS`.
        out: folder for `metrics.parquet`.
        config: how to evaluate; `rescale` has no meaning here.
        slides: ids of the slides that were annotated throughout; None takes those that have an annotation. Name them
            where a slide was annotated and has no cell, or its false positives are not counted.

    Returns:
        Path of the table, rows of `schema.METRICS`.

    Raises:
        LabelError: the annotations have no row.
        MissingArtifactError: a table is missing.
    """
    config = config or EvaluationConfig()
    labelled = artifact.read_table(annotations, ANNOTATIONS)
    if not labelled.num_rows:
        raise LabelError(f"{annotations} has no annotation to evaluate against")
    found = pa.concat_tables([artifact.read_table(path, CELLS).replace_schema_metadata() for path in cells])
    taking_part = sorted(set(labelled["slide_id"].to_pylist()) if slides is None else set(slides))
    truths, predictions = [], []
    for slide in taking_part:
        boxes, rows = _slide_rows(labelled, slide)
        truths.append(FieldTruth(slide, 0, 0, boxes, rows["label"].to_pylist()))
        boxes, rows = _slide_rows(found, slide)
        scores = rows["score"].to_numpy().astype(np.float64)
        predictions.append(FieldPrediction(slide, boxes, scores, rows["label"].to_pylist()))
    left_out = set(found["slide_id"].to_pylist()) - set(taking_part)
    if left_out:
        _log.warning("%d slides are not annotated and are left out", len(left_out))
    names = gravest_first({*labelled["label"].to_pylist(), *found["label"].to_pylist()})
    pools = make_pools(predictions, truths, names, config.merge_iou)
    figures = with_intervals(pools.figures(config.false_positives), pools, config)
    rows = [_metric(name, value, interval, pools.counts()) for name, (value, interval) in figures.items()]
    artifact.write_table(out / METRICS_FILE, artifact.table_of(rows, METRICS), METRICS)
    return out / METRICS_FILE


def _metric(name: str, value: float | None, interval: Any, counts: dict[str, int]) -> dict[str, Any]:
    """One row of METRICS: `threshold` is the IoU of an AP, the false positives per image of a recall."""
    metric, label = name.split("/", 1)
    threshold = 0.5
    if metric.startswith("recall@"):
        metric, threshold = "recall", float(metric.removeprefix("recall@").removesuffix("fppi"))
    number = counts.get(label, counts["agnostic"])
    low, high = (interval.low, interval.high) if value is not None else (None, None)
    entry = {"metric": metric, "label": label, "threshold": threshold, "value": value}
    return {**entry, "ci_low": low, "ci_high": high, "n": number}


def _slide_rows(table: pa.Table, slide: str) -> tuple[NDArray[np.float64], pa.Table]:
    rows = table.filter(pc.equal(table["slide_id"], slide))
    boxes = np.column_stack([rows[name].to_numpy() for name in BOX_COLUMNS]).reshape(-1, 4).astype(np.float64)
    return boxes, rows


def _load(truth: FieldTruth, images: Path, rescale: float) -> tuple[NDArray[np.uint8], FieldTruth]:
    path = images / truth.image_id
    if not path.is_file():
        raise LabelError(f"{path} is named in the truth and does not exist; is --images the right folder?")
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.size != (truth.width, truth.height):
        raise LabelError(
            f"{path} is {image.width} x {image.height} px, the truth says {truth.width} x {truth.height}; "
            "its boxes would lie in the wrong place"
        )
    if rescale == 1.0:
        return np.asarray(image), truth
    size = (max(1, round(image.width * rescale)), max(1, round(image.height * rescale)))
    # Both axes by what they really became, so that boxes stay on their cells.
    factor = np.array([size[0] / image.width, size[1] / image.height] * 2)
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=None))
    scaled = replace(
        truth, width=size[0], height=size[1], boxes=truth.boxes * factor, ignore=truth.ignore * factor
    )  # fmt: skip
    return pixels, scaled
