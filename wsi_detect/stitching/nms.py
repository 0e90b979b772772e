"""Suppression across patches: which views are one cell. Exact, and the same for any order of the input.

Both decisions here are greedy along a total order: which views of two patches are partners, and who founds a cell.
They are taken in rounds, each over whole arrays: whatever has nothing undecided before it is decided, which gives
what going through the order one by one would give.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.stitching.exchange import Rivals, best_sum
from wsi_detect.stitching.ordering import order_of, sortable
from wsi_detect.stitching.ownership import Views
from wsi_detect.stitching.pairs import Index, Pairs, compare, overlapping

#: Places in the total order are below it.
_LAST = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Links:
    """Views that are each other's partners: first[k] stands before second[k] in the total order.

    Attributes:
        first, second: (M,) indices of views.
        weight: (M,) how much one lowers the other, see `alternatives.soften`; None where links are not weighed.
    """

    first: Index
    second: Index
    weight: Index | None = None

    @classmethod
    def none(cls) -> "Links":
        """Return no links."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))

    @classmethod
    def join(cls, parts: Sequence["Links"]) -> "Links":
        """Put links behind each other."""
        weights = [part.weight for part in parts if part.weight is not None]
        return cls(
            np.concatenate([part.first for part in parts]),
            np.concatenate([part.second for part in parts]),
            np.concatenate(weights) if weights else None,
        )

    def take(self, chosen: NDArray[np.bool_]) -> "Links":
        """Return some of the links."""
        weight = None if self.weight is None else self.weight[chosen]
        return Links(self.first[chosen], self.second[chosen], weight)

    def moved(self, by: int) -> "Links":
        """Return the same links of views that stand further back."""
        return Links(self.first + by, self.second + by, self.weight)

    def renumbered(self, numbers: Index) -> "Links":
        """Return the same links of views that have new numbers (N,)."""
        return Links(numbers[self.first], numbers[self.second], self.weight)


def rank(
    views: Views, score: NDArray[np.float64], label: Index, class_scores: NDArray[np.float32] | None = None
) -> Index:
    """Return the place (N,) of each view in the one total order, 0 the first to found a cell.

    Owned before not owned, whole before cut whatever their scores, then score, then geometry, label and patch. Of
    cut boxes the larger comes first: a cell that fits the overlap with nothing to spare is near an edge in every
    patch, and the larger view is the whole one. Views that agree in all of it go by their class scores; if they
    agree there too, either may stand for the other, and they stay as they come.

    Args:
        views: the detections.
        score: (N,) scores.
        label: (N,) place of the label among the sorted names.
        class_scores: (N, K), if any.
    """
    cut = views.cut
    x0, y0, x1, y1 = views.sides
    area = (x1 - x0) * (y1 - y0)
    # 64 bits that settle most of it: not owned, cut, 32 bits of score or size, 30 bits of what comes next.
    falling = ~sortable(np.where(cut, area, score)) & np.uint64(0xFFFFFFFF)
    step = np.minimum(y0.clip(0) * 1024, 2**30 - 1).astype(np.uint64)
    then = np.where(cut, (~sortable(score) & np.uint64(0xFFFFFFFF)) >> np.uint64(2), step)
    key = (~views.owned).astype(np.uint64) << np.uint64(63) | cut.astype(np.uint64) << np.uint64(62)
    key |= falling << np.uint64(30) | then
    order = order_of(key)
    same = np.diff(key[order]) == 0
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))[: len(order)]
    rows = order[tied]
    if len(rows):
        missing = np.where(cut, -area, 0.0)
        further = () if class_scores is None else tuple(class_scores[rows].T)
        exact = (views.patch, label, x1, y1, x0, y0, -score, missing, cut, ~views.owned)
        order[tied] = rows[np.lexsort((*further, *(column[rows] for column in exact)))]
    return _inverse(order)


def _inverse(order: Index) -> Index:
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place


def suppress(views: Views, place: Index, label: Index | None, *, iou: float, ios: float) -> Index:
    """Find the cell each view belongs to.

    Within a patch the detector has decided; only views of different patches can be one cell. For each two patches
    views are paired one to one, the most alike together, so that in a clump a cell never takes its neighbour while its
    own second view is there. Then the owned views, in the total order, found a cell each unless they are taken, and
    take their partners: a cell takes at most one view from each other patch. Where each patch holds a single
    detection this is greedy non-maximum suppression of one image.

    Args:
        views: the detections.
        place: (N,) the total order, see `rank`.
        label: (N,) labels that must be equal within a cell; None when a cell may be called differently by its views.
        iou: least intersection over union of one cell.
        ios: least intersection over the smaller box of one cell, where a box is cut.

    Returns:
        (N,) index of the founding view; -1 for a view that neither founds a cell nor belongs to one.
    """
    pairs = candidates(views, views.patch, label, iou=iou, ios=ios)
    nothing = np.zeros(len(place), dtype=bool)
    return found(partners(pairs, views, place), views.owned, place, nothing).founder


def candidates(views: Views, apart: Index, label: Index | None, *, iou: float, ios: float) -> Pairs:
    """Return the pairs of views that could be one cell: overlapping, different in `apart`, alike enough."""
    first, second = overlapping(views.sides, apart, np.flatnonzero(~views.alone))
    if label is not None:
        equal = label[first] == label[second]
        first, second = first[equal], second[equal]
    pairs = compare(views, first, second, iou=iou, ios=ios)
    return Pairs(first[pairs.same], second[pairs.same], pairs.likeness[pairs.same], pairs.same[pairs.same])


def in_order(pairs: Pairs, place: Index) -> Links:
    """Return all pairs as links."""
    swap = place[pairs.first] > place[pairs.second]
    return Links(np.where(swap, pairs.second, pairs.first), np.where(swap, pairs.first, pairs.second))


