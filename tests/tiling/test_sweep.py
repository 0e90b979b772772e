"""Patches from the slide's own tiles: decoded once, equal to what OpenSlide reads, and nothing lost in silence."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.geometry import Box
from wsi_detect.slides import open_slide
from wsi_detect.testing.pyramid import damage_tile, drop_area, write_pyramid
from wsi_detect.tiling.blank import find_blank
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.mask import MaskConfig, find_cells
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.sweep import PatchSize, TileSweep
from wsi_detect.tiling.tiler import tile_slide

CMU = Path(__file__).parents[1] / "fixtures" / "CMU-1-Small-Region.svs"
GLASS = (238, 236, 240)


def oracle(path, x, y, side):
    """What OpenSlide has, on white; and where it has something."""
    rgba = np.asarray(openslide.OpenSlide(path).read_region((x, y), 0, (side, side)))
    return np.where(rgba[..., 3:] > 0, rgba[..., :3], 255), rgba[..., 3] > 0


def sweep_of(slide, grid, patch_px, **options):
    return TileSweep(slide, grid.origins(), PatchSize(grid.patch, patch_px), level=0, **options)


@settings(deadline=None, max_examples=25)
@given(patch=st.integers(100, 700), share=st.floats(0, 0.7), order=st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", ["cmu", "painted"])
def test_every_patch_is_what_openslide_reads(name, patch, share, order, painted):
    path = CMU if name == "cmu" else painted.path
    with open_slide(path) as slide:
        grid = TileGrid(min(slide.info.width_px, 1500), min(slide.info.height_px, 1200), patch, int(patch * share))
        sweep = sweep_of(slide, grid, patch)
        # In order, and then any of them once more: a sweep is fastest in order, and right in any.
        places = [*sorted(order.sample(range(len(sweep)), min(6, len(sweep)))), 0, len(sweep) - 1]
        for i in places:
            x, y = grid.origins()[i]
            assert np.array_equal(sweep.read(i).rgb, oracle(path, x, y, patch)[0])


@pytest.mark.parametrize(("patch", "overlap"), [(512, 0), (512, 100), (512, 256), (300, 120), (700, 1)])
def test_each_tile_is_decoded_once(painted, patch, overlap, monkeypatch):
    with open_slide(painted.path) as slide:
        counted = Counter()
        decode = slide.tiles.decode
        monkeypatch.setattr(
            slide.tiles, "decode", lambda level, r, c, **rest: counted.update([(r, c)]) or decode(level, r, c, **rest)
        )
        sweep = sweep_of(slide, TileGrid(1536, 1280, patch, overlap), patch)
        for i in range(len(sweep)):
            sweep.read(i)
    assert counted == {(r, c): 1 for r in range(5) for c in range(6)}


def test_a_patch_beyond_the_edge_is_white_there_and_nothing_is_missing(painted):
    with open_slide(painted.path) as slide:
        found = TileSweep(slide, np.array([[1280, 1024]]), PatchSize(512, 512), level=0).read(0)
        assert np.array_equal(found.rgb, oracle(painted.path, 1280, 1024, 512)[0])
    assert (found.no_data, found.unreadable, found.skipped) == (0, 0, 0)
    assert (found.rgb[256:] == 255).all()
    assert (found.rgb[:, 256:] == 255).all()


def test_damaged_and_missing_tiles_cost_their_own_area(painted, tmp_path):
    path = Path(shutil.copy(painted.path, tmp_path / "damaged.svs"))
    damage_tile(path, column=1, row=1)
    drop_area(path, Box(768, 512, 1024, 768))
    with open_slide(painted.path) as sound, open_slide(path) as slide:
        grid = TileGrid(1536, 1280, 512, 128)
        whole, sweep = sweep_of(sound, grid, 512), sweep_of(slide, grid, 512)
        for i, (x, y) in enumerate(grid.origins().tolist()):
            found, expected = sweep.read(i), whole.read(i).rgb.copy()
            lost = {"unreadable": Box(256, 256, 512, 512), "no_data": Box(768, 512, 1024, 768)}
            for name, box in lost.items():
                rows = slice(max(int(box.y0) - y, 0), max(int(box.y1) - y, 0))
                columns = slice(max(int(box.x0) - x, 0), max(int(box.x1) - x, 0))
                expected[rows, columns] = 255
                area = expected[rows, columns].shape[0] * expected[rows, columns].shape[1]
                assert getattr(found, name) == pytest.approx(area / 512**2), (i, name)
            assert np.array_equal(found.rgb, expected)


def glass(width, height, cells=()):
    """Clean glass with sensor noise, and cells as (x, y, radius, colour)."""
    rng = np.random.default_rng(3)
    rgb = rng.normal(GLASS, 1.0, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    for cx, cy, radius, colour in cells:
        inside = np.hypot(x - cx, y - cy) < radius
        rgb[inside] = rng.normal(colour, 2.0, (inside.sum(), 3))
    return np.clip(rgb, 0, 255).astype(np.uint8)


def write(path, rgb, mpp=0.25):
    return write_pyramid(path, lambda y0, y1: rgb[y0:y1], width=rgb.shape[1], height=rgb.shape[0], mpp=mpp)


def test_blank_tiles_are_painted_and_a_single_pale_cell_is_not(tmp_path):
    # 12 % of the light: the palest cytoplasm, 30 µm across, alone in the middle of a tile.
    pale = tuple(0.88 * value for value in GLASS)
    path = write(tmp_path / "pale.svs", glass(2048, 1024, [(1152, 640, 60, pale)]))
    with open_slide(path) as slide:
        cells = find_cells(slide, MaskConfig())
        blank = find_blank(slide, slide.tiles.levels[0], 1, cells)
        assert not blank.tiles[2, 4]
        assert blank.tiles.sum() >= 20
        grid = TileGrid(2048, 1024, 1024, 0)
        sweep = sweep_of(slide, grid, 1024, blank=blank)
        found = [sweep.read(i) for i in range(2)]
        for i, patch in enumerate(found):
            true = oracle(path, 1024 * i, 0, 1024)[0].astype(int)
            assert patch.skipped == pytest.approx(blank.tiles[:, 4 * i : 4 * i + 4].mean())
            # What was painted is the colour of the glass there; what was decoded is exact.
            assert np.abs(patch.rgb.astype(int) - true).max() < 12
        cell = found[1].rgb[512:768, 0:256]
        assert np.array_equal(cell, oracle(path, 1024, 512, 256)[0])


def test_a_cell_too_small_for_the_thumbnail_is_kept_by_its_bytes(tmp_path):
    rgb = glass(1024, 1024)
    # A speck of texture as fine as the pixels: gone on a thumbnail of 4 µm per px, costly in a JPEG.
    rng = np.random.default_rng(0)
    rgb[600:664, 600:664] = np.clip(rng.normal(GLASS, 14, (64, 64, 3)), 0, 255)
    path = write(tmp_path / "speck.svs", rgb)
    with open_slide(path) as slide:
        nothing = find_cells(slide, MaskConfig(um_per_px=16.0, stain_threshold=0.2))
        assert nothing.area_px() == 0
        blank = find_blank(slide, slide.tiles.levels[0], 1, nothing)
    assert not blank.tiles[2, 2]
    assert blank.tiles.sum() == 15


def test_skipping_can_be_switched_off(tmp_path):
    path = write(tmp_path / "pale.svs", glass(1024, 1024, [(200, 200, 30, (150, 100, 150))]))
    with open_slide(path) as slide:
        config = {"patch_px": 512, "overlap_px": 0, "codec": "jpeg", "mask": {"preparation": "none"}}
        on = tile_slide(slide, tmp_path / "on", TilingConfig(**config))
        off = tile_slide(slide, tmp_path / "off", TilingConfig(**config, skip_blank=False))
    assert on.columns["skipped"].tolist() == [0, 0, 0, 0]  # without a mask nothing is known to be glass
    assert off.columns["skipped"].tolist() == [0, 0, 0, 0]
