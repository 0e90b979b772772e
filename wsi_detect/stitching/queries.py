"""Where cells are: in a window, in a polygon, next to each other. Plain geometry on boxes (N, 4), slide px."""

from typing import TypeAlias

import numpy as np
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from wsi_detect.geometry import Box, Boxes
from wsi_detect.schema import BOX_COLUMNS

Mask = NDArray[np.bool_]
#: A part of a slide, slide px: a window, or what somebody has drawn.
Region: TypeAlias = Box | shapely.Polygon | shapely.MultiPolygon


def check_region(region: Region) -> None:
    """Refuse what encloses nothing.

    Raises:
        ValueError: a window is empty or reversed, a shape is not a polygon, or crosses itself.
    """
    if isinstance(region, Box):
        if not (region.x0 < region.x1 and region.y0 < region.y1):
            raise ValueError(f"a window needs x0 < x1 and y0 < y1, got {tuple(region)}")
    elif not isinstance(region, shapely.Polygon | shapely.MultiPolygon):
        raise ValueError(f"a region is a Box, a Polygon or a MultiPolygon, got {type(region).__name__}")
    elif not region.is_valid:
        reason = shapely.is_valid_reason(region)
        raise ValueError(f"the polygon is not valid ({reason}); draw it again, or mend it with shapely.make_valid")


def centres(boxes: Boxes) -> NDArray[np.float64]:
    """Middles (N, 2) of boxes."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def holds(window: Box, points: NDArray[np.float64]) -> Mask:
    """Which of the points (N, 2) lie in a window, its left and top edge included: windows side by side share none."""
    x, y = points.T
    return np.asarray((x >= window.x0) & (x < window.x1) & (y >= window.y0) & (y < window.y1))


def meets(window: Box, boxes: Boxes) -> Mask:
    """Which of the boxes share area with a window; a box without area shares none."""
    low = np.maximum(boxes[:, :2], (window.x0, window.y0))
    high = np.minimum(boxes[:, 2:], (window.x1, window.y1))
    return np.asarray((low < high).all(axis=1))


def holds_polygon(polygon: shapely.Geometry, tree: shapely.STRtree, points: NDArray[np.float64]) -> Mask:
    """Which of the points (N, 2), middles of the boxes in the tree, lie in a polygon or on its outline."""
    near = tree.query(polygon)
    shapely.prepare(polygon)
    return _mask(len(points), near[shapely.intersects_xy(polygon, points[near])])


def meets_polygon(polygon: shapely.Geometry, tree: shapely.STRtree) -> Mask:
    """Which of the boxes in the tree share area with a polygon; a box without area shares none."""
    near = tree.query(polygon, predicate="intersects")
    boxes = tree.geometries[near]
    shapely.prepare(polygon)
    return _mask(len(tree), near[~shapely.touches(polygon, boxes) & (shapely.area(boxes) > 0)])


def _mask(size: int, rows: NDArray[np.int64]) -> Mask:
    mask = np.zeros(size, dtype=bool)
    mask[rows] = True
    return mask


def area_px2(region: Region, width_px: float, height_px: float) -> float:
    """Area of a region, as far as it lies on a slide of that size.

    Raises:
        ValueError: as `check_region`.
    """
    check_region(region)
    shape = shapely.box(*region) if isinstance(region, Box) else region
    return float(shapely.intersection(shape, shapely.box(0, 0, width_px, height_px)).area)


def nearest(points: NDArray[np.float64], x: float, y: float, k: int) -> NDArray[np.int64]:
    """Return indices of the k points (N, 2) nearest to one place, nearest first; equals in their own order.

    Raises:
        ValueError: k is not positive.
    """
    if k < 1:
        raise ValueError(f"at least one cell must be asked for, got {k}")
    squares = ((points - (x, y)) ** 2).sum(axis=1)
    if k < len(squares):
        candidates = np.flatnonzero(squares <= np.partition(squares, k - 1)[k - 1])
    else:
        candidates = np.arange(len(squares))
    return candidates[np.argsort(squares[candidates], kind="stable")[:k]]


def nearest_distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance (N,) from each point to the nearest other one, infinite if there is no other.

    Quickest if points near each other have numbers near each other.
    """
    _, first, place, number = np.unique(
        np.ascontiguousarray(points).view(np.complex128).ravel(),
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )
    kept = np.sort(first)
    distance = np.full(len(first), np.inf)
    if len(first) > 1:
        # The tree leaves out all that lies at the very place asked for, so that only different places are entered.
        places = shapely.points(points[kept])
        tree = shapely.STRtree(places, node_capacity=4)
        asked, found = tree.query_nearest(places, exclusive=True, all_matches=False, return_distance=True)
        distance[place[kept[asked[0]]]] = found
    distance[number > 1] = 0.0
    return distance[place]


def groups_meeting(metadata: pq.FileMetaData, window: Box) -> list[int]:
    """Row groups of a Parquet file of boxes that can hold one meeting the window, by the file's statistics."""
    columns = [metadata.schema.names.index(name) for name in BOX_COLUMNS]
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        edges = [group.column(column).statistics for column in columns]
        if any(edge is None or not edge.has_min_max for edge in edges):
            found.append(number)
            continue
        x0, y0, x1, y1 = edges
        if x0.min < window.x1 and y0.min < window.y1 and x1.max > window.x0 and y1.max > window.y0:
            found.append(number)
    return found
