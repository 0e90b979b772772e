import numpy as np
import pytest
from memory_slides import GROUND, MemorySlide

from wsi_detect.errors import DamagedSlideError
from wsi_detect.geometry import Box
from wsi_detect.slides import open_slide
from wsi_detect.testing.painter import paint_slide
from wsi_detect.testing.pyramid import drop_area
from wsi_detect.tiling.blocks import grow
from wsi_detect.tiling.deposit import deposit_circle
from wsi_detect.tiling.mask import CellMask, MaskConfig, clean_ground, find_cells, stain_mask


def ground(height, width, grey=GROUND):
    return np.full((height, width, 3), grey, np.uint8)


@pytest.mark.parametrize(
    ("box", "share"),
    [
        ([0, 0, 40, 40], 0.25),
        ([0, 0, 20, 20], 1.0),
        ([20, 20, 40, 40], 0.0),
        ([10, 10, 30, 30], 0.25),
        ([15, 0, 25, 10], 0.5),
        ([19.5, 0, 20.5, 1], 0.5),
        ([-20, 0, 20, 20], 0.5),
        ([5, 5, 5, 9], 0.0),
    ],
)
def test_coverage_is_an_exact_area(box, share):
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True
    assert CellMask(mask, 10.0).coverage(np.array([box])) == pytest.approx(share)


def test_area_and_the_coverage_of_nothing():
    mask = CellMask(np.eye(4, dtype=bool), 10.0)
    assert mask.area_px() == 400
    assert mask.coverage(np.zeros((0, 4))).shape == (0,)


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("grey", [200, 225, 254])
def test_a_single_pale_cell_on_clean_ground_is_kept(channel, grey):
    rgb = ground(2000, 2000, grey)
    noise = np.random.default_rng(0).integers(-2, 3, rgb.shape)
    rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    # A pale nucleus of 10 µm that takes a tenth of one colour.
    y, x = np.ogrid[:2000, :2000]
    cell = (x - 1234) ** 2 + (y - 1001) ** 2 < 20**2
    rgb[cell, channel] = grey * 9 // 10
    mask = find_cells(MemorySlide(rgb), MaskConfig())
    assert mask.coverage(np.array([[1214, 981, 1254, 1021]])) == 1.0
    assert mask.area_px() < 0.02 * 2000**2


@pytest.mark.parametrize("grey", [200, 240, 255])
def test_a_blank_slide_has_no_cells(grey):
    assert find_cells(MemorySlide(ground(300, 400, grey))).area_px() == 0


def test_areas_without_data_are_white_and_do_not_set_the_ground():
    rgb = ground(400, 400, 215)
    rgb[:, :200] = 255
    rgb[40:80, 300:340] = 160
    mask = find_cells(MemorySlide(rgb, mpp=4.0), MaskConfig(margin_um=0))
    assert mask.coverage(np.array([[0, 0, 200, 400], [300, 40, 340, 80], [205, 100, 290, 400]])).tolist() == [0, 1, 0]


def test_a_smear_that_covers_everything_is_kept_whole():
    rgb = ground(2000, 2000, 200)
    # A tenth of the slide is clean ground between the cells, in gaps narrower than a cell.
    rgb[:, np.arange(2000) % 400 < 40] = 235
    rgb[1000:1040, 1000:1040] = 90
    mask = find_cells(MemorySlide(rgb), MaskConfig(preparation="smear"))
    assert mask.coverage(np.array([[0, 0, 2000, 2000]])) > 0.99


def test_where_there_is_no_clean_ground_the_nuclei_stand_out():
    rgb = ground(2000, 2000, 200)
    rgb[1000:1040, 1000:1040] = 170
    mask = find_cells(MemorySlide(rgb), MaskConfig())
    assert mask.coverage(np.array([[1000, 1000, 1040, 1040]])) == 1


def test_overshoot_around_dark_cells_is_not_taken_for_the_ground():
    rgb = ground(100, 100, 236)
    rgb[:60] = 120
    rgb[60:65] = 247
    assert clean_ground(rgb) == (236, 236, 236)


