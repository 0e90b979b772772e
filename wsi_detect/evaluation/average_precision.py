"""Average precision under COCO's rules: 101 recall points, IoU 0.5 to 0.95, sizes, areas to ignore as crowds.

Everything is pycocotools' number, to rounding (Lin et al. 2014, Microsoft COCO; `cocoeval.py`). Classes are grouped by
how many training examples they had as LVIS does (Gupta, Dollár and Girshick 2019, section 3).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.columns import Columns, lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import Pool, Question, Within, ask

#: IoU at which COCO's AP is averaged.
THRESHOLDS = tuple(float(value) for value in np.linspace(0.5, 0.95, 10))
#: COCO's ranges of box area, px².
COCO_AREAS = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
#: Groups of classes by training examples; LVIS counts images, and calls up to 10 rare and up to 100 common.
FREQUENCIES = ("rare", "common", "frequent")

_RECALLS = np.linspace(0.0, 1.0, 101)
_AGNOSTIC = "agnostic"


def ap50(
    predictions: Collection[FieldPrediction],
    truths: Sequence[FieldTruth],
    classes: Sequence[str],
    merge_iou: float = 0.5,
) -> dict[str, float | None]:
    """Average precision at IoU 0.5.

    Args:
        predictions: at most one an image; labels outside `classes` count for `agnostic` only.
        truths: one an image.
        classes: taxonomy names to report.
        merge_iou: for `agnostic`, see `matching.merge_labels`.

    Returns:
        Each class, None where the truth has none of it; `mean` over the classes the truth has; `agnostic`, all cells
        as one class after merging the labels of one cell.

    Raises:
        LabelError: two truths or two predictions of one image, or a prediction of an unknown image.
        NonFiniteError: a box or a score is NaN or infinite.
    """
    columns = lay_out(predictions, truths, merge_iou)
    pools = ask(columns, {name: {name} for name in classes}).pools()
    result = {name: average_precision(found) for name, found in pools.items()}
    result["mean"] = mean(result.values())
    every = ask(columns, {_AGNOSTIC: columns.names}, merge=True).pools()
    return result | {_AGNOSTIC: average_precision(every[_AGNOSTIC])}


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are defined, None if none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def average_precision(pool: Pool, weights: NDArray[np.floating] | None = None) -> float | None:
    """Average precision of pooled detections; equals COCO's.

    Args:
        pool: matched detections.
        weights: (F,) how often each image counts; None counts each once.

    Returns:
        The interpolated precision averaged over recall 0, 0.01 … 1; None without a cell to find.
    """
    cells = pool.n_cells if weights is None else float(pool.cells @ weights)
    if not cells:
        return None
    count = np.ones(len(pool.scores)) if weights is None else weights[pool.image]
    return interpolated(np.cumsum(count * pool.hits), np.cumsum(count), cells)


def interpolated(right: NDArray[np.floating], total: NDArray[np.floating], cells: float) -> float:
    """Precision averaged over COCO's recall points.

    Args:
        right: (D,) cells found down to each detection.
        total: (D,) detections down to each.
        cells: to be found, not 0.
    """
    precision = right / np.maximum(total, np.spacing(1))
    # The envelope: the best precision at this recall or any higher one.
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(right / cells, _RECALLS, side="left")].mean())


def precision_recall(pool: Pool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and COCO's precision envelope, (101,) each; precision 0 where that recall is never reached."""
    right, total = np.cumsum(pool.hits), np.arange(1, len(pool.hits) + 1)
    envelope = np.append(np.maximum.accumulate((right / total)[::-1])[::-1], 0.0)
    return _RECALLS, envelope[np.searchsorted(right / max(pool.n_cells, 1), _RECALLS, side="left")]


def coco_ap(question: Question, within: Within | None = None) -> dict[str, float | None]:
    """COCO's AP, the mean of AP at IoU 0.5, 0.55 … 0.95, of each group of a question; None without a cell of it."""
    found: dict[str, list[float | None]] = {name: [] for name in question.names}
    for threshold in THRESHOLDS:
        for name, pool in question.pools(threshold, within).items():
            found[name].append(average_precision(pool))
    return {name: mean(values) for name, values in found.items()}


def size_ranges(
    columns: Columns, truths: Sequence[FieldTruth], ranges_um: Mapping[str, tuple[float, float]]
) -> dict[str, Within]:
    """COCO's ranges of area in px², and declared ranges of side in µm.

    Args:
        columns: of these truths.
        truths: one an image; all must state their mpp, or no range in µm is given.
        ranges_um: name → smallest and largest side of a cell, the root of its box's area, µm; both ends belong to it.

    Returns:
        Name → range; `coco small`, `coco medium`, `coco large`, then the declared names.
    """
    found, cells = (_areas(boxes) for boxes in (columns.detections.boxes, columns.cells.boxes))
    ranges = {f"coco {name}": Within(found, cells, *limits) for name, limits in COCO_AREAS.items()}
    if ranges_um and all(truth.mpp for truth in truths):
        mpp = np.array([truth.mpp for truth in truths], np.float64)
        sides = np.sqrt(found) * mpp[columns.detections.image], np.sqrt(cells) * mpp[columns.cells.image]
        ranges |= {name: Within(*sides, *limits) for name, limits in ranges_um.items()}
    return ranges


def by_frequency(
    values: Mapping[str, float | None], training: Mapping[str, int], limits: tuple[int, int] = (10, 100)
) -> dict[str, float | None]:
    """Mean over the classes that were rare, common and frequent in training; None for a group without a class.

    Args:
        values: class → AP, None where the truth has no cell of it.
        training: class → training images (LVIS) or cells, as declared; classes not named belong to no group.
        limits: most examples of a rare and of a common class.
    """
    group = frequency_groups(training, limits)
    return {name: mean(v for label, v in values.items() if group.get(label) == name) for name in FREQUENCIES}


def frequency_groups(training: Mapping[str, int], limits: tuple[int, int] = (10, 100)) -> dict[str, str]:
    """Class → `rare`, `common` or `frequent`, by how many training examples it had; arguments as in `by_frequency`."""
    return {name: FREQUENCIES[int(np.searchsorted(limits, number, side="left"))] for name, number in training.items()}


def to_coco(
    predictions: Sequence[FieldPrediction], truths: Sequence[FieldTruth], groups: dict[str, set[str] | None]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return truth and results as COCO has them: images from 1, categories from 1 in the order of `groups`."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (found, truth) in enumerate(zip(predictions, truths, strict=True), start=1):
        images.append({"id": image, "width": truth.width, "height": truth.height})
        for category, members in enumerate(groups.values(), start=1):
            key = {"image_id": image, "category_id": category}
            inside = [members is None or name in members for name in truth.labels]
            for crowd, boxes in ((0, truth.boxes[np.array(inside, np.bool_)]), (1, truth.ignore)):
                for box in boxes:
                    corner = _corner(box)
                    area = corner[2] * corner[3]
                    entry = {"id": len(annotations) + 1, "bbox": corner, "area": area, "iscrowd": crowd}
                    annotations.append({**key, **entry})
            for box, score, name in zip(found.boxes, found.scores, found.labels, strict=True):
                if members is None or name in members:
                    results.append({**key, "bbox": _corner(box), "score": float(score)})
    categories = [{"id": category, "name": name} for category, name in enumerate(groups, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}, results


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _corner(box: NDArray[np.floating]) -> list[float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return [x0, y0, x1 - x0, y1 - y0]
