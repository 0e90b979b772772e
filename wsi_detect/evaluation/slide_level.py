"""From the cells of a slide to a call on the slide: score, area under the curve, operating point, agreement of grades.

A slide is positive when it has an abnormal cell; its score is a declared rule over the scores of its abnormal
detections. An operating point is chosen on one split and read on another: on the split it was chosen on, it flatters.

Mann and Whitney 1947 and Hanley and McNeil 1982 (AUC), Cohen 1968 (weighted kappa).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect.config import Config
from wsi_detect.errors import LabelError
from wsi_detect.evaluation.columns import Columns, Index, lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import ask
from wsi_detect.evaluation.splits import Split, check_apart
from wsi_detect.taxonomy import CLASSES, gravity, is_abnormal


class SlideRule(Config):
    """How a slide is scored from its abnormal detections, one of each cell.

    Attributes:
        name: one of `RULES`. `max`, the highest score; `mean_top`, the mean of the `top` highest, of which those that
            are not there count 0, so that one lone false alarm does not outrank ten cells; `count`, how many reach
            `min_score`.
        top: for `mean_top`.
        min_score: for `count`.
    """

    name: str = Field(default="max", pattern="^(max|mean_top|count)$")
    top: int = Field(default=10, ge=1)
    min_score: float = Field(default=0.5, ge=0, le=1)


def _highest(scores: NDArray[np.float64], rule: SlideRule) -> float:
    return float(scores.max(initial=0.0))


def _mean_top(scores: NDArray[np.float64], rule: SlideRule) -> float:
    return float(np.sort(scores)[::-1][: rule.top].sum() / rule.top)


def _count(scores: NDArray[np.float64], rule: SlideRule) -> float:
    return float((scores >= rule.min_score).sum())


RULES: dict[str, Callable[[NDArray[np.float64], SlideRule], float]] = {
    "max": _highest,
    "mean_top": _mean_top,
    "count": _count,
}


@dataclass(frozen=True, slots=True, eq=False)
class SlideScores:
    """The slides of a split.

    Attributes:
        split: they are of.
        rule: they were scored by.
        scores: (F,) 0 without an abnormal detection.
        positive: (F,) bool, the slide has an abnormal cell.
    """

    split: Split
    rule: SlideRule
    scores: NDArray[np.float64]
    positive: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold, and where it comes from.

    Attributes:
        split: it was chosen on.
        rule: of the scores it is held against.
        threshold: a slide is called positive from this score up.
    """

    split: Split
    rule: SlideRule
    threshold: float


@dataclass(frozen=True, slots=True)
class SlideCalls:
    """What an operating point does to a split.

    Attributes:
        sensitivity: share of the positive slides that are called positive, None without a positive one.
        specificity: share of the negative slides that are called negative, None without a negative one.
        positives: slides with an abnormal cell, as often as drawn.
        negatives: the others.
    """

    sensitivity: float | None
    specificity: float | None
    positives: float
    negatives: float


def slide_scores(
    predictions: Collection[FieldPrediction],
    truths: Sequence[FieldTruth],
    rule: SlideRule,
    split: Split,
    merge_iou: float = 0.5,
) -> SlideScores:
    """Score slides (or fields) by a rule; one truth a slide, `split` says whose they are."""
    return slide_scores_in(lay_out(predictions, truths, merge_iou), rule, split)


def slide_scores_in(columns: Columns, rule: SlideRule, split: Split, of_image: Index | None = None) -> SlideScores:
    """Do what `slide_scores` does with columns, which know at which IoU labels are merged.

    Args:
        columns: predictions and truth.
        rule: how to score.
        split: whose slides they are.
        of_image: (F,) number from 0 of each image's slide, where images are fields of slides; None where they are
            slides themselves.
    """
    of_image = np.arange(columns.images) if of_image is None else of_image
    slides = int(of_image.max(initial=-1)) + 1
    abnormal = [name for name in columns.names if is_abnormal(name)]
    question = ask(columns, {"": abnormal}, merge=True)
    slide = of_image[columns.detections.image[question.rows]]
    order = np.argsort(slide, kind="stable")
    parts = np.split(columns.detections.scores[question.rows][order], np.searchsorted(slide[order], range(1, slides)))
    scores = [RULES[rule.name](part, rule) for part in parts[:slides]]
    positive = np.zeros(slides, np.bool_)
    positive[of_image[columns.cells.image[question.cell_group >= 0]]] = True
    return SlideScores(split, rule, np.array(scores, np.float64), positive)


def auc(found: SlideScores, weights: NDArray[np.floating] | None = None) -> float | None:
    """Area under the ROC curve: the chance that a positive slide scores above a negative one, ties counting half.

    Args:
        found: slides.
        weights: (F,) how often each counts; None counts each once.

    Returns:
        In [0, 1]; None without a positive or without a negative slide.
    """
    weights = np.ones(len(found.scores)) if weights is None else np.asarray(weights, np.float64)
    values, where = np.unique(found.scores, return_inverse=True)
    yes, no = (np.bincount(where, weights * side, len(values)) for side in (found.positive, ~found.positive))
    pairs = yes.sum() * no.sum()
    below = np.cumsum(no) - no
    return float(yes @ (below + no / 2) / pairs) if pairs else None


