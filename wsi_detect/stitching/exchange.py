"""Views of two patches paired for the best sum: what going by the most alike pair alone gets wrong is put right.

In a clump the view of A in one patch can be more like the view of B in the next than like its own second view, when
the detector's boxes are off by a tenth of their side. Taken alone that pair wins; but A with A and B with B are more
alike together. Two exchanges are enough for the clumps of a smear: both pairs swap partners, or one pair makes way for
two. They are a local search for the largest sum (the assignment problem), over whole arrays; each exchange raises the
sum by a whole number, so they end, and they hang on nothing but the likenesses and the total order.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]

_NONE = -1

#: A clump needs two or three; a row of a thousand boxes that all touch could need hundreds, and nothing is at stake.
ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Rivals:
    """Candidate pairs that share views, each between a patch and one with a higher number.

    Attributes:
        one, other: (M,) the view in the lower and in the higher patch, numbered 0 … for each partner patch anew.
        worth: (M,) likeness as a whole number, so that sums are exact.
        place: (M,) place of the pair in the total order of pairs, for equals.
    """

    one: Index
    other: Index
    worth: Index
    place: Index


def best_sum(rivals: Rivals, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Exchange pairs as long as that raises the sum of their worth.

    Args:
        rivals: the candidates.
        chosen: (M,) a choice that uses no view twice.

    Returns:
        (M,) a choice that uses no view twice.
    """
    chosen = chosen.copy()
    key = rivals.one * (int(rivals.other.max(initial=0)) + 1) + rivals.other
    by_key = np.argsort(key, kind="stable")
    for _ in range(ROUNDS):
        mate_one, mate_other = _mates(rivals.one, chosen), _mates(rivals.other, chosen)
        moves = [_swaps(rivals, key, by_key, mate_one, mate_other), _splits(rivals, chosen, mate_one, mate_other)]
        out, into, gain = (np.concatenate(part) for part in zip(*moves, strict=True))
        if not len(gain):
            break
        taken = _apart(rivals, out, into, gain)
        gone = out[taken].ravel()
        chosen[gone[gone != _NONE]] = False
        chosen[into[taken].ravel()] = True
    return chosen


#: Pairs given up (m, 2), -1 where there is no second; pairs taken instead (m, 2); what that adds to the sum (m,).
_Moves = tuple[Index, Index, Index]


def _mates(view: Index, chosen: NDArray[np.bool_]) -> Index:
    """Return the chosen pair of each view, -1 where it has none."""
    mates = np.full(int(view.max(initial=-1)) + 1, _NONE)
    rows = np.flatnonzero(chosen)
    mates[view[rows]] = rows
    return mates


def _swaps(rivals: Rivals, key: Index, by_key: Index, mate_one: Index, mate_other: Index) -> _Moves:
    """Pairs (a, b) and (c, d) become (a, d) and (c, b)."""
    into = np.arange(len(rivals.one))
    a_b, c_d = mate_one[rivals.one], mate_other[rivals.other]
    into = into[(a_b != _NONE) & (c_d != _NONE) & (a_b != c_d)]
    a_b, c_d = a_b[into], c_d[into]
    wanted = rivals.one[c_d] * (int(rivals.other.max(initial=0)) + 1) + rivals.other[a_b]
    at = np.searchsorted(key, wanted, sorter=by_key).clip(max=max(len(key) - 1, 0))
    second = by_key[at]
    there = key[second] == wanted
    into, a_b, c_d, second = into[there], a_b[there], c_d[there], second[there]
    gain = rivals.worth[into] + rivals.worth[second] - rivals.worth[a_b] - rivals.worth[c_d]
    # Each swap is found twice, once from either new pair.
    good = (gain > 0) & (into < second)
    return np.column_stack([a_b, c_d])[good], np.column_stack([into, second])[good], gain[good]


def _splits(rivals: Rivals, chosen: NDArray[np.bool_], mate_one: Index, mate_other: Index) -> _Moves:
    """A pair (a, b) becomes (a, d) and (c, b), where c and d had no partner: the best d and the best c of each pair."""
    free_other = ~chosen & (mate_other[rivals.other] == _NONE)
    free_one = ~chosen & (mate_one[rivals.one] == _NONE)
    a_d = _best(rivals, mate_one[rivals.one], free_other, len(chosen))
    c_b = _best(rivals, mate_other[rivals.other], free_one, len(chosen))
    out = np.flatnonzero((a_d != _NONE) & (c_b != _NONE))
    into = np.column_stack([a_d[out], c_b[out]])
    gain = rivals.worth[into].sum(axis=1) - rivals.worth[out]
    good = gain > 0
    pairs = np.column_stack([out, np.full(len(out), _NONE)])
    return pairs[good], into[good], gain[good]


def _best(rivals: Rivals, instead_of: Index, fits: NDArray[np.bool_], number: int) -> Index:
    """Return, for each pair, the most alike of the candidates that could stand instead of it; -1 where none does."""
    rows = np.flatnonzero(fits & (instead_of != _NONE))
    rows = rows[np.lexsort((-rivals.place[rows], rivals.worth[rows]))]
    best = np.full(number, _NONE)
    # Of several entries the last stays.
    best[instead_of[rows]] = rows
    return best


def _apart(rivals: Rivals, out: Index, into: Index, gain: Index) -> Index:
    """Return moves that touch no view in common: of those that do, the one that gains most."""
    order = np.lexsort((rivals.place[into[:, 1]], rivals.place[into[:, 0]], rivals.place[out[:, 0]], -gain))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    free = np.ones(len(order), dtype=bool)
    # The two pairs that a move takes name every view it touches.
    for view in (rivals.one, rivals.other):
        foremost = np.full(int(view.max()) + 1, len(order))
        for side in (0, 1):
            np.minimum.at(foremost, view[into[:, side]], rank)
        for side in (0, 1):
            free &= foremost[view[into[:, side]]] == rank
    return np.flatnonzero(free)
