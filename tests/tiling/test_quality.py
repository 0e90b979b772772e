import dataclasses
import math

import numpy as np
import pytest
from memory_slides import painted

from wsi_detect.tiling.mask import CellMask
from wsi_detect.tiling.quality import QUALITY_COLUMNS, Quality, measure, sample_boxes

WHITE = (255.0, 255.0, 255.0)


def test_the_columns_are_the_fields():
    assert tuple(field.name for field in dataclasses.fields(Quality)) == QUALITY_COLUMNS


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([], id="none"),
        pytest.param([np.full((256, 256, 3), 255, np.uint8)], id="blank"),
        pytest.param([np.full((1, 1, 3), 100, np.uint8)], id="one px"),
    ],
)
def test_where_there_is_no_cell_there_is_no_figure(samples):
    assert all(math.isnan(value) for value in dataclasses.astuple(measure(samples, WHITE)))


@pytest.mark.parametrize(("grey", "stain"), [(25, 1.0086), (128, 0.2993), (204, 0.0969)])
def test_stain_is_the_optical_density_of_the_cells(grey, stain):
    rgb = np.full((128, 128, 3), 255, np.uint8)
    rgb[:64] = grey
    assert measure([rgb], WHITE).stain == pytest.approx(stain, abs=1e-3)


def test_stain_is_against_the_ground():
    assert measure([np.full((64, 64, 3), 100, np.uint8)], (200.0,) * 3).stain == pytest.approx(0.301, abs=1e-3)


def test_blur_lowers_focus_and_cells_raise_crowding():
    sharp = painted(192, 192)
    blurred = sharp.reshape(96, 2, 96, 2, 3).mean(axis=(1, 3)).repeat(2, axis=0).repeat(2, axis=1).astype(np.uint8)
    assert measure([blurred], WHITE).focus < measure([sharp], WHITE).focus
    assert measure([sharp], WHITE).crowding == pytest.approx(4 * np.pi * 12**2 / 192**2, rel=0.15)


def test_windows_with_most_cells_are_sampled():
    mask = np.zeros((64, 64), bool)
    mask[0:4, 28:32] = True
    mask[40:48, 0:8] = True
    cells = CellMask(mask, 32.0)
    boxes = sample_boxes(cells, np.array([[0, 0], [1024, 1024], [1024, 0]]), 1024, 1024)
    assert boxes.dtype == np.int64
    assert boxes.tolist() == [[[768, 0]] + [[-1, -1]] * 3, [[-1, -1]] * 4, [[-1, -1]] * 4]
    assert sample_boxes(cells, np.array([[0, 1024]]), 1024, 1024)[0, 0].tolist() == [0, 256]