def choose_point(found: SlideScores, min_sensitivity: float) -> OperatingPoint:
    """Choose the highest threshold that reaches a sensitivity: of those that do, it has the best specificity.

    Where that takes slides without any abnormal detection the threshold is 0, and every slide is called positive.

    Args:
        found: slides of the split to choose on.
        min_sensitivity: to be reached there, in (0, 1].

    Raises:
        LabelError: the split has no positive slide.
    """
    if not 0 < min_sensitivity <= 1:
        raise ValueError(f"a sensitivity lies in (0, 1], got {min_sensitivity}")
    ranked = np.sort(found.scores[found.positive])[::-1]
    if not len(ranked):
        raise LabelError(f"split {found.split.name!r} has no positive slide to choose an operating point on")
    needed = int(np.ceil(min_sensitivity * len(ranked) - 1e-9))
    return OperatingPoint(found.split, found.rule, float(ranked[needed - 1]))


def read_point(
    point: OperatingPoint,
    found: SlideScores,
    weights: NDArray[np.floating] | None = None,
    *,
    same_split: bool = False,
) -> SlideCalls:
    """Sensitivity and specificity of an operating point on another split than it was chosen on.

    Args:
        point: of `choose_point`.
        found: slides of the split to read it on.
        weights: (F,) how often each counts; None counts each once.
        same_split: allow the split it was chosen on.

    Raises:
        LabelError: the splits are the same or share a member and nobody allowed it, or the slides were scored by
            another rule.
    """
    if not same_split:
        check_apart(point.split, found.split, "the operating point")
    if point.rule != found.rule:
        raise LabelError(f"the operating point is for {point.rule!r}, the slides were scored by {found.rule!r}")
    weights = np.ones(len(found.scores)) if weights is None else np.asarray(weights, np.float64)
    called = found.scores >= point.threshold
    positives, negatives = float(weights @ found.positive), float(weights @ ~found.positive)
    return SlideCalls(
        float(weights @ (called & found.positive) / positives) if positives else None,
        float(weights @ (~called & ~found.positive) / negatives) if negatives else None,
        positives,
        negatives,
    )


#: Grades of a slide, from 0, negative: one for each gravity of an abnormality, so that equals share one.
GRADES = {
    level: number
    for number, level in enumerate(sorted({entry.gravity for entry in CLASSES.values() if entry.abnormal}), start=1)
}


def grade(labels: Iterable[str]) -> int:
    """Grade of a slide by its gravest abnormal cell: 0 negative, 1 ASC-US, 2 LSIL … 6 carcinoma."""
    return max((GRADES[gravity(name)] for name in labels if is_abnormal(name)), default=0)


def grades(
    predictions: Collection[FieldPrediction], truths: Sequence[FieldTruth], min_score: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Grade each slide by its cells, and by its detections from a score up: (F,) and (F,)."""
    return grades_in(lay_out(predictions, truths), min_score)


def grades_in(columns: Columns, min_score: float, of_image: Index | None = None) -> tuple[Index, Index]:
    """Do what `grades` does with columns; `of_image` as in `slide_scores_in`."""
    of_image = np.arange(columns.images) if of_image is None else of_image
    slides = int(of_image.max(initial=-1)) + 1
    code = np.array([*(grade([name]) for name in columns.names), 0], np.int64)  # the last for areas to ignore
    shown = columns.detections.scores >= min_score
    real, called = np.zeros(slides, np.int64), np.zeros(slides, np.int64)
    np.maximum.at(real, of_image[columns.cells.image], code[columns.cells.label])
    np.maximum.at(called, of_image[columns.detections.image[shown]], code[columns.detections.label[shown]])
    return real, called


def quadratic_kappa(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    categories: int | None = None,
    weights: NDArray[np.floating] | None = None,
) -> float | None:
    """Cohen's kappa with quadratic weights: agreement on ordered categories beyond chance, far misses counting most.

    Args:
        first: (F,) category of each slide, from 0, in order.
        second: (F,) the same by another reader.
        categories: how many there are; None takes those of `grade`.
        weights: (F,) how often each slide counts; None counts each once.

    Returns:
        At most 1; 0 is chance. None without a slide, or where chance leaves no disagreement (one category throughout).
    """
    size = len(GRADES) + 1 if categories is None else categories
    table = np.bincount(first * size + second, weights, size * size).astype(np.float64).reshape(size, size)
    distance = (np.arange(size)[:, None] - np.arange(size)) ** 2
    total = table.sum()
    chance = float((distance * np.outer(table.sum(axis=1), table.sum(axis=0))).sum() / total) if total else 0.0
    return 1 - float((distance * table).sum()) / chance if chance else None
