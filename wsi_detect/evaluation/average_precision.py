"""Average precision at IoU 0.5 under COCO's rules: 101 recall points, areas to ignore as crowds, all detections.

`ap50` is faster-coco-eval's number. `average_precision` computes the same from a `Pool`; it exists because intervals
need it under resampled images, where one matching serves every replicate, and because a slide with 100,000 cells is too
much for a full matrix of overlaps.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import MissingExtraError
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth, paired
from wsi_detect.evaluation.matching import Pool, merge_labels

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
        MissingExtraError: faster-coco-eval is not installed.
        NonFiniteError: a box or a score is NaN or infinite.
    """
    ordered = paired(predictions, truths)
    result = _coco_ap(ordered, truths, {name: {name} for name in classes})
    merged = [merge_labels(prediction, merge_iou) for prediction in ordered]
    result |= {"mean": mean(result.values())}
    return result | _coco_ap(merged, truths, {_AGNOSTIC: None})


def mean(values: Collection[float | None]) -> float | None:
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
    right = np.cumsum(count * pool.hits)
    total = np.cumsum(count)
    precision = right / np.maximum(total, np.spacing(1))
    # The envelope: the best precision at this recall or any higher one.
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(envelope[np.searchsorted(right / cells, _RECALLS, side="left")].mean())


def _coco_ap(
    predictions: Sequence[FieldPrediction], truths: Sequence[FieldTruth], groups: dict[str, set[str] | None]
) -> dict[str, float | None]:
    """AP50 of groups of labels, each group one COCO category; None as a group is every label."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("average precision", "eval") from error
    content, results = to_coco(predictions, truths, groups)
    if not groups:
        return {}
    truth = COCO(content)
    job = COCOeval_faster(truth, truth.loadRes(results), "bbox")
    job.params.iouThrs = np.array([0.5])
    job.params.areaRng, job.params.areaRngLbl = [[0, 1e12]], ["all"]
    job.params.maxDets = [max(1, max((len(p.scores) for p in predictions), default=1))]
    job.evaluate()
    job.accumulate()
    # (thresholds, recalls, categories, areas, limits); -1 where there is no truth.
    precision = np.asarray(job.eval["precision"])[0, :, :, 0, 0]
    return {
        name: float(column.mean()) if (column > -1).all() else None
        for name, column in zip(groups, precision.T, strict=True)
    }


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


def _corner(box: NDArray[np.floating]) -> list[float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return [x0, y0, x1 - x0, y1 - y0]
