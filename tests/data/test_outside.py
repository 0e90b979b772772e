"""What lies outside the labelled areas is covered with boxes to ignore, and as good as nothing else is."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.data.outside import STRIP_PX, outside_boxes

WINDOW = shapely.box(-2000, -2000, 3000, 3000)


def covered(area):
    return shapely.intersection(shapely.union_all(shapely.box(*outside_boxes(area).T)), WINDOW)


@pytest.mark.parametrize(
    "area",
    [
        shapely.box(100, 200, 400, 300),
        shapely.union_all([shapely.box(0, 0, 100, 100), shapely.box(50, 50, 400, 300)]),
        shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(500, 500, 700, 900)]),
        shapely.difference(shapely.box(0, 0, 900, 900), shapely.box(100, 100, 300, 850)),
    ],
    ids=["box", "step", "two", "hole"],
)
def test_edges_along_the_axes_are_met_exactly(area):
    assert shapely.symmetric_difference(covered(area), shapely.difference(WINDOW, area)).area == 0


def test_a_box_gives_the_four_sides_around_it():
    far = 2.0**31
    assert outside_boxes(shapely.box(10, 20, 30, 50)).tolist() == [
        [-far, -far, 10, far], [-far, -far, far, 20], [-far, 50, far, far], [30, -far, far, far],
    ]  # fmt: skip


points = st.tuples(st.integers(0, 4000), st.integers(0, 4000)).map(lambda corner: (corner[0] / 4, corner[1] / 4))


@settings(deadline=None, max_examples=60)
@given(st.lists(points, min_size=3, max_size=12))
def test_nothing_outside_is_left_out_and_little_inside_is_lost(corners):
    area = shapely.convex_hull(shapely.MultiPoint(corners)).buffer(0)
    if not area.area > 1:
        return
    outside = shapely.difference(WINDOW, area)
    found = covered(area)
    assert shapely.difference(outside, found).area < 1e-3
    # A row is lost along its height, and along the way its edge goes within it.
    edge = shapely.union_all([piece.envelope for piece in edge_in_rows(area)])
    assert shapely.difference(shapely.intersection(found, area), edge).area < 1e-3


def edge_in_rows(area):
    _, low, _, high = area.bounds
    rows = max(int(np.ceil((high - low) / STRIP_PX)), 1)
    edges = np.linspace(low, high, rows + 1)
    boxes = shapely.box(-1e4, edges[:-1] - 8, 1e4, edges[1:] + 8)
    pieces = shapely.intersection(shapely.boundary(area), boxes)
    return [part for piece in pieces for part in shapely.get_parts(piece)]


def test_one_box_covers_a_detection_that_lies_outside_beside_a_slanted_edge():
    area = shapely.Polygon([(0, 0), (1000, 0), (0, 1000)])
    boxes = outside_boxes(area)
    for x, y in ((520, 520), (900, 130), (30, 1010), (-60, 300)):
        detection = shapely.box(x, y, x + 40, y + 40)
        best = shapely.area(shapely.intersection(shapely.box(*boxes.T), detection)).max()
        assert best == pytest.approx(1600), (x, y)


def test_a_long_outline_is_no_trouble():
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    radius = 4000 + 300 * np.sin(40 * angle)
    area = shapely.Polygon(np.column_stack([5000 + radius * np.cos(angle), 5000 + radius * np.sin(angle)]))
    boxes = outside_boxes(area)
    assert len(boxes) < 6000
    assert np.isfinite(boxes).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
