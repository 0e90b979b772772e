"""One cell, several opinions: the class of a cell whose views disagree."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.stitching.pairs import Index

#: Scores are float32; a margin must not hang on their last bit.
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Opinions:
    """What the views of cells say, each array (N,).

    Attributes:
        gravity: gravity of the class a view names.
        score: its score.
        cut: whether an edge has cut the view.
        place: place of the view in the total order.
    """

    gravity: Index
    score: NDArray[np.float64]
    cut: NDArray[np.bool_]
    place: Index


def decide(group: Index, opinions: Opinions, *, margin: float) -> Index:
    """Choose the view of each cell whose class and score the cell takes: the clinical rule.

    The best score among whole views sets the bar; of all views that score at most `margin` less, the gravest class
    wins, then a whole view, then the score, then the total order. A view cut by an edge can thus raise the gravity
    but never lower it.

    Args:
        group: (N,) cell of each view, 0 … G-1, each at least once.
        opinions: what the views say.
        margin: how much less a graver class may score.

    Returns:
        (G,) index of the deciding view.
    """
    score, cut = opinions.score, opinions.cut
    number = int(group.max(initial=-1)) + 1
    whole, anyhow = np.full(number, -np.inf), np.full(number, -np.inf)
    np.maximum.at(whole, group[~cut], score[~cut])
    np.maximum.at(anyhow, group, score)
    bar = np.where(np.isfinite(whole), whole, anyhow) - margin - _EPSILON
    left = np.flatnonzero(score >= bar[group])
    for merit in (2 * opinions.gravity + ~cut, score, -opinions.place):
        left = left[_is_best(group[left], merit[left], number)]
    voice = np.empty(number, dtype=np.int64)
    voice[group[left]] = left
    return voice


def _is_best(group: Index, merit: NDArray[np.float64] | Index, number: int) -> NDArray[np.bool_]:
    best = np.full(number, merit.min(initial=0), dtype=merit.dtype)
    np.maximum.at(best, group, merit)
    return np.asarray(merit == best[group])


def merge_class_scores(group: Index, class_scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep of each class the highest score any view of the cell gave: (N, K), (N,) → (G, K).

    The maximum, not the mean: a view that saw half of the cell must not dilute the alternative a whole view saw, and
    the result does not depend on how many patches happened to look. -inf stands for "not given".
    """
    order = np.argsort(group, kind="stable")
    _, start = np.unique(group[order], return_index=True)
    if not len(start):
        return class_scores[:0]
    return np.asarray(np.maximum.reduceat(class_scores.take(order, axis=0), start, axis=0), dtype=np.float32)