class Damaged(MemorySlide):
    """A slide of which one square cannot be decoded."""

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        if x_px < 1400 < x_px + width and y_px < 900 < y_px + height:
            raise DamagedSlideError("a tile cannot be decoded")
        return super().read_region(x_px, y_px, level, width, height, plane=plane)


def test_what_cannot_be_decoded_on_the_thumbnail_is_not_taken_for_clean():
    mask = find_cells(Damaged(ground(3000, 3000)), MaskConfig())
    assert mask.coverage(np.array([[1390, 890, 1410, 910]])) == 1
    assert mask.area_px() < 2 * 300**2


def test_none_keeps_every_patch():
    mask = find_cells(MemorySlide(ground(300, 500)), MaskConfig(preparation="none"))
    assert mask.coverage(np.array([[0, 0, 100, 100], [400, 200, 500, 300], [0, 0, 500, 300]])).tolist() == [1, 1, 1]


def disc(radius_mm, *, size_mm=26.0, um_per_px=20.0, share=0.3, seed=0):
    side = round(size_mm * 1000 / um_per_px)
    y, x = np.ogrid[:side, :side]
    inside = np.hypot(x - side / 2, y - side / 2) < radius_mm * 1000 / um_per_px
    return inside & (np.random.default_rng(seed).random((side, side)) < share)


@pytest.mark.parametrize(("radius_mm", "found"), [(10.0, True), (6.5, True), (3.0, False)])
def test_a_deposit_circle_is_found_by_its_size(radius_mm, found):
    circle = deposit_circle(disc(radius_mm), 20.0)
    assert (circle is not None) == found
    if circle:
        assert circle.radius_px * 20 / 1000 == pytest.approx(radius_mm, rel=0.05)
        assert circle.x_px * 20 / 1000 == pytest.approx(13.0, abs=0.3)


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(np.ones((900, 900), bool), id="smear"),
        pytest.param(np.tile(np.arange(1300) < 400, (1300, 1)), id="band"),
        pytest.param(np.zeros((900, 900), bool), id="blank"),
        pytest.param(np.eye(900, dtype=bool), id="line"),
    ],
)
def test_other_shapes_are_no_deposit(mask):
    assert deposit_circle(mask, 20.0) is None


@pytest.mark.parametrize(("preparation", "kept"), [("lbc", 0.0), ("auto", 0.0), ("smear", 1.0)])
def test_stain_outside_the_deposit_is_left_out_and_counted(preparation, kept):
    stained = disc(6.5, size_mm=20.0)
    rgb = np.where(stained[..., None], np.uint8(120), np.uint8(GROUND)).repeat(3, axis=2)
    rgb[5:25, 5:25] = 90
    mask = find_cells(MemorySlide(rgb, mpp=20.0), MaskConfig(preparation=preparation, margin_um=0, um_per_px=20))
    assert mask.coverage(np.array([[5, 5, 25, 25]])) == kept
    assert (mask.left_out_px, mask.circle is None) == ((0, True) if kept else (400, False))
    # Every cell of the deposit stays.
    assert mask.area_px() == stained.sum() + 400 * kept


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_grow_is_a_square_dilation(radius):
    mask = np.zeros((9, 9), bool)
    mask[4, 2] = True
    expected = np.zeros((9, 9), bool)
    expected[4 - radius : 5 + radius, max(2 - radius, 0) : 3 + radius] = True
    assert (grow(mask, radius) == expected).all()


def test_stain_in_one_channel_counts():
    rgb = ground(10, 10)
    rgb[3, 4, 2] = 220
    assert stain_mask(rgb, clean_ground(rgb), 0.02).sum() == 1


def test_a_slide_with_tiles_left_out_is_looked_at_without_openslide(tmp_path, monkeypatch):
    """OpenSlide takes seconds a tile to find that a coarse tile, and all finer ones under it, are left out."""
    path = paint_slide(tmp_path / "slide.svs", width=2048, height=2048, n_cells=80, seed=5).path
    assert drop_area(path, Box(0, 0, 1280, 1024)) == 20
    with open_slide(path) as slide:
        monkeypatch.setattr(slide, "_from_openslide", None)
        mask = find_cells(slide, MaskConfig(um_per_px=1.0))
    assert mask.coverage(np.array([[0, 0, 1200, 900]])) == 0
    assert mask.area_px() > 0
