"""Pairs of views from different patches that overlap, and how much they agree: a sweep along rows of boxes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.geometry import Boxes
from wsi_detect.stitching.ordering import order_of
from wsi_detect.stitching.ownership import Views

Index = NDArray[np.int64]

#: Candidate pairs held in memory at a time.
_CHUNK = 500_000
#: A key is the number of a row and, below it, an abscissa in 1/256 px.
_ROW, _STEPS = 1 << 36, 256.0


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of views, first[k] with second[k].

    Attributes:
        first, second: (M,) indices into the views.
        likeness: (M,) 0 to 1, by which the best partner is chosen.
        same: (M,) whether the two can be one cell at all.
    """

    first: Index
    second: Index
    likeness: NDArray[np.float64]
    same: NDArray[np.bool_]


def overlapping(sides: Boxes, apart: Index, chosen: Index) -> tuple[Index, Index]:
    """Return each pair of `chosen` boxes that share some area and differ in `apart`, once: two arrays (M,).

    Boxes are sorted into rows as high as the largest of them, and along a row by their left side; a box then meets
    only a stretch of its own row and one of the next. Boxes much larger than the others have rows of their own.

    Args:
        sides: (4, N) x0, y0, x1, y1, every box of some area.
        apart: (N,) such as the patch: boxes that agree in it are no pair.
        chosen: (K,) indices of the boxes to look at.
    """
    found = list(_joined(sides.take(chosen, axis=1), apart[chosen])) if len(chosen) > 1 else []
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    first, second = (np.concatenate(column) for column in zip(*found, strict=True))
    return chosen[first], chosen[second]


def compare(views: Views, first: Index, second: Index, *, iou: float, ios: float) -> Pairs:
    """Measure how much two views of different patches agree.

    Two whole boxes are compared by intersection over union. If an edge has cut one of them, both are first cut to
    the area the two patches share, where they must agree whatever each patch sees beyond it: the half of a cell in
    one patch then matches the whole cell of the other exactly, and its neighbour in a clump less. As a second line
    of defence a cut box also counts as the same when most of the smaller box is inside the larger (intersection over
    the smaller box), but with the rank its likeness gives it.

    Args:
        views: the detections.
        first: (M,) indices.
        second: (M,) indices.
        iou: least intersection over union (in the shared area, if cut) of one cell.
        ios: least intersection over the smaller box of one cell, where a box is cut.
    """
    a, b = views.sides.take(first, axis=1), views.sides.take(second, axis=1)
    shared = _area(*np.maximum(a[:2], b[:2]), *np.minimum(a[2:], b[2:]))
    sizes = _area(*a), _area(*b)
    likeness = shared / (sizes[0] + sizes[1] - shared)
    same = likeness >= iou
    cut = np.flatnonzero(views.cut[first] | views.cut[second])
    if len(cut):
        windows = views.windows[views.patch[first[cut]]].T, views.windows[views.patch[second[cut]]].T
        low, high = np.maximum(windows[0][:2], windows[1][:2]), np.minimum(windows[0][2:], windows[1][2:])
        clipped = [_area(*np.clip(box[:2, cut], low, high), *np.clip(box[2:, cut], low, high)) for box in (a, b)]
        within, smaller = shared[cut], np.minimum(sizes[0][cut], sizes[1][cut])
        likeness[cut] = within / (clipped[0] + clipped[1] - within)
        same[cut] = (likeness[cut] >= iou) | (within >= ios * smaller)
    return Pairs(first, second, likeness, same)


def _area(x0: Boxes, y0: Boxes, x1: Boxes, y1: Boxes) -> NDArray[np.float64]:
    return np.asarray((x1 - x0).clip(0) * (y1 - y0).clip(0))


