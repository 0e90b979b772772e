"""What lies outside the labelled areas of a slide, as boxes to ignore: there, no cell is a statement.

Detectors know boxes to ignore and nothing else, so the outside is covered with boxes, row of boxes by row. Edges along
x and y are met exactly; along a slanted edge, up to `STRIP_PX` of what was labelled is ignored too, never the reverse.
"""

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.geometry import Boxes

#: Height of the rows along slanted edges, slide px; a few µm.
STRIP_PX = 16.0
#: How far a box goes on into rows above and below where they are outside too, slide px: further than a cell, so that
#: one box covers a detection which lies wholly outside.
_REACH_PX = 512.0
#: Rows are not thinner than this, slide px: what is less than one px of a patch would be lost.
_THINNEST_PX = 4.0
#: Farther than the edge of any slide, slide px.
_FAR_PX = float(1 << 31)

#: Open stretches of one row that are outside along its whole height.
_Intervals = list[tuple[float, float]]


def outside_boxes(area: shapely.Geometry) -> Boxes:
    """Boxes (M, 4) xyxy in slide px, overlapping, that cover all that lies outside an area and no more than said above.

    Args:
        area: polygon or several, slide px, valid, with an area.
    """
    cuts = _cuts(area)
    rows: list[_Intervals] = [[(-_FAR_PX, _FAR_PX)]]
    rows += [_outside(part, low, high) for part, low, high in _rows(area, cuts)]
    rows.append([(-_FAR_PX, _FAR_PX)])
    edges = np.array([-_FAR_PX, *cuts, _FAR_PX])
    found = {
        (x0, edges[first], x1, edges[last + 1])
        for number, row in enumerate(rows)
        for x0, x1 in row
        for first, last in [_reach(rows, edges, number, (x0, x1))]
    }
    return np.array(sorted(found), dtype=np.float64).reshape(-1, 4)


def _cuts(area: shapely.Geometry) -> NDArray[np.float64]:
    """Heights at which rows begin and end, from the top of the area to its bottom."""
    _, low, _, high = area.bounds
    corners = [shapely.get_coordinates(ring) for ring in shapely.get_rings(shapely.get_parts(area))]
    slanted = any(((ring[1:] != ring[:-1]).sum(axis=1) > 1).any() for ring in corners)
    if slanted:
        heights = np.linspace(low, high, max(int(np.ceil((high - low) / STRIP_PX)), 1) + 1)
    else:
        heights = np.unique(np.concatenate(corners)[:, 1])
    kept = [low]
    for height in heights[1:-1].tolist():
        if height - kept[-1] >= _THINNEST_PX and high - height >= _THINNEST_PX:
            kept.append(height)
    return np.array([*kept, high])


def _rows(area: shapely.Geometry, cuts: NDArray[np.float64]) -> list[tuple[shapely.Geometry, float, float]]:
    """Parts of an area in rows; halved and halved again, since to cut a long outline takes as long as it is."""
    if len(cuts) == 2:
        return [(area, float(cuts[0]), float(cuts[1]))]
    middle = len(cuts) // 2
    x0, _, x1, _ = area.bounds if not area.is_empty else (0.0, 0.0, 1.0, 1.0)
    found = []
    for half in (cuts[: middle + 1], cuts[middle:]):
        found += _rows(shapely.intersection(area, shapely.box(x0, half[0], x1, half[-1])), half)
    return found


def _outside(part: shapely.Geometry, low: float, high: float) -> _Intervals:
    """Stretches of a row that are not wholly inside, in order."""
    if part.is_empty or not part.area > 0:
        return [(-_FAR_PX, _FAR_PX)]
    x0, _, x1, _ = part.bounds
    gaps = [piece.bounds for piece in shapely.get_parts(shapely.difference(shapely.box(x0, low, x1, high), part))]
    stretches = sorted([(-_FAR_PX, x0), *((gap[0], gap[2]) for gap in gaps if gap[2] > gap[0]), (x1, _FAR_PX)])
    merged = [stretches[0]]
    for begin, end in stretches[1:]:
        if begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def _reach(
    rows: list[_Intervals], edges: NDArray[np.float64], number: int, stretch: tuple[float, float]
) -> tuple[int, int]:
    """First and last row that a stretch of a row can be carried on to."""

    def free(row: int) -> bool:
        return any(begin <= stretch[0] and stretch[1] <= end for begin, end in rows[row])

    first = last = number
    while first > 0 and edges[number] - edges[first] < _REACH_PX and free(first - 1):
        first -= 1
    while last < len(rows) - 1 and edges[last + 1] - edges[number + 1] < _REACH_PX and free(last + 1):
        last += 1
    return first, last
