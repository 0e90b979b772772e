"""Patches that are the slide's own tiles: equal to OpenSlide's pixels, and never a tile that cannot be decoded."""

import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from wsi_detect.slides import open_slide
from wsi_detect.testing.pyramid import damage_tile
from wsi_detect.tiling.mask import MaskConfig
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

CMU = Path(__file__).parents[1] / "fixtures" / "CMU-1-Small-Region.svs"
EVERYTHING = MaskConfig(preparation="none")


@pytest.mark.parametrize("overlap", [None, 0, 300])
def test_the_real_slide_of_240_px_tiles_is_what_openslide_reads(tmp_path, overlap):
    with open_slide(CMU) as slide:
        config = TilingConfig(patch_px=700, overlap_px=overlap, overlap_um=40, codec="jpeg_tiles", mask=EVERYTHING)
        store = tile_slide(slide, tmp_path, config)
        handle = openslide.OpenSlide(CMU)
        for row in range(len(store)):
            x, y = store.origin_px[row].tolist()
            rgba = np.asarray(handle.read_region((x, y), 0, (700, 700)))
            inside = rgba[..., 3] > 0
            rgb = store.read(row).rgb
            assert np.array_equal(rgb[inside], rgba[inside][:, :3])
            assert (rgb[~inside] == 255).all()
    assert not store.columns["unreadable"].any()


def test_the_tiles_are_stored_as_the_slide_has_them(painted, tmp_path):
    with open_slide(painted.path) as slide:
        store = tile_slide(slide, tmp_path, TilingConfig(patch_px=512, overlap_px=0, mask=EVERYTHING))
    shards = b"".join(path.read_bytes() for path in sorted((store.path / "images" / "c").rglob("0")) if path.is_file())
    with tifffile.TiffFile(painted.path) as tiff:
        page = tiff.pages.first
        content = painted.path.read_bytes()
        for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            assert content[offset : offset + size] in shards


def broken_inside(source, folder):
    """A copy of a slide with 16 bytes of zeros in the midst of tile 7, which only a decoder notices."""
    path = Path(shutil.copy(source, folder / "broken.svs"))
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages.first.dataoffsets[7], tiff.pages.first.databytecounts[7]
    with path.open("r+b") as stream:
        stream.seek(offset + size * 2 // 3)
        stream.write(bytes(16))
    return path


@pytest.mark.parametrize("check", [False, True])
def test_a_tile_that_looks_sound_and_is_not_is_counted_at_the_latest_when_read(painted, tmp_path, check):
    path = broken_inside(painted.path, tmp_path)
    config = TilingConfig(patch_px=512, overlap_px=0, quality=False, check_tiles=check, mask=EVERYTHING)
    with open_slide(path) as slide:
        store = tile_slide(slide, tmp_path / "out", config)
    # Tile 7 is the second of the second row of six: in the first patch.
    recorded = store.columns["unreadable"]
    assert recorded[0] == (0.25 if check else 0)
    assert not recorded[1:].any()
    found = store.read(0)
    assert found.unreadable == 0.25
    assert (found.rgb[256:, 256:] == 255).all()


def test_a_damaged_tile_is_left_out_and_counted(painted, tmp_path):
    path = Path(shutil.copy(painted.path, tmp_path / "damaged.svs"))
    damage_tile(path, column=1, row=1)
    with open_slide(path) as slide:
        store = tile_slide(slide, tmp_path / "out", TilingConfig(patch_px=512, overlap_px=0, mask=EVERYTHING))
    assert store.columns["unreadable"].tolist() == [0.25] + [0.0] * (len(store) - 1)
    assert store.read(0).unreadable == 0.25
