"""Hit@k: of the slides with an abnormal cell, how many show one among the first k crops of the gallery.

A screener who looks at k pictures of a slide needs one that is right, not all of them. The answer is a share of slides
(or fields), so that a slide with a thousand abnormal cells weighs as much as one with a single one.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth, paired
from wsi_detect.evaluation.matching import IGNORED, UNMATCHED, match, merge_labels
from wsi_detect.taxonomy import gravity, is_abnormal


def by_score(found: FieldPrediction) -> NDArray[np.int64]:
    """Highest score first, whatever the class."""
    return np.argsort(-found.scores, kind="stable").astype(np.int64)


def by_gravity(found: FieldPrediction) -> NDArray[np.int64]:
    """Gravest class first, within one gravity the highest score: the order of the report's gallery."""
    gravities = np.array([gravity(name) for name in found.labels], np.int64)
    return np.lexsort((-found.scores, -gravities)).astype(np.int64)


#: In which order detections are looked at: rows of the prediction, the first to be looked at first.
RANKINGS: dict[str, Callable[[FieldPrediction], NDArray[np.int64]]] = {"score": by_score, "gravity": by_gravity}


@dataclass(frozen=True, slots=True, eq=False)
class FirstHits:
    """How far down each image's list its first true cell stands.

    Attributes:
        asked: (F,) bool, whether the image has an abnormal cell; the others have nothing to show.
        abnormal: (F,) int64, place from 1 of the first detection that lies on an abnormal cell, 0 if none does.
        gravest: (F,) int64, the same of one that lies on a cell of the gravest class the image has.
    """

    asked: NDArray[np.bool_]
    abnormal: NDArray[np.int64]
    gravest: NDArray[np.int64]


def first_hits(
    predictions: Collection[FieldPrediction],
    truths: Sequence[FieldTruth],
    *,
    ranking: str = "score",
    merge_iou: float = 0.5,
    threshold: float = 0.5,
) -> FirstHits:
    """Go down each image's abnormal detections to the first that is true.

    The abnormal labels of one cell are merged; a detection is true if it has found an abnormal cell, whatever abnormal
    class it called it. Of two classes of one gravity either is the gravest. Detections in an area to ignore take no
    place.

    Args:
        predictions: at most one an image.
        truths: one an image, a slide or a field.
        ranking: one of `RANKINGS`.
        merge_iou: see `matching.merge_labels`.
        threshold: smallest IoU of a match.
    """
    places = []
    for found, truth in zip(paired(predictions, truths), truths, strict=True):
        suspects = merge_labels(found.take(_abnormal(found.labels)), merge_iou)
        cells = _abnormal(truth.labels)
        matches = match(suspects.boxes, suspects.scores, truth.boxes[cells], truth.ignore, threshold)
        ranked = matches[RANKINGS[ranking](suspects)]
        ranked = ranked[ranked != IGNORED]
        gravities = np.array([gravity(truth.labels[row]) for row in cells], np.int64)
        gravest = np.flatnonzero(gravities == gravities.max(initial=0))
        places.append((len(cells) > 0, _first(ranked != UNMATCHED), _first(np.isin(ranked, gravest))))
    asked, abnormal, grave = np.array(places, np.int64).reshape(-1, 3).T
    return FirstHits(asked.astype(np.bool_), abnormal, grave)


def hit_at(
    places: NDArray[np.int64], asked: NDArray[np.bool_], k: int, weights: NDArray[np.floating] | None = None
) -> float | None:
    """Share of the images with an abnormal cell whose first true detection is among the first k.

    Args:
        places: (F,) `abnormal` or `gravest` of `FirstHits`.
        asked: (F,) of `FirstHits`.
        k: crops that are looked at.
        weights: (F,) how often each image counts; None counts each once.

    Returns:
        In [0, 1]; None without such an image.
    """
    often = asked.astype(np.float64) if weights is None else weights * asked
    total = float(often.sum())
    return float(often @ ((places > 0) & (places <= k)) / total) if total else None


def _abnormal(labels: Sequence[str]) -> NDArray[np.int64]:
    return np.flatnonzero([is_abnormal(name) for name in labels]).astype(np.int64)


def _first(true: NDArray[np.bool_]) -> int:
    return int(true.argmax()) + 1 if true.any() else 0
