"""What is compared: the labelled cells of an image and what a detector found in it; labelled fields from COCO."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.errors import LabelError, NonFiniteError
from wsi_detect.taxonomy import CLASSES


def _no_boxes() -> NDArray[np.float64]:
    return np.zeros((0, 4), np.float64)


@dataclass(frozen=True, slots=True)
class FieldTruth:
    """The labelled cells of one image: a field, a patch or a whole slide.

    Attributes:
        image_id: unique within an evaluation.
        width: of the image, px.
        height: of the image, px.
        boxes: (N, 4) xyxy, image px.
        labels: N taxonomy names.
        ignore: (M, 4) areas where a detection is neither right nor wrong, image px.
        patient_id, slide_id, field_id: what the image is part of, None where nobody knows; a field is itself, unless
            several images were cut from it.
        mpp: µm per px of the image, None where nobody knows.
        roi: polygons the labels are complete in, image px; None for all of the image.
    """

    image_id: str
    width: int
    height: int
    boxes: NDArray[np.float64]
    labels: list[str]
    ignore: NDArray[np.float64] = field(default_factory=_no_boxes)
    patient_id: str | None = None
    slide_id: str | None = None
    field_id: str | None = None
    mpp: float | None = None
    roi: shapely.Geometry | None = None


@dataclass(frozen=True, slots=True)
class FieldPrediction:
    """What a detector found in one image.

    Attributes:
        image_id: of the `FieldTruth` it belongs to.
        boxes: (N, 4) xyxy, image px.
        scores: (N,) in [0, 1].
        labels: N taxonomy names.
        class_scores: (N, K) in [0, 1], if the detector gives them.
    """

    image_id: str
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: list[str]
    class_scores: NDArray[np.float64] | None = None

    def take(self, rows: NDArray[np.int64]) -> "FieldPrediction":
        """Return some of the detections, in the order of `rows`."""
        scores = None if self.class_scores is None else self.class_scores[rows]
        labels = [self.labels[row] for row in rows]
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=labels, class_scores=scores)


class FieldDetector(Protocol):
    """Anything that finds cells in a whole image."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Taxonomy names it can answer with."""
        ...

    def __call__(self, image: NDArray[np.uint8]) -> FieldPrediction:
        """Image (H, W, 3) uint8 RGB → cells in image px; the caller sets `image_id`."""
        ...


def check_finite(prediction: FieldPrediction) -> None:
    """Refuse detections a metric would silently misread.

    Raises:
        NonFiniteError: a box or a score is NaN or infinite.
    """
    if not (np.isfinite(prediction.boxes).all() and np.isfinite(prediction.scores).all()):
        raise NonFiniteError(f"image {prediction.image_id}: a detection has a box or a score that is not finite")


def paired(predictions: Collection[FieldPrediction], truths: Collection[FieldTruth]) -> list[FieldPrediction]:
    """Return one prediction for each truth, in the order of the truths; an image without one has found nothing.

    Raises:
        LabelError: two truths or two predictions of one image, or a prediction of an unknown image.
        NonFiniteError: a box or a score is NaN or infinite.
    """
    known = {truth.image_id for truth in truths}
    found = {prediction.image_id: prediction for prediction in predictions}
    if len(known) != len(truths) or len(found) != len(predictions):
        raise LabelError("an image occurs twice in the truth or in the predictions")
    if set(found) - known:
        raise LabelError(f"prediction of an image that has no truth: {min(set(found) - known)}")
    for prediction in predictions:
        check_finite(prediction)
    return [found.get(t.image_id) or FieldPrediction(t.image_id, _no_boxes(), np.zeros(0), []) for t in truths]


def read_fields(coco: Path, names: Collection[str] = tuple(CLASSES)) -> list[FieldTruth]:
    """Read labelled fields from a COCO file; `image_id` is the file name, crowds become areas to ignore.

    An entry of `images` may also state `patient_id`, `slide_id` and `field_id` (what to resample by; pseudonyms, since
    they are written into the artefact), `mpp` (µm per px), and `roi`: polygons [x, y, x, y, …] inside which the labels
    are complete, image px.

    Args:
        coco: the file.
        names: that categories may have; the taxonomy's, unless methods are compared on what it has no names for.

    Raises:
        LabelError: not a COCO file, a box without area, a used category that has none of the names, an mpp that is not
            positive, or a ROI that is no valid polygon.
    """
    try:
        content = json.loads(coco.read_bytes())
        known = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        by_image: dict[Any, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
        for entry in content["annotations"]:
            by_image[entry["image_id"]].append(entry)
        _check_categories({known[entry["category_id"]] for entry in content["annotations"]}, names, coco)
        return [_field(entry, by_image[entry["id"]], known) for entry in content["images"]]
    except OSError as error:
        raise LabelError(f"cannot read {coco}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, LabelError):
            raise
        raise LabelError(f"{coco} is not a COCO file of boxes: {error!r}") from error


def _check_categories(used: set[str], names: Collection[str], coco: Path) -> None:
    unknown = sorted(used - set(names))
    if unknown:
        where = "taxonomy" if set(names) == set(CLASSES) else "data card"
        raise LabelError(
            f"{coco}: categories not in the {where}: {', '.join(unknown)}; rename them to {where} names "
            f"({', '.join(names)}) so that they can be compared by name"
        )


def _field(image: dict[str, Any], entries: list[dict[str, Any]], names: dict[Any, str]) -> FieldTruth:
    cells = [entry for entry in entries if not entry.get("iscrowd")]
    crowds = [entry for entry in entries if entry.get("iscrowd")]
    return FieldTruth(
        str(image["file_name"]),
        int(image["width"]),
        int(image["height"]),
        _boxes(cells),
        [names[entry["category_id"]] for entry in cells],
        _boxes(crowds),
        patient_id=_text(image, "patient_id"),
        slide_id=_text(image, "slide_id"),
        field_id=_text(image, "field_id"),
        mpp=_mpp(image),
        roi=_roi(image),
    )


def _text(image: dict[str, Any], name: str) -> str | None:
    return None if image.get(name) is None else str(image[name])


def _mpp(image: dict[str, Any]) -> float | None:
    mpp = image.get("mpp")
    if mpp is not None and not 0 < float(mpp) < float("inf"):
        raise LabelError(f"image {image['file_name']}: mpp {mpp!r} is not a positive number of µm per px")
    return None if mpp is None else float(mpp)


def _roi(image: dict[str, Any]) -> shapely.Geometry | None:
    if not image.get("roi"):
        return None
    try:
        parts = [shapely.Polygon(np.array(ring, np.float64).reshape(-1, 2)) for ring in image["roi"]]
    except (ValueError, shapely.errors.GEOSException) as error:
        raise LabelError(f"image {image['file_name']}: roi is not a list of polygons: {error}") from error
    if not all(part.is_valid and part.area > 0 for part in parts):
        raise LabelError(f"image {image['file_name']}: a polygon of its roi crosses itself or has no area")
    return shapely.union_all(parts)


def _boxes(entries: list[dict[str, Any]]) -> NDArray[np.float64]:
    corners = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    if not np.isfinite(corners).all() or (corners[:, 2:] <= 0).any():
        raise LabelError(f"a box without area among annotations {[entry.get('id') for entry in entries][:3]} …")
    corners[:, 2:] += corners[:, :2]
    return corners
