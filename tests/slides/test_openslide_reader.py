"""The OpenSlide reader: areas without data, damage, levels, closing, and the library it stands on."""

import shutil

import numpy as np
import openslide
import pytest
import tiff_files

from wsi_detect.errors import DamagedSlideError, EnvironmentFaultError, MissingSlideError
from wsi_detect.geometry import Box
from wsi_detect.slides import open_slide
from wsi_detect.slides.openslide import check_library
from wsi_detect.testing.contracts import check_reader
from wsi_detect.testing.painter import paint_region
from wsi_detect.testing.pyramid import damage_tile, drop_area


@pytest.fixture
def copy(painted, tmp_path):
    """A painted slide that may be changed."""
    return shutil.copy(painted.path, tmp_path / "copy.svs")


def test_a_painted_slide_keeps_the_contract(small_painted):
    truth = paint_region(small_painted.cells, width=640, height=512, seed=2)
    check_reader(lambda: open_slide(small_painted.path), truth, tolerance=3)


def test_dropped_tiles_are_white_and_not_valid(copy, painted):
    drop_area(copy, Box(256, 512, 768, 768))
    with open_slide(painted.path) as whole, open_slide(copy) as slide:
        rgb, valid = slide.read_region(200, 500, 0, 300, 300)
        before, complete = whole.read_region(200, 500, 0, 300, 300)
    assert complete is None
    expected = np.ones((300, 300), bool)
    expected[12:268, 56:] = False
    assert (valid == expected).all()
    assert (rgb[~valid] == 255).all()
    assert (rgb[valid] == before[valid]).all()


@pytest.mark.parametrize(
    ("x", "y", "width", "height", "inside"),
    [
        (-10, -20, 30, 40, (slice(20, 40), slice(10, 30))),
        (1526, 1270, 30, 40, (slice(0, 10), slice(0, 10))),
        (5000, 0, 20, 20, (slice(0, 0), slice(0, 0))),
        (-500, -500, 20, 20, (slice(0, 0), slice(0, 0))),
    ],
)
def test_beyond_the_edge_is_white_and_not_valid(x, y, width, height, inside, painted):
    with open_slide(painted.path) as slide:
        rgb, valid = slide.read_region(x, y, 0, width, height)
    expected = np.zeros((height, width), bool)
    expected[inside] = True
    assert (valid == expected).all()
    assert (rgb[~expected] == 255).all()


def test_after_an_undecodable_tile_everything_else_can_still_be_read(copy, painted):
    damage_tile(copy, column=2, row=1)
    with open_slide(painted.path) as whole, open_slide(copy) as slide:
        lost = []
        for row in range(5):
            for column in range(6):
                place = (column * 256, row * 256, 0, 256, 256)
                try:
                    pixels, _ = slide.read_region(*place)
                except DamagedSlideError as error:
                    lost.append((column, row, "(512, 256) of level 0" in str(error)))
                else:
                    assert (pixels == whole.read_region(*place)[0]).all()
    assert lost == [(2, 1, True)]


@pytest.mark.parametrize("level", [-1, 2, 9])
def test_a_level_that_is_not_there_is_an_error(level, painted):
    with open_slide(painted.path) as slide, pytest.raises(ValueError, match="levels 0 to 1"):
        slide.read_region(0, 0, level, 10, 10)


@pytest.mark.parametrize("plane", [-1, 1])
def test_so_is_a_plane(plane, painted):
    with open_slide(painted.path) as slide, pytest.raises(ValueError, match="focal plane"):
        slide.read_region(0, 0, 0, 10, 10, plane=plane)


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, -1), (60_000, 60_000)])
def test_so_is_a_rectangle_nobody_can_want(width, height, painted):
    with open_slide(painted.path) as slide, pytest.raises(ValueError, match="a region has at"):
        slide.read_region(0, 0, 0, width, height)


def test_a_closed_slide_says_so_and_closes_twice(painted):
    slide = open_slide(painted.path)
    slide.close()
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        slide.read_region(0, 0, 0, 10, 10)


def test_a_file_that_goes_away_after_an_error_is_told_from_a_damaged_one(copy):
    damage_tile(copy, column=0, row=0)
    with open_slide(copy) as slide:
        with pytest.raises(DamagedSlideError):
            slide.read_region(0, 0, 0, 64, 64)
        copy.unlink()
        with pytest.raises(MissingSlideError, match="has gone"):
            slide.read_region(0, 0, 0, 64, 64)


@pytest.mark.parametrize("version", ["4.0.1", "4.0.1-nightly+20260801", "4.0.10", "4.1.0", "5.0.0"])
def test_a_sound_library_passes(version):
    check_library(version)


@pytest.mark.parametrize("version", ["4.0.0", "3.4.1", "4.0", "", "unknown"])
def test_an_old_library_is_refused_with_the_remedy(version):
    with pytest.raises(EnvironmentFaultError, match=r"openslide-bin>=4\.0\.1") as caught:
        check_library(version)
    assert caught.value.exit_code == 5


def test_opening_a_slide_looks_at_the_library(painted, monkeypatch):
    monkeypatch.setattr(openslide, "__library_version__", "4.0.0")
    with pytest.raises(EnvironmentFaultError):
        open_slide(painted.path)


def test_label_and_macro_are_never_touched(slides, monkeypatch):
    def forbidden(*_):
        raise AssertionError("an associated picture was read")

    monkeypatch.setattr(openslide._AssociatedImageMap, "__getitem__", forbidden)
    monkeypatch.setattr(openslide._AssociatedImageMap, "_keys", forbidden)
    with open_slide(slides("CMU-1-Small-Region.svs")) as slide:
        assert slide.read_region(0, 0, 0, 300, 300)[1] is None
        assert slide.info.native_tile_px == (240, 240)
        assert slide.info.objective_power == 20
        assert not slide.info.icc


def test_hamamatsu_says_where_the_picture_lies_on_the_glass(painted, tmp_path):
    path = tiff_files.ndpi(tmp_path / "a.ndpi", [tiff_files.texture(256, 512)], 8, centre_nm=(1_500_000, -2_000))
    with open_slide(path) as slide, open_slide(painted.path) as other:
        assert slide.info.centre_um == (1500.0, -2.0)
        assert other.info.centre_um is None
