"""Which boxes of a slide a patch is asked to find, which it must ignore."""

import numpy as np
import pytest

from wsi_detect.data.targets import IGNORED_LABEL, cut_to_window, patch_targets
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box, PatchFrame

FRAME = PatchFrame(x_px=1000.0, y_px=2000.0, scale=2.0)  # a patch of 100 px shows 200 slide px


@pytest.mark.parametrize(
    ("box", "label", "boxes", "ignored"),
    [
        pytest.param([1020, 2040, 1060, 2080], 1, [[10, 20, 30, 40]], [], id="inside"),
        pytest.param([990, 2000, 1030, 2040], 1, [[0, 0, 15, 20]], [], id="three quarters visible count, cut"),
        pytest.param([980, 2000, 1020, 2040], 1, [], [[0, 0, 10, 20]], id="half visible is ignored"),
        pytest.param([1180, 2180, 1220, 2220], 1, [], [[90, 90, 100, 100]], id="quarter visible is ignored"),
        pytest.param([940, 2000, 1000, 2040], 1, [], [], id="touching from outside is dropped"),
        pytest.param([940, 2000, 1001, 2040], 1, [], [], id="a sliver under a pixel is dropped"),
        pytest.param([3000, 3000, 3040, 3040], 1, [], [], id="far away is dropped"),
        pytest.param([1020, 2040, 1060, 2080], IGNORED_LABEL, [], [[10, 20, 30, 40]], id="another class is ignored"),
    ],
)
def test_a_box_counts_is_ignored_or_dropped(box, label, boxes, ignored):
    found = patch_targets(np.array([box]), np.array([label]), FRAME, 100, min_visible=0.75)
    assert found.boxes.tolist() == boxes
    assert found.ignore_boxes.tolist() == ignored
    assert found.labels.tolist() == [1] * len(boxes)


def test_no_boxes_keep_their_shape_and_type():
    found = patch_targets(np.zeros((0, 4)), np.zeros(0, np.int64), FRAME, 100)
    assert (found.boxes.shape, found.boxes.dtype) == ((0, 4), np.float32)
    assert (found.ignore_boxes.shape, found.labels.dtype) == ((0, 4), np.int64)


def test_a_window_beyond_the_picture_shows_only_the_picture():
    window, picture = Box(-50, -50, 150, 150), Box(0, 0, 100, 100)
    found = cut_to_window(np.array([[60, 0, 140, 40]]), np.array([0]), window, visible=picture)
    assert found.boxes.tolist() == []
    assert found.ignore_boxes.tolist() == [[110, 50, 150, 90]]


@pytest.mark.parametrize("box", [[0, 0, np.nan, 5], [0, 0, np.inf, 5], [0, 0, 0, 5], [5, 0, 1, 5]])
def test_a_broken_box_is_refused(box):
    with pytest.raises(LabelError, match="first is row 0"):
        patch_targets(np.array([box]), np.array([0]), FRAME, 100)
