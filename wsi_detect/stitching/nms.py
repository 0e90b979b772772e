"""Suppression across patches: which views are one cell. Exact, and the same for any order of the input."""

import numpy as np
from numpy.typing import NDArray

from wsi_detect.geometry import box_area
from wsi_detect.stitching.ownership import Views
from wsi_detect.stitching.pairs import Index, Pairs, compare, overlapping


def rank(views: Views, score: NDArray[np.float64], label: Index) -> Index:
    """Return the place (N,) of each view in the one total order, 0 the first to found a cell.

    Owned before not owned, whole before cut whatever their scores, then score, then geometry, label and patch. Of
    cut boxes the larger comes first: a cell that fits the overlap with nothing to spare is near an edge in every
    patch, and the larger view is the whole one.

    Args:
        views: the detections.
        score: (N,) scores.
        label: (N,) place of the label among the sorted names.
    """
    x0, y0, x1, y1 = views.boxes.T
    missing = np.where(views.cut, -box_area(views.boxes), 0.0)
    order = np.lexsort((views.patch, label, x1, y1, x0, y0, -score, missing, views.cut, ~views.owned))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place


def suppress(views: Views, place: Index, label: Index | None, *, iou: float, ios: float) -> Index:
    """Find the cell each view belongs to.

    Within a patch the detector has decided; only views of different patches can be one cell. For each two patches
    views are paired one to one, the most alike first, so that in a clump a cell never takes its neighbour while its
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
    first, second = overlapping(views.boxes, views.patch, np.flatnonzero(~views.alone))
    if label is not None:
        equal = label[first] == label[second]
        first, second = first[equal], second[equal]
    pairs = compare(views, first, second, iou=iou, ios=ios)
    first, second = partners(pairs, views, place)
    return _found(first, second, views, place)


def partners(pairs: Pairs, views: Views, place: Index) -> tuple[Index, Index]:
    """Pair the views of each two patches one to one, the most alike first: two arrays (M,) of indices."""
    first, second, likeness = pairs.first[pairs.same], pairs.second[pairs.same], pairs.likeness[pairs.same]
    swap = place[first] > place[second]
    first, second = np.where(swap, second, first), np.where(swap, first, second)
    cut = views.cut[first] | views.cut[second]
    # Rounded, so that the last bits of a frame's arithmetic decide nothing.
    order = np.lexsort((place[second], place[first], cut, -np.round(likeness, 6)))
    first, second = first[order], second[order]
    width = int(views.patch.max(initial=0)) + 1
    claims = np.column_stack([first * width + views.patch[second], second * width + views.patch[first]])
    _, inverse, counts = np.unique(claims, return_inverse=True, return_counts=True)
    chosen = np.asarray((counts[inverse.reshape(claims.shape)] == 1).all(axis=1))
    contested = np.flatnonzero(~chosen)
    taken: set[int] = set()
    for pair, (one, other) in zip(contested.tolist(), claims[contested].tolist(), strict=True):
        if one not in taken and other not in taken:
            taken.update((one, other))
            chosen[pair] = True
    return first[chosen], second[chosen]


def _found(first: Index, second: Index, views: Views, place: Index) -> Index:
    """Let owned views found cells in order and take their partners; `first` is before `second` in the order."""
    founder = np.where(views.owned, np.arange(len(place)), -1)
    useful = views.owned[first]
    first, second = first[useful], second[useful]
    order = np.lexsort((place[second], place[first]))
    taken = bytearray(len(place))
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if not taken[one] and not taken[other]:
            taken[other] = 1
            founder[other] = one
    return founder
