"""Hit@k: of the slides with an abnormal cell, how many show one among the first k crops of the gallery.

A screener who looks at k pictures of a slide needs one that is right, not all of them. The answer is a share of slides
(or fields), so that a slide with a thousand abnormal cells weighs as much as one with a single one.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.columns import Columns, Index, lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import UNMATCHED, ask
from wsi_detect.taxonomy import gravity, is_abnormal

#: In which order the detections of an image are looked at: keys for `numpy.lexsort` from their gravity and their place
#: from the highest score down. By `gravity` is the order of the report's gallery: the gravest class first.
RANKINGS: dict[str, Callable[[Index, Index], tuple[Index, ...]]] = {
    "score": lambda gravities, places: (places,),
    "gravity": lambda gravities, places: (places, -gravities),
}
_NEVER = np.iinfo(np.int64).max


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
    return first_hits_in(lay_out(predictions, truths, merge_iou, floor=threshold), ranking=ranking, threshold=threshold)


def first_hits_in(
    columns: Columns, of_image: Index | None = None, *, ranking: str = "score", threshold: float = 0.5
) -> FirstHits:
    """Do what `first_hits` does with columns, which know at which IoU labels are merged.

    Args:
        columns: predictions and truth.
        of_image: (F,) number from 0 of each image's slide, where images are fields of slides and the slide has one
            gallery; None where each has its own.
        ranking: one of `RANKINGS`.
        threshold: smallest IoU of a match.
    """
    of_image = np.arange(columns.images) if of_image is None else of_image
    slides = int(of_image.max(initial=-1)) + 1
    gravities = np.array([gravity(name) for name in columns.names], np.int64)
    question = ask(columns, {"": [name for name in columns.names if is_abnormal(name)]}, merge=True)
    matches, is_cell = question.taken(threshold)
    detections, cells, rows = columns.detections, columns.cells, question.rows
    keys = RANKINGS[ranking](gravities[detections.label[rows]], detections.place[rows])
    rows = rows[np.lexsort((*keys, of_image[detections.image[rows]]))]
    match = matches[rows]
    hit = match != UNMATCHED
    rows, match, hit = (part[~hit | np.append(is_cell, False)[match]] for part in (rows, match, hit))
    slide = of_image[detections.image[rows]]
    there = np.flatnonzero(is_cell)
    worst = np.full(slides, -1)
    np.maximum.at(worst, of_image[cells.image[there]], gravities[cells.label[there]])
    grave = hit.copy()
    grave[hit] = gravities[cells.label[match[hit]]] == worst[slide[hit]]
    return FirstHits(worst >= 0, _first(slide, hit, slides), _first(slide, grave, slides))


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


def _first(slide: Index, true: NDArray[np.bool_], slides: int) -> Index:
    """Place from 1 of the first true one of each slide, 0 without one: (S,); `slide` (K,) is ascending."""
    places = np.arange(len(slide)) - np.searchsorted(slide, slide) + 1
    first = np.full(slides, _NEVER)
    np.minimum.at(first, slide[true], places[true])
    return np.where(first == _NEVER, 0, first)