def partners(pairs: Pairs, views: Views, place: Index) -> Links:
    """Pair the views of each two patches one to one: the most alike first, then for the best sum."""
    every = in_order(pairs, place)
    first, second = every.first, every.second
    # A pair claims each of its views against the other's patch; what no other pair claims needs no decision.
    width = int(views.patch.max(initial=0)) + 1
    claims = first * width + views.patch[second], second * width + views.patch[first]
    contested = _shared(*claims)
    chosen = ~contested
    rows = np.flatnonzero(contested)
    # Rounded, so that the last bits of a frame's arithmetic decide nothing.
    worth = np.round(pairs.likeness[rows] * 1e6).astype(np.int64)
    a, b = first[rows], second[rows]
    order = np.lexsort((place[b], place[a], views.cut[a] | views.cut[b], -worth))
    rows, worth = rows[order], worth[order]
    mine = np.zeros(len(rows), dtype=bool)
    one, other = _dense(claims[0][rows], claims[1][rows])
    mine[_matched(one, other)] = True
    swap = views.patch[first[rows]] > views.patch[second[rows]]
    sides = np.where(swap, other, one), np.where(swap, one, other)
    chosen[rows] = best_sum(Rivals(*sides, worth, np.arange(len(rows))), mine)
    return every.take(chosen)


def _dense(first: Index, second: Index) -> tuple[Index, Index]:
    """Number claims 0, 1, …: two arrays (M,)."""
    _, dense = np.unique(np.concatenate([first, second]), return_inverse=True)
    one, other = dense.reshape(2, -1)
    return one, other


def _shared(first: Index, second: Index) -> NDArray[np.bool_]:
    """Whether either claim of a pair is made by another pair too: (M,)."""
    claims = np.concatenate([first, second])
    claims = claims[order_of(claims.view(np.uint64))]
    twice = claims[1:][np.diff(claims) == 0]
    if not len(twice):
        return np.zeros(len(first), dtype=bool)
    either = np.zeros(len(first), dtype=bool)
    for claim in (first, second):
        either |= twice[np.searchsorted(twice, claim).clip(0, len(twice) - 1)] == claim
    return either


def _matched(first: Index, second: Index) -> Index:
    """Go through pairs of numbered claims in the order given and choose those whose claims are both free: where.

    In rounds: a pair that is the first to make either of its claims is chosen, and those that share one with it fall.
    """
    a, b = first, second
    left, number = np.arange(len(a)), int(max(a.max(initial=-1), b.max(initial=-1))) + 1
    free, chosen = np.ones(number, dtype=bool), [left[:0]]
    foremost = np.empty(number, dtype=np.int64)
    while len(left):
        for claim in (a, b):
            foremost[claim] = _LAST
        for claim in (a, b):
            np.minimum.at(foremost, claim, left)
        wins = (foremost[a] == left) & (foremost[b] == left)
        chosen.append(left[wins])
        free[a[wins]] = free[b[wins]] = False
        open_still = free[a] & free[b]
        left, a, b = left[open_still], a[open_still], b[open_still]
    return np.concatenate(chosen)


@dataclass(frozen=True, slots=True)
class Founding:
    """Who founds cells and who belongs to them.

    Attributes:
        founder: (N,) index of the founding view; -1 if the view neither founds a cell nor belongs to one, or if that
            is not known.
        unsettled: (N,) what becomes of the view, or who else belongs to the cell it founds or is part of, hangs on
            views not yet seen.
        links: between unsettled views, what is left to decide.
    """

    founder: Index
    unsettled: NDArray[np.bool_]
    links: Links


def found(links: Links, owned: NDArray[np.bool_], place: Index, open_views: NDArray[np.bool_]) -> Founding:
    """Let owned views found cells in the total order and take their partners.

    A view is taken by the first of its partners before it that founds a cell; a view that nobody takes founds one.

    Args:
        links: partners.
        owned: (N,) whether a view may found a cell.
        place: (N,) the total order.
        open_views: (N,) views that may have partners not seen yet; what hangs on them stays unsettled.
    """
    useful = owned[links.first]
    first, second = links.first[useful], links.second[useful]
    waiting, taken = _decide(first, second, open_views)
    sure = ~(waiting | taken)
    # A view is settled when all who could take it are decided, a cell when all its founder could take are settled.
    unsettled = open_views.copy()
    unsettled[second[~(sure | taken)[first]]] = True
    by_founder = sure[first]
    one, other = first[by_founder], second[by_founder]
    soonest = np.full(len(owned), _LAST)
    np.minimum.at(soonest, other, place[one])
    founder = np.where(owned & sure, np.arange(len(owned)), -1)
    takes = place[one] == soonest[other]
    founder[other[takes]] = one[takes]
    late = np.zeros(len(owned), dtype=bool)
    late[one[unsettled[other]]] = True
    unsettled |= late | ((founder >= 0) & late[founder])
    founder[unsettled] = -1
    left = unsettled[first] & unsettled[second] & ~taken[first]
    return Founding(founder, unsettled, Links(first[left], second[left]))


def _decide(first: Index, second: Index, open_views: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which views cannot be decided, and which are taken: two arrays (N,)."""
    waiting, taken = open_views.copy(), np.zeros(len(open_views), dtype=bool)
    waiting[second] = True
    before = -1
    while before != len(first):
        before = len(first)
        sure = ~waiting[first]
        taken[second[sure]] = True
        left = ~(sure | taken[first] | taken[second])
        waiting[second] = open_views[second]
        first, second = first[left], second[left]
        waiting[second] = True
    waiting &= ~taken
    return waiting, taken
