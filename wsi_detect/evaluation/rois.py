"""Metrics count inside the ROIs of an image alone: what its centre puts outside is neither right nor wrong.

The same rule for cells and detections, so that a cell on the outline is judged once, by where its middle lies. A point
on the outline is inside.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth, paired


def inside(boxes: NDArray[np.float64], roi: shapely.Geometry | None) -> NDArray[np.bool_]:
    """Which boxes (N, 4) have their centre in a ROI, in the px of the boxes; all of them without one."""
    if roi is None or not len(boxes):
        return np.ones(len(boxes), np.bool_)
    shapely.prepare(roi)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return np.asarray(shapely.intersects_xy(roi, centres), np.bool_)


def keep_inside(
    predictions: Sequence[FieldPrediction], truths: Sequence[FieldTruth]
) -> tuple[list[FieldPrediction], list[FieldTruth]]:
    """Leave out cells and detections whose centre is outside the ROI of their image; areas to ignore stay.

    Returns:
        Predictions, one a truth, and truths.

    Raises:
        LabelError: predictions and truths are not of the same images.
        NonFiniteError: a box or a score is NaN or infinite.
    """
    found, there = [], []
    for prediction, truth in zip(paired(predictions, truths), truths, strict=True):
        kept = np.flatnonzero(inside(truth.boxes, truth.roi))
        found.append(prediction.take(np.flatnonzero(inside(prediction.boxes, truth.roi))))
        there.append(replace(truth, boxes=truth.boxes[kept], labels=[truth.labels[row] for row in kept]))
    return found, there