@dataclass(frozen=True, slots=True)
class _Shelves:
    """Boxes in rows, sorted by row and left side.

    Attributes:
        index: (n,) which boxes, in this order.
        sides: (4, n) of these boxes.
        key: (n,) row and left side.
        row: (n,) row of the upper side.
        pitch: height of a row and more than any box measures.
        corner: where rows begin, x and y.
    """

    index: Index
    sides: Boxes
    key: Index
    row: Index
    pitch: float
    corner: tuple[float, float]

    @classmethod
    def of(cls, sides: Boxes, chosen: Index, corner: tuple[float, float]) -> "_Shelves":
        x0, y0, x1, y1 = sides.take(chosen, axis=1)
        largest = max(float((x1 - x0).max()), float((y1 - y0).max()))
        # A row number must fit its bits; a little room, so that rounding never hides a neighbour.
        pitch = max(largest * (1 + 1e-6), float(y0.max() - corner[1]) / 2**20)
        row = np.floor((y0 - corner[1]) / pitch).astype(np.int64)
        key = row * _ROW + np.floor((x0 - corner[0]) * _STEPS).astype(np.int64)
        order = order_of(key.view(np.uint64))
        return cls(chosen[order], sides.take(chosen[order], axis=1), key[order], row[order], pitch, corner)

    def row_of(self, y: Boxes) -> Index:
        return np.floor((y - self.corner[1]) / self.pitch).astype(np.int64)

    def place(self, row: Index, x: Boxes, side: str) -> Index:
        """Where in the order an abscissa of a row would stand."""
        key = row * _ROW + np.clip(np.floor((x - self.corner[0]) * _STEPS), 0, _ROW - 1).astype(np.int64)
        return np.searchsorted(self.key, key, side="left" if side == "left" else "right")


def _joined(sides: Boxes, apart: Index) -> Iterator[tuple[Index, Index]]:
    corner = float(sides[0].min()), float(sides[1].min())
    shelves: list[_Shelves] = []
    for chosen in _by_size(sides):
        mine = _Shelves.of(sides, chosen, corner)
        for one, start, stop in (*_within(mine), *(step for small in shelves for step in _between(small, mine))):
            yield from _meeting(one, mine, start, stop, sides, apart)
        shelves.append(mine)


def _by_size(sides: Boxes) -> Iterator[Index]:
    """Yield the boxes that are no larger than twice the mean, then those up to four times as large, and so on."""
    side = np.maximum(sides[2] - sides[0], sides[3] - sides[1])
    limit, left = 2 * float(side.mean()), np.arange(len(side))
    while len(left):
        fits = side[left] <= limit
        if fits.any():
            yield left[fits]
        left, limit = left[~fits], 4 * limit


Stretch = tuple[Index, Index, Index]


def _within(mine: _Shelves) -> Iterator[Stretch]:
    """Yield boxes, and from where to where in the order of the same shelves they may find a partner."""
    x0, _, x1, y1 = mine.sides
    yield mine.index, np.arange(1, len(mine.key) + 1), mine.place(mine.row, x1, "right")
    reach = np.flatnonzero(mine.row_of(y1) > mine.row)
    below = mine.row[reach] + 1
    start, stop = mine.place(below, x0[reach] - mine.pitch, "left"), mine.place(below, x1[reach], "right")
    yield mine.index[reach], start, stop


def _between(small: _Shelves, large: _Shelves) -> Iterator[Stretch]:
    """Yield boxes of `small`, and from where to where in the order of `large` they may find a partner."""
    x0, y0, x1, y1 = small.sides
    top, bottom = large.row_of(y0 - large.pitch), large.row_of(y1)
    for step in range(int((bottom - top).max()) + 1):
        reach = np.flatnonzero((top + step <= bottom) & (top + step >= 0))
        row = top[reach] + step
        start, stop = large.place(row, x0[reach] - large.pitch, "left"), large.place(row, x1[reach], "right")
        yield small.index[reach], start, stop


def _meeting(
    one: Index, mine: _Shelves, start: Index, stop: Index, sides: Boxes, apart: Index
) -> Iterator[tuple[Index, Index]]:
    """Yield the pairs that do overlap."""
    number = (stop - start).clip(0)
    for low, high in _chunks(number):
        many = number[low:high]
        ends = np.cumsum(many)
        i = np.repeat(one[low:high], many)
        j = mine.index[np.arange(len(i)) + np.repeat(start[low:high] - ends + many, many)]
        near = apart[i] != apart[j]
        i, j = i[near], j[near]
        for axis in (1, 0):
            near = (sides[axis, i] < sides[axis + 2, j]) & (sides[axis, j] < sides[axis + 2, i])
            i, j = i[near], j[near]
        yield i, j


def _chunks(number: Index) -> Iterator[tuple[int, int]]:
    total = np.cumsum(number)
    start = 0
    while start < len(number):
        done = int(total[start - 1]) if start else 0
        stop = max(int(np.searchsorted(total, done + _CHUNK, side="right")), start + 1)
        yield start, stop
        start = stop
