"""Pixels at a wanted resolution: the level chosen, the place hit, and what is missing counted."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tiff_files
import tifffile

from wsi_detect.errors import DamagedSlideError
from wsi_detect.geometry import Box
from wsi_detect.slides import open_slide
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.slides.resample import overview, read_at_mpp, thumbnail
from wsi_detect.testing.pyramid import damage_tile, drop_area

#: Slide px from crest to crest of what is painted on an `ArraySlide`.
PERIOD = 90


def wave(position):
    """Grey value at a position in slide px."""
    return 128 + 100 * np.sin(2 * np.pi * position / PERIOD)


def shift(values, position):
    """How far values lie off where they should be, slide px: their error, projected on what a shift would do."""
    slope = 100 * 2 * np.pi / PERIOD * np.cos(2 * np.pi * position / PERIOD)
    return float(((wave(position) - values) * slope).mean() / (slope**2).mean())


class ArraySlide:
    """Levels with a wave along x in red, along y in green; `holes` and `broken` are boxes in slide px."""

    def __init__(self, width, height, downsamples=(1.0,), holes=(), broken=(), tile=None):
        self.info = SlideInfo("S0", Path("array"), width, height, 0.25, "file", tuple(downsamples), native_tile_px=tile)
        self.holes, self.broken, self.calls = holes, broken, []

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        step = self.info.level_downsamples[level]
        self.calls.append((x_px, y_px, level, width, height))
        for box in self.broken:
            if x_px < box.x1 and y_px < box.y1 and x_px + width * step > box.x0 and y_px + height * step > box.y0:
                raise DamagedSlideError("broken")
        x, y = x_px + (np.arange(width) + 0.5) * step, y_px + (np.arange(height) + 0.5) * step
        valid = ((y > 0) & (y < self.info.height_px))[:, None] & ((x > 0) & (x < self.info.width_px))
        for box in self.holes:
            valid &= ~(((y > box.y0) & (y < box.y1))[:, None] & ((x > box.x0) & (x < box.x1)))
        rgb = np.full((height, width, 3), 255.0)
        rgb[..., 0], rgb[..., 1], rgb[..., 2] = wave(x), wave(y)[:, None], 10 * level
        rgb[~valid] = 255
        return np.clip(np.round(rgb), 0, 255).astype(np.uint8), None if valid.all() else valid


def test_without_rescaling_the_pixels_are_the_slides_own(painted):
    with open_slide(painted.path) as slide:
        region = read_at_mpp(slide, 301, 77, 256, 256)
        assert (region.rgb == slide.read_region(301, 77, 0, 256, 256)[0]).all()
    assert (region.no_data, region.unreadable) == (0, 0)


@pytest.mark.parametrize(
    ("size", "out", "level"),
    [
        (100, 100, 0),
        (100, 200, 0),
        (197, 100, 0),
        (200, 100, 1),
        (380, 100, 1),
        (399, 100, 2),
        (400, 100, 2),
        (900, 100, 2),
    ],
)
def test_the_coarsest_level_that_is_fine_enough_is_read(size, out, level):
    slide = ArraySlide(1000, 1000, (1.0, 2.0005, 4.0))
    read_at_mpp(slide, 0, 0, size, out)
    assert {call[2] for call in slide.calls} == {level}


@pytest.mark.parametrize("downsamples", [(1.0,), (1.0, 2.0, 4.0), (1.0, 2.0005, 4.003), (1.0, 3.7)])
@pytest.mark.parametrize(("size", "out"), [(256, 64), (200, 64), (256, 256), (128, 300), (333, 100), (512, 100)])
def test_a_pixel_shows_the_place_it_stands_for(downsamples, size, out):
    region = read_at_mpp(ArraySlide(1000, 1000, downsamples), 203, 101, size, out)
    centres = (np.arange(out) + 0.5) * size / out
    assert region.rgb.shape == (out, out, 3)
    assert abs(shift(region.rgb[..., 0], 203 + centres)) < 0.05
    assert abs(shift(region.rgb[..., 1].T, 101 + centres)) < 0.05


def test_neighbouring_squares_agree_where_they_overlap(painted):
    with open_slide(painted.path) as slide:
        left = read_at_mpp(slide, 200, 200, 300, 200).rgb
        right = read_at_mpp(slide, 350, 200, 300, 200).rgb
    assert np.abs(left[:, 100:].astype(int) - right[:, :100]).max() <= 1


def test_a_large_square_is_read_in_parts_without_a_seam(monkeypatch, painted):
    with open_slide(painted.path) as slide:
        whole = read_at_mpp(slide, 0, 0, 1200, 500).rgb
        monkeypatch.setattr("wsi_detect.slides.resample._MOST_READ", 300)
        parts = read_at_mpp(slide, 0, 0, 1200, 500).rgb
    assert np.abs(whole.astype(int) - parts).max() <= 1


def test_beyond_the_slide_is_white_and_counted_nowhere():
    slide = ArraySlide(100, 60)
    region = read_at_mpp(slide, -50, -50, 200, 200)
    assert (region.no_data, region.unreadable) == (0, 0)
    inside = np.zeros((200, 200), bool)
    inside[50:110, 50:150] = True
    assert ((region.rgb == 255).all(axis=2) == ~inside).all()


def test_far_from_the_slide_nothing_is_read():
    slide = ArraySlide(100, 60)
    assert (read_at_mpp(slide, 500, 0, 64, 64).rgb == 255).all()
    assert slide.calls == []


@pytest.mark.parametrize(("size", "out"), [(200, 200), (200, 100), (200, 50), (200, 333)])
def test_area_without_data_is_a_share_of_the_square(size, out):
    slide = ArraySlide(1000, 1000, (1.0, 4.0), holes=[Box(100, 100, 200, 140)])
    region = read_at_mpp(slide, 100, 100, size, out)
    assert region.no_data == pytest.approx(0.1, abs=1e-9)
    assert region.unreadable == 0


def test_a_hole_that_hangs_over_the_edge_counts_only_on_the_slide():
    slide = ArraySlide(1000, 1000, holes=[Box(900, 0, 1100, 1000)])
    assert read_at_mpp(slide, 800, 0, 400, 400).no_data == pytest.approx(0.5)


@pytest.mark.parametrize(("size", "out"), [(512, 512), (512, 256), (512, 300)])
def test_an_undecodable_tile_costs_only_itself(size, out):
    slide = ArraySlide(1024, 1024, broken=[Box(256, 256, 512, 512)], tile=(256, 256))
    clean = read_at_mpp(ArraySlide(1024, 1024), 100, 100, size, out)
    region = read_at_mpp(slide, 100, 100, size, out)
    assert region.unreadable == pytest.approx((256 / size) ** 2)
    assert region.no_data == 0
    lost = (region.rgb == 255).all(axis=2)
    assert lost.mean() == pytest.approx(0.25, abs=0.02)
    scale = size / out
    far = np.ones((out, out), bool)
    far[int(150 / scale) : int(420 / scale), int(150 / scale) : int(420 / scale)] = False
    assert (region.rgb[far] == clean.rgb[far]).all()
    # Every px the tile has spoilt is known, and few others are called so.
    assert clean.lost is None
    assert (region.rgb[~region.lost] == clean.rgb[~region.lost]).all()
    assert not (lost & ~region.lost).any()
    assert not (region.lost & far).any()


@pytest.mark.parametrize("out", [200, 60, 290])
def test_lost_px_are_those_that_look_at_what_was_lost(monkeypatch, out):
    """Also where a square is read in parts, and a bad block begins just beyond the one at hand."""
    monkeypatch.setattr("wsi_detect.slides.resample._MOST_READ", 70)
    place = 30, 45, 200, out
    broken = Box(128, 64, 192, 128)
    region = read_at_mpp(ArraySlide(400, 400, broken=[broken], tile=(64, 64)), *place)
    clean = read_at_mpp(ArraySlide(400, 400, tile=(64, 64)), *place)
    changed = (region.rgb != clean.rgb).any(axis=2)
    assert changed.any()
    assert (region.lost | ~changed).all()
    assert changed.sum() >= 0.75 * region.lost.sum()


def test_on_a_level_between_px_a_bad_tile_costs_no_other_tile():
    # Tiles of 256 px of a level 4.003 times coarser: seams fall between two px of what is read.
    broken = Box(256 * 4.003, 256 * 4.003, 512 * 4.003, 512 * 4.003)
    slide = ArraySlide(8192, 8192, (1.0, 4.003), broken=[broken], tile=(256, 256))
    region = read_at_mpp(slide, 0, 0, 4096, 1000)
    assert region.unreadable == pytest.approx((256 * 4.003 / 4096) ** 2, rel=0.05)


def test_a_fault_that_passes_is_forgotten():
    class Shaky(ArraySlide):
        def read_region(self, *place, plane=0):
            if len(self.calls) == 0:
                self.calls.append(place)
                raise DamagedSlideError("for once")
            return super().read_region(*place, plane=plane)

    slide = Shaky(100, 100)
    assert read_at_mpp(slide, 0, 0, 100, 100).unreadable == 0
    assert len(slide.calls) == 2


def test_a_real_file_with_a_bad_tile_and_a_dropped_one(painted, tmp_path):
    path = Path(shutil.copy(painted.path, tmp_path / "copy.svs"))
    drop_area(path, Box(0, 0, 256, 256))
    damage_tile(path, column=1, row=0)
    with open_slide(painted.path) as whole, open_slide(path) as slide:
        region, clean = read_at_mpp(slide, 0, 0, 1024, 1024), read_at_mpp(whole, 0, 0, 1024, 1024)
    assert (region.no_data, region.unreadable) == (0.0625, 0.0625)
    assert (region.rgb[:256, :512] == 255).all()
    assert (region.rgb[256:] == clean.rgb[256:]).all()
    assert (region.rgb[:, 512:] == clean.rgb[:, 512:]).all()


@pytest.mark.parametrize(
    ("size", "max_px", "shape", "downsample"),
    [
        ((1000, 500), 100, (50, 100), 10.0),
        ((1000, 500), 333, (167, 333), 1000 / 333),
        ((30, 20), 100, (20, 30), 1.0),
        ((1, 1), 100, (1, 1), 1.0),
        ((3000, 2), 100, (1, 100), 30.0),
    ],
)
def test_a_thumbnail_keeps_the_shape_and_is_never_enlarged(size, max_px, shape, downsample):
    rgb, step = thumbnail(ArraySlide(*size), max_px)
    assert rgb.shape == (*shape, 3)
    assert step == pytest.approx(downsample)


@pytest.mark.parametrize("downsamples", [(1.0,), (1.0, 4.0, 16.0128)])
def test_an_overview_knows_where_the_slide_has_data(downsamples):
    slide = ArraySlide(1000, 800, downsamples, holes=[Box(500, 0, 1000, 400)])
    view = overview(slide, 50)
    assert view.downsample == 20
    assert view.rgb.shape == (40, 50, 3)
    assert view.no_data == pytest.approx(0.25, abs=0.02)
    assert view.unreadable == 0
    assert not view.has_data[:19, 26:].any()
    assert view.has_data[:19, :24].all()


def test_an_overview_knows_where_the_slide_is_damaged():
    view = overview(ArraySlide(1024, 512, broken=[Box(300, 10, 301, 11)], tile=(128, 128)), 64)
    assert view.unreadable == pytest.approx(1 / 32)
    expected = np.ones((32, 64), bool)
    expected[:8, 16:24] = False
    assert (view.has_data == expected).all()


@pytest.mark.parametrize("shape", [(16, 12, 4.0), (1111, 893, 2.0005), (10000, 5000, 16.01282051282051)])
def test_the_last_px_of_a_coarse_level_is_not_held_against_the_scanner(shape):
    width, height, step = shape
    view = overview(ArraySlide(width, height, (1.0, step)), max(4, int(max(width, height) / step / 2)))
    assert view.no_data == 0
    assert view.has_data[:-1, :-1].all()


@pytest.mark.parametrize(("size", "out"), [(0, 10), (10, 0), (-5, 10)])
def test_an_empty_square_is_refused(size, out):
    with pytest.raises(ValueError, match="at least one pixel"):
        read_at_mpp(ArraySlide(10, 10), 0, 0, size, out)


def waves(size, step=1.0):
    """The pixels of an `ArraySlide` of one level, made with `step`."""
    place = (np.arange(size) + 0.5) * step
    rgb = np.full((size, size, 3), 128.0)
    rgb[..., 0], rgb[..., 1] = wave(place), wave(place)[:, None]
    return np.round(rgb).astype(np.uint8)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """A slide of JPEG tiles with waves, 1024 px and a quarter of it."""
    folder = tmp_path_factory.mktemp("waves")
    levels = [
        (size, size, [tiff_files.encode(part, subsampling="444", quality=95) for part in tiff_files.cut(rgb)])
        for size, rgb in ((1024, waves(1024)), (256, waves(256, 4.0)))
    ]
    return tiff_files.write(folder / "waves.svs", levels)


@pytest.mark.parametrize(("size", "out"), [(512, 256), (480, 200), (300, 100), (601, 200), (800, 100), (1000, 61)])
@pytest.mark.parametrize("place", [(0, 0), (64, 128), (101, 57)])
def test_shrunk_by_the_decoder_a_pixel_shows_the_place_it_stands_for(size, out, place, tiled):
    with open_slide(tiled) as slide, open_slide(tiled) as plain:
        plain.tiles = None
        region, expected = (read_at_mpp(reader, *place, size, out) for reader in (slide, plain))
    assert np.abs(region.rgb.astype(int) - expected.rgb).mean() < 2.5
    assert (region.no_data, region.unreadable) == (expected.no_data, expected.unreadable) == (0, 0)
    step = size / out
    inside = int((min(1024 - max(place), size) - 32) / step)
    centres = (np.arange(inside) + 0.5) * step
    assert abs(shift(region.rgb[:inside, :inside, 0], place[0] + centres)) < 0.1 * step
    assert abs(shift(region.rgb[:inside, :inside, 1].T, place[1] + centres)) < 0.1 * step


def test_the_decoder_shrinks_as_far_as_the_tiles_divide(tiled, monkeypatch):
    with open_slide(tiled) as slide:
        asked, read = [], slide.tiles.read
        monkeypatch.setattr(
            slide.tiles, "read", lambda *a, reduce: asked.append((a[0], reduce)) or read(*a, reduce=reduce)
        )
        for size, out in ((512, 512), (512, 300), (512, 256), (600, 199), (512, 128), (512, 64), (800, 50), (960, 20)):
            read_at_mpp(slide, 0, 0, size, out)
    assert asked == [(0, 1), (0, 1), (0, 2), (0, 2), (1, 1), (1, 2), (1, 4), (1, 8)]


@pytest.mark.parametrize(("size", "out"), [(512, 512), (512, 256), (600, 200)])
def test_damage_costs_its_footprint_at_every_scale(size, out, tiled, tmp_path):
    path = Path(shutil.copy(tiled, tmp_path / "copy.svs"))
    lost = damage_tile(path, column=3, row=2)
    with open_slide(tiled) as whole, open_slide(path) as slide:
        clean, region = (read_at_mpp(reader, 100, 90, size, out) for reader in (whole, slide))
    assert region.unreadable == pytest.approx(64 * 64 / size**2)
    assert region.no_data == 0
    scale, margin = size / out, 4
    far = np.ones((out, out), bool)
    y, x = (
        slice(int((v - o) / scale) - margin, int((w - o) / scale) + margin + 1)
        for v, w, o in ((lost.y0, lost.y1, 90), (lost.x0, lost.x1, 100))
    )
    far[y, x] = False
    assert np.abs(region.rgb[far].astype(int) - clean.rgb[far]).mean() < (2 if out < size else 1e-9)
    white = (region.rgb == 255).all(axis=2)
    assert white.sum() == pytest.approx((64 / scale) ** 2, rel=0.25)


@pytest.mark.parametrize("seed", range(3))
def test_many_bad_tiles_cost_each_its_own(seed, tiled, tmp_path):
    path = Path(shutil.copy(tiled, tmp_path / "copy.svs"))
    rng = np.random.default_rng(seed)
    bad = {(int(column), int(row)) for column, row in rng.integers(0, 16, (6, 2))}
    for column, row in bad:
        damage_tile(path, column, row)
    with open_slide(path) as slide:
        region = read_at_mpp(slide, 0, 0, 1024, 1024)
    assert region.unreadable == len(bad) / 256
    lost = (region.rgb == 255).all(axis=2).reshape(16, 64, 16, 64).all(axis=(1, 3))
    assert {(int(column), int(row)) for row, column in np.argwhere(lost)} == bad


def test_a_strip_between_restart_markers_costs_only_itself(tmp_path):
    path = tiff_files.ndpi(tmp_path / "a.ndpi", [tiff_files.texture(256, 512)], 8)
    with open_slide(path) as slide:
        table = slide.tiles.levels[0]
        offset, length = int(table.offsets[10, 3]), int(table.lengths[10, 3])
    content = bytearray(path.read_bytes())
    content[offset + length // 2 : offset + length // 2 + 2] = b"\xff\xd9"
    path.write_bytes(content)
    with open_slide(path) as slide:
        region = read_at_mpp(slide, 0, 0, 256, 256)
    assert region.unreadable == 64 * 8 / 256**2
    assert (region.rgb[80:88, 192:256] == 255).all()


def test_another_focal_plane_is_asked_of_the_reader(tiled):
    with open_slide(tiled) as slide, pytest.raises(ValueError, match="1 focal plane"):
        read_at_mpp(slide, 0, 0, 256, 128, plane=1)


def test_what_the_finest_level_leaves_out_is_blank_at_every_scale(tiled, tmp_path):
    path = Path(shutil.copy(tiled, tmp_path / "copy.svs"))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages[0]
        page.tags["TileByteCounts"].overwrite(
            [0 if k % 16 >= 12 or k == 3 * 16 + 5 else count for k, count in enumerate(page.databytecounts)]
        )
    with open_slide(path) as slide:
        for max_px in (64, 100, 256, 512):
            view = overview(slide, max_px)
            right = max_px * 12 // 16 + 3
            assert view.no_data == pytest.approx(0.25 + 1 / 256, abs=0.02)
            assert not view.has_data[:, right:].any()
            assert view.has_data[:, : max_px * 5 // 16 - 1].all()
            assert (view.rgb[:, right:] == 255).all()
            middle = int(3.5 * max_px / 16), int(5.5 * max_px / 16)
            assert not view.has_data[middle]


def test_a_gap_in_a_coarse_level_is_filled_as_the_reader_fills_it(tiled, tmp_path):
    path = Path(shutil.copy(tiled, tmp_path / "copy.svs"))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[1].tags["TileByteCounts"].overwrite([0, *tiff.pages[1].databytecounts[1:]])
    with open_slide(path) as slide, open_slide(tiled) as whole:
        view, clean = overview(slide, 256), overview(whole, 256)
    assert view.has_data.all()
    assert np.abs(view.rgb.astype(int) - clean.rgb).mean() < 2


def test_an_overview_of_a_sparse_slide_does_not_wait_for_what_is_not_there(tmp_path):
    # OpenSlide takes seconds for each tile that all levels leave out.
    side, tile = 8192, tiff_files.TILE
    stream = tiff_files.encode(np.full((tile, tile, 3), 200, np.uint8))
    levels = []
    for step in (1, 4, 16):
        across = side // step // tile
        levels.append((side // step, side // step, [stream if k == 0 else b"" for k in range(across**2)]))
    with open_slide(tiff_files.write(tmp_path / "a.svs", levels)) as slide:
        begun = time.process_time()
        view = overview(slide, 512)
        assert time.process_time() - begun < 2
    assert view.no_data == pytest.approx(1, abs=0.01)
