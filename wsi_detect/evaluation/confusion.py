"""What cells were called: the confusion of classes, with the cells missed and the false alarms, and what it costs.

At one threshold of the score and whatever the class: labels of one cell are merged, each detection takes the cell it
overlaps most (`matching.match`), and the name it gave is held against the cell's. Confusion can then say that an HSIL
was called LSIL, where average precision sees a miss of one class and a false alarm of another.

The cost of a call is its distance in gravity (`taxonomy.gravity`, 0 to 9), times `under` where the call is milder than
the cell and `over` where it is graver. A missed cell counts as called gravity 0, a false alarm as called on gravity 0:
nobody looks at an HSIL that was called NILM either. So with under = 2 and over = 1 an HSIL missed or called NILM costs
16, called LSIL 6; an LSIL called HSIL 3; a false HSIL 8; a missed NILM cell nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import ConfigError, LabelError
from wsi_detect.evaluation.columns import Columns, lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import UNMATCHED, ask
from wsi_detect.taxonomy import gravity

#: The column of the cells nobody found, and the row of the detections that found none.
MISSED = "missed"
FALSE_ALARM = "false alarm"
UNDER, OVER = 2.0, 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """Every cell and every false alarm, with the name it has and the name it was given.

    Attributes:
        classes: K names.
        truth: (E,) int64 place in `classes` of the cell, K for a false alarm.
        called: (E,) int64 place in `classes` of the call, K for a missed cell.
        image: (E,) int64, index of the image.
        images: F.
    """

    classes: tuple[str, ...]
    truth: NDArray[np.int64]
    called: NDArray[np.int64]
    image: NDArray[np.int64]
    images: int

    def matrix(self, weights: NDArray[np.floating] | None = None) -> NDArray[np.float64]:
        """Count calls: (K + 1, K + 1), rows the truth and last the false alarms, columns the calls and last the missed.

        Args:
            weights: (F,) how often each image counts; None counts each once.
        """
        side = len(self.classes) + 1
        often = np.ones(len(self.image)) if weights is None else weights[self.image]
        counts = np.bincount(self.truth * side + self.called, weights=often, minlength=side * side)
        return counts.astype(np.float64).reshape(side, side)


def calls(
    predictions: Collection[FieldPrediction],
    truths: Sequence[FieldTruth],
    classes: Sequence[str],
    *,
    min_score: float,
    merge_iou: float = 0.5,
    threshold: float = 0.5,
) -> Calls:
    """Hold every detection against the cell it lies on.

    Args:
        predictions: at most one an image.
        truths: one an image.
        classes: names of the rows and columns; those of all cells and detections must be among them.
        min_score: detections below it are not shown, and do not count.
        merge_iou: see `matching.merge_labels`.
        threshold: smallest IoU of a match.

    Raises:
        LabelError: a cell or a detection is of another class.
    """
    columns = lay_out(predictions, truths, merge_iou, floor=threshold)
    return calls_in(columns, classes, min_score=min_score, threshold=threshold)


def calls_in(columns: Columns, classes: Sequence[str], *, min_score: float, threshold: float = 0.5) -> Calls:
    """Do what `calls` does with columns, which know at which IoU labels are merged.

    Who scores lower has no say in who is merged or matched above: leaving the low ones out afterwards is the same.
    """
    place = {name: number for number, name in enumerate(classes)}
    nobody = len(place)
    if strange := set(columns.names) - set(place):
        raise LabelError(f"there are cells or detections of {min(strange)!r}, which has no row in the confusion")
    code = np.array([place[name] for name in columns.names], np.int64)
    question = ask(columns, {"": columns.names}, merge=True)
    matches, is_cell = question.taken(threshold)
    detections, cells = columns.detections, columns.cells
    shown = question.rows[detections.scores[question.rows] >= min_score]
    match = matches[shown]
    hit = match != UNMATCHED
    shown, match, hit = (part[~hit | np.append(is_cell, False)[match]] for part in (shown, match, hit))
    missed = is_cell.copy()
    missed[match[hit]] = False
    alone = np.flatnonzero(missed)
    real = np.full(len(shown), nobody)
    real[hit] = code[cells.label[match[hit]]]
    return Calls(
        tuple(classes),
        np.concatenate([real, code[cells.label[alone]]]),
        np.concatenate([code[detections.label[shown]], np.full(len(alone), nobody)]),
        np.concatenate([detections.image[shown], cells.image[alone]]),
        columns.images,
    )


def gravity_cost(
    classes: Sequence[str],
    *,
    under: float = UNDER,
    over: float = OVER,
    overrides: Mapping[tuple[str, str], float] | None = None,
) -> NDArray[np.float64]:
    """Cost of every call, by the rule of this module's text.

    Args:
        classes: K taxonomy names.
        under: cost of a step of gravity too mild.
        over: cost of a step too grave.
        overrides: (truth, called) → cost, over the rule; `FALSE_ALARM` as truth and `MISSED` as called are known.

    Returns:
        (K + 1, K + 1) in the order of `Calls.matrix`; right calls cost nothing.

    Raises:
        ConfigError: a cost is negative or not finite, under-calling is cheaper than over-calling, or an override names
            what is not in the matrix.
        UnmappedLabelError: a class is not in the taxonomy.
    """
    if not 0 <= over <= under:
        raise ConfigError(f"under-calling must cost at least what over-calling does, got under={under}, over={over}")
    steps = np.array([*(gravity(name) for name in classes), 0], np.float64)
    distance = steps[:, None] - steps
    cost = np.where(distance > 0, under * distance, -over * distance)
    rows = {name: number for number, name in enumerate([*classes, FALSE_ALARM])}
    columns = {name: number for number, name in enumerate([*classes, MISSED])}
    for (truth, called), value in (overrides or {}).items():
        if truth not in rows or called not in columns or (truth, called) == (FALSE_ALARM, MISSED):
            raise ConfigError(f"there is no cost of {truth!r} called {called!r}; classes: {', '.join(classes)}")
        cost[rows[truth], columns[called]] = value
    if not (np.isfinite(cost).all() and (cost >= 0).all()):
        raise ConfigError("a cost is negative or not finite")
    return cost


def mean_cost(found: Calls, cost: NDArray[np.floating], weights: NDArray[np.floating] | None = None) -> float | None:
    """Mean cost of an image: that of all calls by the number of images; None without an image.

    Args:
        found: calls.
        cost: (K + 1, K + 1), see `gravity_cost`.
        weights: (F,) how often each image counts; None counts each once.

    Raises:
        ValueError: the cost is not of the classes of the calls.
    """
    matrix = found.matrix(weights)
    if cost.shape != matrix.shape:
        raise ValueError(f"a cost of shape {cost.shape} for a matrix of shape {matrix.shape}")
    images = float(found.images if weights is None else weights.sum())
    return float((matrix * cost).sum() / images) if images else None
