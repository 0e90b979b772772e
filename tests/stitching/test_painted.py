"""The painter's cells, through the painter's perfect detector and part files, come out as painted."""

from pathlib import Path

import pytest

from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.stitcher import StitchingConfig, stitch_detections
from wsi_detect.testing.painter import lay_cells
from wsi_detect.testing.perfect import Sight, write_perfect
from wsi_detect.tiling.grid import TileGrid

WIDTH, HEIGHT = 2600, 2200


@pytest.mark.parametrize("patch", [256, 512, 1000])
@pytest.mark.parametrize("overlap", [80, 128])
@pytest.mark.parametrize("min_visible", [0.01, 0.4])
def test_cells_out_are_cells_in(patch, overlap, min_visible, tmp_path):
    cells = lay_cells(WIDTH, HEIGHT, 250, seed=patch + overlap, grids=[(patch, overlap)])
    grid = TileGrid(WIDTH, HEIGHT, patch, overlap)
    folder = write_perfect(cells, grid, tmp_path, slide_id="S1", sight=Sight(min_visible=min_visible))
    slide = SlideInfo("S1", Path(), WIDTH, HEIGHT, 0.25, "file", (1.0,))
    found = stitch_detections(folder, grid, slide, tmp_path, StitchingConfig(largest_cell_um=20), model_id="perfect")
    expected = sorted((tuple(cell.box), cell.label) for cell in cells)
    assert sorted(zip(map(tuple, found.boxes().tolist()), found.table["label"].to_pylist(), strict=True)) == expected


@pytest.mark.parametrize("jitter", [2.0, 5.0])
def test_a_detector_that_jitters_loses_and_doubles_no_cell(jitter, tmp_path):
    cells = lay_cells(WIDTH, HEIGHT, 300, seed=1, clumped=0.0, grids=[(512, 96)])
    grid = TileGrid(WIDTH, HEIGHT, 512, 96)
    folder = write_perfect(cells, grid, tmp_path, slide_id="S1", sight=Sight(jitter_px=jitter))
    slide = SlideInfo("S1", Path(), WIDTH, HEIGHT, 0.25, "file", (1.0,))
    assert len(stitch_detections(folder, grid, slide, tmp_path, StitchingConfig(), model_id="perfect")) == len(cells)
