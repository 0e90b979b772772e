import numpy as np
import pytest
from memory_slides import painted

from wsi_detect.tiling.quality import measure


def test_a_blank_patch_has_no_focus_and_no_crowding():
    quality = measure(np.full((64, 64, 3), 255, np.uint8))
    assert (quality.focus, quality.stain, quality.crowding) == (0, 0, 0)


def test_stain_is_an_optical_density():
    assert measure(np.full((8, 8, 3), 25, np.uint8)).stain == pytest.approx(1.0086, abs=1e-3)


def test_blur_lowers_focus_and_cells_raise_crowding():
    sharp = painted(192, 192)
    blurred = sharp.reshape(96, 2, 96, 2, 3).mean(axis=(1, 3)).repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    assert measure(blurred).focus < measure(sharp).focus
    assert measure(sharp).crowding == pytest.approx(4 * np.pi * 12**2 / 192**2, rel=0.05)


def test_a_patch_of_one_pixel_is_measured():
    assert measure(np.full((1, 1, 3), 100, np.uint8)).focus == 0
