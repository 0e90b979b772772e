"""Boxes and frames: worked examples, then properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsi_detect.geometry import Box, PatchFrame, box_area, box_intersection, box_ios, box_iou, clip_boxes

corners = st.floats(-1e5, 1e5, allow_nan=False).map(lambda value: round(value, 3))


@st.composite
def box_arrays(draw):
    n = draw(st.integers(0, 6))
    raw = draw(hnp.arrays(np.float64, (n, 4), elements=corners))
    return np.concatenate([np.minimum(raw[:, :2], raw[:, 2:]), np.maximum(raw[:, :2], raw[:, 2:])], axis=1)


def test_box_has_a_size():
    box = Box(2.0, 3.0, 12.0, 8.0)
    assert (box.width, box.height) == (10.0, 5.0)


PAIRS = [
    # a, b, shared area, IoU, IoS
    ((0, 0, 10, 10), (0, 0, 10, 10), 100, 1.0, 1.0),
    ((0, 0, 10, 10), (5, 0, 15, 10), 50, 1 / 3, 0.5),
    ((0, 0, 10, 10), (2, 2, 7, 7), 25, 0.25, 1.0),
    ((0, 0, 10, 10), (10, 0, 20, 10), 0, 0.0, 0.0),  # half-open: neighbours do not touch
    ((0, 0, 10, 10), (30, 30, 40, 40), 0, 0.0, 0.0),
    ((5, 5, 5, 5), (5, 5, 5, 5), 0, 0.0, 0.0),  # an empty box overlaps nothing, not even itself
    ((9, 9, 1, 1), (0, 0, 10, 10), 0, 0.0, 0.0),  # reversed
]


@pytest.mark.parametrize(("a", "b", "shared", "iou", "ios"), PAIRS)
def test_overlap(a, b, shared, iou, ios):
    first, second = np.array([a], dtype=float), np.array([b], dtype=float)
    assert box_intersection(first, second).tolist() == [[shared]]
    assert box_iou(first, second) == pytest.approx(np.array([[iou]]))
    assert box_ios(first, second) == pytest.approx(np.array([[ios]]))


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_no_boxes_give_typed_empties(n, m):
    a, b = np.zeros((n, 4)), np.zeros((m, 4))
    for overlap in (box_intersection, box_iou, box_ios):
        assert overlap(a, b).shape == (n, m)
        assert overlap(a, b).dtype == np.float64
    assert box_area(a).shape == (n,)
    assert clip_boxes(a, 5, 5).shape == (n, 4)
    assert PatchFrame(1, 2, 3).to_slide(a).shape == (n, 4)


def test_area_of_a_reversed_box_is_zero():
    assert box_area(np.array([[0, 0, 4, 5], [4, 5, 0, 0]])).tolist() == [20.0, 0.0]


def test_clip():
    boxes = np.array([[-5, -5, 3, 3], [8, 8, 20, 9], [50, 50, 60, 60]])
    assert clip_boxes(boxes, 10, 9).tolist() == [[0, 0, 3, 3], [8, 8, 10, 9], [10, 9, 10, 9]]


FRAMES = [
    (PatchFrame(0, 0, 1.0), (1, 2, 3, 4), (1, 2, 3, 4)),
    (PatchFrame(1000, 500, 1.0), (1, 2, 3, 4), (1001, 502, 1003, 504)),
    (PatchFrame(1000, 500, 2.0), (1, 2, 3, 4), (1002, 504, 1006, 508)),
    (PatchFrame(-8, 0, 0.5), (0, 0, 16, 16), (-8, 0, 0, 8)),
]


@pytest.mark.parametrize(("frame", "patch_px", "slide_px"), FRAMES)
def test_frames(frame, patch_px, slide_px):
    assert frame.to_slide(np.array([patch_px])).tolist() == [list(slide_px)]
    assert frame.to_patch(np.array([slide_px])).tolist() == [list(patch_px)]


def test_slide_px_keep_a_hundredth_of_a_pixel_far_from_the_origin():
    frame = PatchFrame(180_000, 90_000, 1.0)
    moved = frame.to_slide(np.array([[0.01, 0.02, 10.01, 10.02]], dtype=np.float32))
    assert moved.dtype == np.float64
    assert moved == pytest.approx(np.array([[180_000.01, 90_000.02, 180_010.01, 90_010.02]]), abs=1e-5)


@given(box_arrays(), corners, corners, st.floats(0.1, 8))
def test_there_and_back(boxes, x, y, scale):
    frame = PatchFrame(x, y, scale)
    assert frame.to_patch(frame.to_slide(boxes)) == pytest.approx(boxes, abs=1e-6)


@given(box_arrays(), box_arrays())
def test_overlap_properties(a, b):
    iou, ios = box_iou(a, b), box_ios(a, b)
    assert (iou >= 0).all()
    assert (iou <= 1 + 1e-9).all()
    assert (ios <= 1 + 1e-9).all()
    assert (iou <= ios + 1e-9).all()
    assert np.array_equal(iou, box_iou(b, a).T)


@given(box_arrays(), st.floats(0, 1000), st.floats(0, 1000))
def test_clipping_twice_changes_nothing(boxes, width, height):
    once = clip_boxes(boxes, width, height)
    assert np.array_equal(once, clip_boxes(once, width, height))
    assert (box_area(once) <= box_area(boxes) + 1e-6).all()
