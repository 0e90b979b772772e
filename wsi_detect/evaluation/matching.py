"""The one matcher: which detection has found which cell. Every metric and every interval stands on it.

It is COCO's rule at one threshold: detections from the highest score down, each takes the free cell it overlaps most if
their IoU reaches the threshold; a detection whose cell is taken (a duplicate) is a false positive; one that is
unmatched but lies by at least the threshold's share of its own area in an area to ignore is left out.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth, paired
from wsi_detect.geometry import box_area, box_intersection, box_iou

UNMATCHED = -1
IGNORED = -2


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Detections of all images in one order, each right or wrong; what curves are drawn from.

    Attributes:
        scores: (D,) descending; equal scores in the order of the images.
        hits: (D,) bool, True where the detection has found a cell nobody found before.
        image: (D,) int64, index of the image.
        cells: (F,) int64, cells to be found in each image.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    image: NDArray[np.int64]
    cells: NDArray[np.int64]

    @property
    def n_cells(self) -> int:
        """Cells to be found in all images."""
        return int(self.cells.sum())


def match(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    truth: NDArray[np.floating],
    ignore: NDArray[np.floating],
    threshold: float = 0.5,
) -> NDArray[np.int64]:
    """Match the detections of one image to its cells.

    Args:
        boxes: (N, 4) xyxy, image px.
        scores: (N,).
        truth: (M, 4) cells.
        ignore: (L, 4) areas to ignore.
        threshold: smallest IoU, in (0, 1].

    Returns:
        (N,) for each detection the row of its cell, `UNMATCHED` or `IGNORED`.
    """
    result = np.full(len(boxes), UNMATCHED, np.int64)
    free = np.ones(len(truth), np.bool_)
    # COCO's tolerance: a perfect box must match at threshold 1.
    limit = min(threshold, 1 - 1e-10)
    near = _neighbours(boxes, truth)
    for row in np.argsort(-np.asarray(scores, np.float64), kind="stable"):
        rows = near.get(int(row))
        if rows is None:
            continue
        rows = rows[free[rows]]
        overlap = box_iou(boxes[row], truth[rows])[0]
        if len(rows) and overlap.max() >= limit:
            # Of equal overlaps the last one, as COCO has it.
            best = rows[np.flatnonzero(overlap == overlap.max())[-1]]
            result[row] = best
            free[best] = False
    alone = np.flatnonzero(result == UNMATCHED)
    if len(alone) and len(ignore):
        area = box_area(boxes[alone])
        inside = box_intersection(boxes[alone], ignore).max(axis=1)
        result[alone[inside >= limit * area]] = IGNORED
    return result


def pool(
    predictions: Collection[FieldPrediction],
    truths: Sequence[FieldTruth],
    labels: Collection[str] | None = None,
    threshold: float = 0.5,
) -> Pool:
    """Match every image and put the detections of all of them in one order.

    Args:
        predictions: at most one an image.
        truths: one an image.
        labels: cells and detections of these classes only, all of them as one class; None takes every one.
        threshold: smallest IoU of a match.
    """
    scores, hits, images, cells = [np.zeros(0)], [np.zeros(0, np.bool_)], [np.zeros(0, np.int64)], []
    for index, (found, truth) in enumerate(zip(paired(predictions, truths), truths, strict=True)):
        wanted = truth.boxes[_of(truth.labels, labels)]
        mine = _of(found.labels, labels)
        matches = match(found.boxes[mine], found.scores[mine], wanted, truth.ignore, threshold)
        counted = matches != IGNORED
        scores.append(found.scores[mine][counted].astype(np.float64))
        hits.append(matches[counted] != UNMATCHED)
        images.append(np.full(int(counted.sum()), index, np.int64))
        cells.append(len(wanted))
    pooled = np.concatenate(scores)
    order = np.argsort(-pooled, kind="stable")
    return Pool(pooled[order], np.concatenate(hits)[order], np.concatenate(images)[order], np.array(cells, np.int64))


def merge_labels(prediction: FieldPrediction, threshold: float = 0.5) -> FieldPrediction:
    """Keep one label for each cell: of overlapping detections of *different* classes the higher score stays.

    A detector that suppresses within classes can name one nucleus NILM and LSIL at once; asked about the cell whatever
    its class, or whether it is abnormal, only one of them may count. Detections of one class are left alone: two of
    them on one cell are a duplicate, which is the detector's fault.

    Args:
        prediction: detections of one image.
        threshold: smallest IoU of boxes that mean the same cell.
    """
    order = np.argsort(-prediction.scores, kind="stable")
    near = _neighbours(prediction.boxes, prediction.boxes)
    kept = np.zeros(len(order), np.bool_)
    labels = np.asarray(prediction.labels, dtype=object)
    for row in order:
        rows = near.get(int(row), np.zeros(0, np.int64))
        rivals = rows[kept[rows] & (labels[rows] != labels[row])]
        kept[row] = not (box_iou(prediction.boxes[row], prediction.boxes[rivals]) >= threshold).any()
    return prediction.take(np.asarray(order[kept[order]], np.int64))


def _of(found: Sequence[str], wanted: Collection[str] | None) -> NDArray[np.bool_]:
    return np.array([wanted is None or name in wanted for name in found], np.bool_)


def _neighbours(boxes: NDArray[np.floating], others: NDArray[np.floating]) -> dict[int, NDArray[np.int64]]:
    """Rows of `others` each box touches, ascending. A tree, because a slide has too many cells for a full matrix."""
    if not len(boxes) or not len(others):
        return {}
    tree = shapely.STRtree(shapely.box(*np.asarray(others, np.float64).T))
    rows, columns = tree.query(shapely.box(*np.asarray(boxes, np.float64).T))
    if not len(rows):
        return {}
    order = np.lexsort((columns, rows))
    found, start = np.unique(rows[order], return_index=True)
    groups = np.split(columns[order].astype(np.int64), start[1:])
    return {int(row): group for row, group in zip(found, groups, strict=True)}
