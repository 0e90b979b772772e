"""Objects put together from pieces.

An object larger than the overlap is whole in no patch: each that shows it has a piece, flush with an edge. A cell
founded by a piece is a piece as well, open on the sides where its object may go on.
"""

import numpy as np
from numpy.typing import NDArray

from wsi_detect.geometry import Boxes
from wsi_detect.stitching import labels
from wsi_detect.stitching.cells import Cells
from wsi_detect.stitching.columns import GRAVITIES
from wsi_detect.stitching.groups import Groups
from wsi_detect.stitching.ownership import Views
from wsi_detect.stitching.pairs import Index, overlapping
from wsi_detect.stitching.rules import StitchingConfig

#: The direction that is outwards for each of x0, y0, x1, y1.
_OUTWARDS = np.array([-1.0, -1.0, 1.0, 1.0])


def united(views: Views, groups: Groups, margin: float) -> tuple[Boxes, NDArray[np.uint8]]:
    """Give cells founded by a piece the pieces that go on beyond the edge that cut it.

    Args:
        views: the detections.
        groups: cells whose founders are pieces.
        margin: a box this close to an edge may be cut by it, slide px.

    Returns:
        Boxes (4, G), and which sides of each are open, bit k for side k.
    """
    founder = groups.founding[groups.cell]
    windows, cut = views.windows[views.patch[founder]].T, views.edges[founder]
    beyond = np.zeros(len(founder), dtype=bool)
    for side, outwards in enumerate(_OUTWARDS):
        goes_on = outwards * (views.sides[side, groups.member] - windows[side]) > 0
        beyond |= goes_on & (cut >> np.uint8(side) & np.uint8(1) > 0)
    sides = views.sides.take(groups.founding, axis=1)
    _grow(sides, views.sides[:, groups.member[beyond]], groups.cell[beyond])
    pieces, edges = views.sides.take(groups.member, axis=1), views.edges[groups.member]
    return sides, _open(sides, pieces, edges, groups.cell, margin)


def joined(cells: Cells, config: StitchingConfig) -> Cells:
    """Join cells that are pieces facing each other across an edge, until no more do.

    Two pieces face each other if one is open to the right and the other to the left, the first begins and ends
    further to the left, they share some area (the strip both patches show) and, along the edge, `ios` of the smaller
    one; or the same downwards. A whole cell is open on no side, so it is joined to nothing.

    Args:
        cells: with their open sides.
        config: `ios`, the cut margin in slide px, the clinical rule.
    """
    while True:
        first, second = _facing(cells, config.ios)
        if not len(first):
            return cells
        cells = _merged(cells, first, second, config)


def _facing(cells: Cells, ios: float) -> tuple[Index, Index]:
    pieces = np.flatnonzero(cells.edges)
    a, b = overlapping(cells.sides, np.arange(len(cells)), pieces)
    one, other = np.append(a, b), np.append(b, a)
    p, q = cells.sides.take(one, axis=1), cells.sides.take(other, axis=1)
    faces = np.zeros(len(one), dtype=bool)
    for axis, along in ((0, 1), (1, 0)):
        opens = cells.edges[one] & np.uint8(4 << axis) > 0
        opens &= cells.edges[other] & np.uint8(1 << axis) > 0
        before = (p[axis] < q[axis]) & (p[axis + 2] < q[axis + 2])
        common = np.minimum(p[along + 2], q[along + 2]) - np.maximum(p[along], q[along])
        smaller = np.minimum(p[along + 2] - p[along], q[along + 2] - q[along])
        faces |= opens & before & (common >= ios * smaller)
    return one[faces], other[faces]


def _merged(cells: Cells, first: Index, second: Index, config: StitchingConfig) -> Cells:
    root = np.arange(len(cells))
    before = -1
    while before != (before := int(root.sum())):
        for one, other in ((first, second), (second, first)):
            np.minimum.at(root, one, root[other])
    touched = np.zeros(len(cells), dtype=bool)
    touched[first] = touched[second] = True
    piece = np.flatnonzero(touched)
    # One total order of the pieces, whatever order they came in; those of an object together.
    x0, y0, x1, y1 = cells.sides[:, piece]
    piece = piece[np.lexsort((cells.support[piece], -cells.score[piece], cells.label[piece], y1, x1, y0, x0))]
    piece = piece[np.argsort(root[piece], kind="stable")]
    found = cells.take(piece)
    group = np.cumsum(np.diff(root[piece], prepend=-1) != 0) - 1
    cut = np.ones(len(piece), dtype=bool)
    opinions = labels.Opinions(GRAVITIES[found.label], found.score.astype(np.float64), cut, np.arange(len(piece)))
    voice = labels.decide(group, opinions, margin=config.score_margin)
    start = np.flatnonzero(np.diff(group, prepend=-1))
    sides = found.sides[:, start]
    _grow(sides, found.sides, group)
    whole = Cells(
        sides=sides,
        label=found.label[voice],
        score=found.score[voice],
        support=np.add.reduceat(found.support, start),
        edges=_open(sides, found.sides, found.edges, group, config.cut_margin_px),
        class_scores=None if found.class_scores is None else labels.merge_class_scores(group, found.class_scores),
        members=found.members,
    )
    return Cells.join([cells.take(np.flatnonzero(~touched)), whole])


def _grow(sides: Boxes, pieces: Boxes, group: Index) -> None:
    """Grow boxes (4, G) until they hold their pieces (4, M)."""
    for side, grow in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
        grow.at(sides[side], group, pieces[side])


def _open(sides: Boxes, pieces: Boxes, edges: NDArray[np.uint8], group: Index, margin: float) -> NDArray[np.uint8]:
    """Return the open sides (G,) of boxes: a piece that reaches so far is cut there, and none that does is not."""
    result = np.zeros(sides.shape[1], dtype=np.uint8)
    for side, outwards in enumerate(_OUTWARDS):
        reaches = outwards * (pieces[side] - sides[side, group]) >= -margin
        cut = edges >> np.uint8(side) & np.uint8(1) > 0
        goes_on, ends = np.zeros(len(result), dtype=bool), np.zeros(len(result), dtype=bool)
        goes_on[group[reaches & cut]] = True
        ends[group[reaches & ~cut]] = True
        result |= (goes_on & ~ends).view(np.uint8) << np.uint8(side)
    return result
