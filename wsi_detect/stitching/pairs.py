"""Pairs of views from different patches that overlap, and how much they agree: a join on a grid of buckets."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.geometry import Boxes, box_area
from wsi_detect.stitching.ownership import Views

Index = NDArray[np.int64]

#: Candidate pairs held in memory at a time.
_CHUNK = 2_000_000
#: No box covers more than this many buckets along a side.
_MAX_SPAN = 32


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


def overlapping(boxes: Boxes, patch: Index, chosen: Index) -> tuple[Index, Index]:
    """Return each pair of `chosen` boxes from different patches that share some area, once: two arrays (M,)."""
    found = list(_joined(boxes, patch, chosen)) if len(chosen) > 1 else []
    if not found:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


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
    a, b = views.boxes[first], views.boxes[second]
    shared = box_area(np.column_stack([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])]))
    cut = views.cut[first] | views.cut[second]
    smaller = np.minimum(box_area(a), box_area(b))
    low = np.maximum(views.windows[first, :2], views.windows[second, :2])[:, [0, 1, 0, 1]]
    high = np.minimum(views.windows[first, 2:], views.windows[second, 2:])[:, [0, 1, 0, 1]]
    sizes = [box_area(np.where(cut[:, None], np.clip(box, low, high), box)) for box in (a, b)]
    likeness = shared / (sizes[0] + sizes[1] - shared)
    return Pairs(first, second, likeness, (likeness >= iou) | (cut & (shared >= ios * smaller)))


def _joined(boxes: Boxes, patch: Index, chosen: Index) -> Iterator[tuple[Index, Index]]:
    box = boxes[chosen]
    side = (box[:, 2:] - box[:, :2]).max(axis=1)
    bucket = max(1.5 * float(np.median(side)), float(side.max()) / _MAX_SPAN)
    base = box[:, :2].min(axis=0)
    low = np.floor((box[:, :2] - base) / bucket).astype(np.int64)
    span = np.floor((box[:, 2:] - base) / bucket).astype(np.int64) - low + 1
    entry = np.repeat(np.arange(len(box)), span.prod(axis=1))
    nth = np.arange(len(entry)) - np.repeat(np.cumsum(span.prod(axis=1)) - span.prod(axis=1), span.prod(axis=1))
    stride = int((low[:, 0] + span[:, 0]).max())
    key = (low[entry, 1] + nth // span[entry, 0]) * stride + low[entry, 0] + nth % span[entry, 0]
    order = np.argsort(key, kind="stable")
    entry, key = entry[order], key[order]
    partners = np.searchsorted(key, key, side="right") - np.arange(len(key)) - 1
    for start, stop in _chunks(partners):
        number = partners[start:stop]
        one = np.repeat(np.arange(start, stop), number)
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(number) - number, number)
        i, j = entry[one], entry[other]
        across = patch[chosen[i]] != patch[chosen[j]]
        i, j, here = i[across], j[across], key[one][across]
        corner = np.maximum(box[i, :2], box[j, :2])
        positive = (corner < np.minimum(box[i, 2:], box[j, 2:])).all(axis=1)
        # Boxes that share several buckets are reported by the one that holds the corner of what they share.
        home = np.maximum(low[i], low[j])
        positive &= home[:, 1] * stride + home[:, 0] == here
        yield chosen[i[positive]], chosen[j[positive]]


def _chunks(partners: Index) -> Iterator[tuple[int, int]]:
    total = np.cumsum(partners)
    start = 0
    while start < len(partners):
        done = int(total[start - 1]) if start else 0
        stop = max(int(np.searchsorted(total, done + _CHUNK, side="right")), start + 1)
        yield start, stop
        start = stop
