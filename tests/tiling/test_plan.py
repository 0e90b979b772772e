"""What is planned for a slide: which level, which codec, where the patches lie."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.errors import ConfigError
from wsi_detect.slides import open_slide
from wsi_detect.slides.tiles import tiles_of
from wsi_detect.testing.pyramid import write_pyramid
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.mask import CellMask
from wsi_detect.tiling.plan import TilingConfig, lay_out, make_plan

CMU = Path(__file__).parents[1] / "fixtures" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    """2,000 x 1,600 px at 0.25 µm/px, levels 1 and 4, tiles of 256 px."""
    rgb = np.random.default_rng(0).integers(80, 200, (50, 63, 3), np.uint8).repeat(32, 0).repeat(32, 1)
    path = tmp_path_factory.mktemp("plan") / "slide.svs"
    return write_pyramid(path, lambda y0, y1: rgb[y0:y1, :2000], width=2000, height=1600, mpp=0.25)


@pytest.mark.parametrize(
    ("values", "codec", "reason", "level", "patch", "stride", "align"),
    [
        ({}, "jpeg_tiles", "the slide's own tiles", 0, 512, 256, 256),
        ({"mpp": 0.254}, "jpeg_tiles", "the slide's own tiles", 0, 512, 256, 256),
        ({"overlap_px": 0}, "jpeg_tiles", "the slide's own tiles", 0, 512, 512, 1),
        ({"overlap_px": 100}, "jpeg_tiles", "the slide's own tiles", 0, 512, 412, 1),
        ({"patch_px": 1024, "overlap_um": 50}, "jpeg_tiles", "the slide's own tiles", 0, 1024, 768, 256),
        ({"patch_px": 300, "overlap_um": 50}, "jpeg_tiles", "the slide's own tiles", 0, 300, 100, 1),
        ({"patch_px": 200}, "jpeg", "the slide's tiles, 256 x 256 px, are larger than a patch", 0, 200, 72, 1),
        ({"mpp": 1.0}, "jpeg_tiles", "the slide's own tiles", 1, 2048, 1024, 1024),
        ({"mpp": 1.0, "codec": "jpeg"}, "jpeg", "jpeg", 1, 2048, 1920, 4),
        ({"mpp": 0.5}, "jpeg", "the patches are resampled", None, 1024, 896, 1),
        ({"codec": "zstd"}, "zstd", "zstd", 0, 512, 384, 1),
        ({"codec": "none"}, "none", "none", 0, 512, 384, 1),
    ],
)
def test_layout(pyramid, values, codec, reason, level, patch, stride, align):
    with open_slide(pyramid) as slide:
        config = TilingConfig(**{"patch_px": 512, "overlap_um": 32, **values})
        layout = lay_out(slide.info, config, tiles_of(slide))
    assert (layout.codec, layout.codec_reason, layout.level) == (codec, reason, level)
    assert (layout.grid.patch, layout.grid.patch - layout.grid.overlap, layout.grid.align) == (patch, stride, align)
    assert layout.mpp == pytest.approx(0.25 * patch / config.patch_px)


def test_tiles_of_240_px_are_aligned_with_too():
    with open_slide(CMU) as slide:
        layout = lay_out(slide.info, TilingConfig(overlap_um=64), tiles_of(slide))
    assert layout.codec == "jpeg_tiles"
    assert layout.grid.patch - layout.grid.overlap == 720
    assert layout.grid.overlap * slide.info.mpp >= 64
    assert (layout.grid.origins() % 240 == 0).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [({"mpp": 0.5}, "the patches are resampled"), ({"patch_px": 128, "overlap_um": 8}, "are larger than a patch")],
)
def test_tiles_that_cannot_be_kept_as_they_are_are_refused_at_planning(pyramid, values, message):
    with open_slide(pyramid) as slide, pytest.raises(ConfigError, match=f"jpeg_tiles is not possible: .*{message}"):
        make_plan(slide, TilingConfig(**{"patch_px": 512, "overlap_um": 32, "codec": "jpeg_tiles", **values}))


def test_a_slide_of_another_compression_is_encoded(slides_png):
    with open_slide(slides_png, mpp=0.25) as slide:
        layout = lay_out(slide.info, TilingConfig(patch_px=64, overlap_um=4), tiles_of(slide))
    assert (layout.codec, layout.codec_reason) == ("jpeg", "the slide is not made of baseline JPEG tiles")


@pytest.fixture
def slides_png(tmp_path):
    from PIL import Image

    path = tmp_path / "field.png"
    Image.fromarray(np.full((100, 120, 3), 200, np.uint8)).save(path)
    return path


def test_the_plan_does_not_depend_on_where_the_slide_lies(pyramid, tmp_path):
    moved = shutil.copy(pyramid, tmp_path / "宫颈 slide.svs")
    plans = []
    for path in (pyramid, Path(moved)):
        with open_slide(path) as slide:
            plans.append(make_plan(slide, TilingConfig(patch_px=512, overlap_um=32)))
    assert plans[0].key == plans[1].key
    assert np.array_equal(plans[0].patch_ids, plans[1].patch_ids)


@st.composite
def grids(draw):
    patch = draw(st.integers(16, 200))
    stride = draw(st.integers(max(1, patch // 4), patch))
    align = draw(st.sampled_from([step for step in range(1, stride + 1) if stride % step == 0]))
    return TileGrid(draw(st.integers(1, 600)), draw(st.integers(1, 600)), patch, patch - stride, align)


@settings(deadline=None)
@given(grid=grids(), seed=st.integers(0, 2**32 - 1), downsample=st.sampled_from([1.0, 3.7, 16.0]))
def test_every_mask_pixel_lies_in_a_patch_that_is_kept(grid, seed, downsample):
    rng = np.random.default_rng(seed)
    shape = tuple(int(-(-side // downsample)) for side in (grid.height, grid.width))
    cells = CellMask(rng.random(shape) < 0.02, downsample)
    boxes = grid.boxes()
    kept = boxes[cells.coverage(boxes) > 0]
    for row, column in np.argwhere(cells.mask):
        x0, y0 = column * downsample, row * downsample
        x1, y1 = min(x0 + downsample, grid.width), min(y0 + downsample, grid.height)
        centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
        assert ((kept[:, :2] <= centre) & (kept[:, 2:] >= centre)).all(axis=1).any()


@settings(deadline=None)
@given(grid=grids(), seed=st.integers(0, 2**32 - 1))
def test_every_box_no_larger_than_the_overlap_is_whole_in_a_patch(grid, seed):
    rng = np.random.default_rng(seed)
    corner = rng.random((40, 2)) * [grid.width, grid.height]
    size = rng.random((40, 2)) * grid.overlap
    end = np.minimum(corner + size, [grid.width, grid.height])
    origins = grid.origins()
    inside = (origins[:, None] <= corner).all(axis=2) & (origins[:, None] + grid.patch >= end).all(axis=2)
    assert inside.any(axis=0).all()
