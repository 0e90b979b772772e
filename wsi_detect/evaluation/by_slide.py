"""Fields of a slide as one image, for what is asked about slides."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth


def by_slide(
    predictions: Sequence[FieldPrediction], truths: Sequence[FieldTruth]
) -> tuple[list[FieldPrediction], list[FieldTruth], NDArray[np.int64]]:
    """Put the fields of each slide side by side, so that a slide is one image; both in the order of the truths.

    Returns:
        Predictions and truths of the slides in the order in which they first occur, and (F,) the slide of each field.
    """
    names = list(dict.fromkeys(str(truth.slide_id) for truth in truths))
    place = {name: number for number, name in enumerate(names)}
    slide = np.array([place[str(truth.slide_id)] for truth in truths], np.int64)
    found, there = [], []
    for number, name in enumerate(names):
        rows = np.flatnonzero(slide == number).tolist()
        shift = np.cumsum([0.0, *(_reach(predictions[row], truths[row]) for row in rows)])
        there.append(_joined_truth(name, [truths[row] for row in rows], shift))
        found.append(_joined_prediction(name, [predictions[row] for row in rows], shift))
    return found, there, slide


def _reach(found: FieldPrediction, truth: FieldTruth) -> float:
    """Width that nothing of an image goes beyond, px, with room to spare."""
    parts = (found.boxes, truth.boxes, truth.ignore)
    return max([float(truth.width), *(float(np.abs(part).max(initial=0.0)) for part in parts)]) * 2 + 1


def _joined_truth(name: str, truths: Sequence[FieldTruth], shift: NDArray[np.float64]) -> FieldTruth:
    boxes = _shifted([truth.boxes for truth in truths], shift)
    ignore = _shifted([truth.ignore for truth in truths], shift)
    labels = [label for truth in truths for label in truth.labels]
    first = truths[0]
    return FieldTruth(name, 0, 0, boxes, labels, ignore, first.patient_id, first.slide_id, mpp=first.mpp)


def _joined_prediction(
    name: str, predictions: Sequence[FieldPrediction], shift: NDArray[np.float64]
) -> FieldPrediction:
    boxes = _shifted([found.boxes for found in predictions], shift)
    scores = np.concatenate([found.scores for found in predictions])
    return replace(
        predictions[0],
        image_id=name,
        boxes=boxes,
        scores=scores,
        labels=[label for found in predictions for label in found.labels],
        class_scores=None,
    )


def _shifted(boxes: Sequence[NDArray[np.float64]], shift: NDArray[np.float64]) -> NDArray[np.float64]:
    moved = [part + np.array([x, 0.0, x, 0.0]) for part, x in zip(boxes, shift, strict=False)]
    return np.concatenate([np.zeros((0, 4)), *moved])
