"""MRXS: the scanned area is told, and what was not scanned is white, not valid, and counted as no data."""

import mrxs_files
import numpy as np
import pytest

from wsi_detect.geometry import Box
from wsi_detect.slides import open_slide
from wsi_detect.slides.resample import overview, read_at_mpp
from wsi_detect.testing.painter import lay_cells, paint_region
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

TILE, ACROSS, DOWN = 128, 8, 6
WIDTH, HEIGHT = ACROSS * TILE, DOWN * TILE
#: Columns 1 to 5 and rows 1 to 4 were scanned, but for one picture in their midst.
SCANNED = {(column, row) for column in range(1, 6) for row in range(1, 5)} - {(3, 2)}


@pytest.fixture(scope="module")
def pixels():
    return paint_region(lay_cells(WIDTH, HEIGHT, 60, seed=8), width=WIDTH, height=HEIGHT, seed=8)


@pytest.fixture(scope="module")
def scanned():
    """(HEIGHT, WIDTH) bool."""
    mask = np.zeros((DOWN, ACROSS), bool)
    for column, row in SCANNED:
        mask[row, column] = True
    return mask.repeat(TILE, axis=0).repeat(TILE, axis=1)


@pytest.fixture(scope="module")
def path(pixels, tmp_path_factory):
    cells = {(c, r): pixels[r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE] for c, r in SCANNED}
    folder = tmp_path_factory.mktemp("mrxs")
    return mrxs_files.write(folder / "slide.mrxs", cells, across=ACROSS, down=DOWN, tile_px=TILE)


def test_facts(path):
    with open_slide(path) as slide:
        info = slide.info
        assert (info.vendor, info.width_px, info.height_px, info.level_downsamples) == ("mirax", WIDTH, HEIGHT, (1, 2))
        assert info.bounds == Box(TILE, TILE, 6 * TILE, 5 * TILE)
        assert info.mpp == 0.25
        assert info.mpp_key == "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_X"
        assert mrxs_files.SLIDE_ID not in str(info)


@pytest.mark.parametrize("place", [(0, 0, WIDTH, HEIGHT), (3 * TILE - 10, 2 * TILE - 10, 200, 150), (-20, -20, 64, 64)])
def test_holes_are_white_and_not_valid(place, path, pixels, scanned):
    x, y, width, height = place
    with open_slide(path) as slide:
        rgb, valid = slide.read_region(x, y, 0, width, height)
    rows, columns = np.mgrid[y : y + height, x : x + width]
    inside = (rows >= 0) & (columns >= 0)
    expected = inside & scanned[rows.clip(0), columns.clip(0)]
    assert (valid == expected).all()
    assert (rgb[~expected] == 255).all()
    assert (rgb[expected] == pixels[rows.clip(0), columns.clip(0)][expected]).all()


def test_holes_are_counted(path, scanned):
    with open_slide(path) as slide:
        hole = read_at_mpp(slide, 3 * TILE, 2 * TILE, TILE, TILE)
        half = read_at_mpp(slide, 2 * TILE, 2 * TILE, 2 * TILE, 2 * TILE)
        whole = overview(slide, WIDTH)
    assert (hole.no_data, half.no_data, hole.unreadable) == (1.0, 0.25, 0.0)
    assert whole.no_data == pytest.approx(1 - scanned.mean())


def test_holes_are_counted_in_the_store(path, scanned, tmp_path):
    with open_slide(path) as slide:
        store = tile_slide(slide, tmp_path / "out", TilingConfig(patch_px=256, overlap_um=16, shard_patches=4))
    assert len(store) > 0
    for (x, y), no_data in zip(store.origin_px, store.columns["no_data"], strict=True):
        part = scanned[y : y + 256, x : x + 256]
        assert no_data == pytest.approx(1 - part.mean())
