"""Points of an outline → its box and its WKB, slide px; what is no outline is said, not mended."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

#: More corners than this is no outline of a cell or a region but a fault of the program that wrote it.
MAX_VERTICES = 100_000
_NOWHERE = Box(float("nan"), float("nan"), float("nan"), float("nan"))

Points = NDArray[np.float64]


class Outline(NamedTuple):
    """An outline; `geometry` is None where `problem` says why."""

    box: Box
    geometry: bytes | None = None
    problem: str | None = None


def points_of(values: Iterable[Any], where: str) -> Points:
    """Return points (N, 2) of pairs of numbers; what a pair has beyond two is left out.

    Raises:
        LabelError: they are not pairs of numbers.
    """
    try:
        points = np.array([(value[0], value[1]) for value in values], dtype=np.float64)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise LabelError(f"{where}: the outline is not a list of points x, y: {error}") from error
    return points.reshape(-1, 2)


def outlines(rings: Sequence[Points]) -> list[Outline]:
    """Outlines of closed rings without holes, (N, 2) points each; the first may be repeated at the end or not."""
    found: list[Outline | None] = [_problem(ring) for ring in rings]
    good = [k for k, problem in enumerate(found) if problem is None]
    if good:
        coordinates = np.concatenate([rings[k] for k in good])
        lengths = np.array([len(rings[k]) for k in good])
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        shapes = shapely.polygons(shapely.linearrings(coordinates, indices=np.repeat(np.arange(len(good)), lengths)))
        low, high = np.minimum.reduceat(coordinates, starts), np.maximum.reduceat(coordinates, starts)
        boxes = np.column_stack([low, high]).tolist()
        for k, box, packed in zip(good, boxes, shapely.to_wkb(shapes).tolist(), strict=True):
            found[k] = Outline(Box(*box), packed)
    return [entry for entry in found if entry is not None]


def outline(ring: Points) -> Outline:
    """Outline of one ring."""
    return outlines([ring])[0]


def united(polygons: Sequence[Sequence[Points]]) -> Outline:
    """One outline of several polygons, each a ring and its holes."""
    rings = [ring for polygon in polygons for ring in polygon]
    bad = next((problem for ring in rings if (problem := _problem(ring)) is not None), None)
    if bad is not None:
        return bad
    if not rings or sum(map(len, rings)) > MAX_VERTICES:
        return Outline(_box(rings), None, _too_many(sum(map(len, rings))) if rings else "has no outline")
    shapes = [shapely.Polygon(polygon[0], polygon[1:]) for polygon in polygons]
    shape = shapes[0] if len(shapes) == 1 else shapely.MultiPolygon(shapes)
    return Outline(Box(*shape.bounds), bytes(shapely.to_wkb(shape)))


def ellipse(box: Box) -> Outline:
    """Outline of an ellipse in its box, a polygon of 64 corners."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = (box.x0 + box.x1) / 2 + box.width / 2 * np.cos(angle)
    y = (box.y0 + box.y1) / 2 + box.height / 2 * np.sin(angle)
    return Outline(box, outline(np.column_stack([x, y])).geometry)


def _problem(ring: Points) -> Outline | None:
    if len(ring) > MAX_VERTICES:
        return Outline(_box([ring]), None, _too_many(len(ring)))
    if not np.isfinite(ring).all():
        return Outline(_NOWHERE)
    corners = len(ring) - (len(ring) > 1 and bool((ring[0] == ring[-1]).all()))
    if corners < 3:
        return Outline(_box([ring]), None, f"has an outline of {corners} points")
    return None


def _too_many(count: int) -> str:
    return f"has an outline of {count} vertices, at most {MAX_VERTICES} are read"


def _box(rings: Sequence[Points]) -> Box:
    points = np.concatenate(rings) if rings else np.zeros((0, 2))
    if not len(points) or not np.isfinite(points).all():
        return _NOWHERE
    return Box(*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
