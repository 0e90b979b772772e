"""The painter: what it says is on the slide is on the slide, and OpenSlide reads the file it writes."""

import numpy as np
import pytest

from wsi_detect.geometry import Box, box_iou
from wsi_detect.slides import open_slide
from wsi_detect.testing.painter import (
    LABELS,
    PaintedCell,
    boxes_of,
    lay_cells,
    paint_dark_slide,
    paint_region,
    paint_slide,
)
from wsi_detect.testing.pyramid import damage_tile, drop_area
from wsi_detect.tiling.grid import TileGrid


def largest_iou_in_clump(cells):
    overlap = box_iou(boxes_of(cells), boxes_of(cells))
    np.fill_diagonal(overlap, 0)
    return overlap


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cells_are_20_to_80_px_and_overlap_up_to_an_iou_of_06(seed):
    cells = lay_cells(2048, 2048, 80, seed)
    size = boxes_of(cells)[:, 2:] - boxes_of(cells)[:, :2]
    overlap = largest_iou_in_clump(cells)
    assert len(cells) == 80
    assert size.min() >= 20
    assert size.max() <= 80
    assert 0.5 <= overlap.max() <= 0.6
    assert (overlap > 0.1).sum() >= 20


def test_some_cells_lie_on_patch_borders():
    cells = lay_cells(2048, 2048, 80, 0)
    boxes = boxes_of(cells)
    edges = TileGrid(2048, 2048, 512, 96).boxes()[:, 0]
    inner = edges[edges > 0]
    assert ((boxes[:, None, 0] < inner) & (inner < boxes[:, None, 2])).any(axis=1).sum() >= 5


def test_same_seed_same_cells_other_seed_others():
    assert lay_cells(1024, 1024, 30, 7) == lay_cells(1024, 1024, 30, 7)
    assert lay_cells(1024, 1024, 30, 7) != lay_cells(1024, 1024, 30, 8)


def test_coordinates_are_quarter_px():
    assert (boxes_of(lay_cells(1024, 1024, 30, 7)) * 4 % 1 == 0).all()


def test_no_room_is_said():
    with pytest.raises(ValueError, match="no room"):
        lay_cells(200, 200, 80, 0)


def test_the_same_slide_twice_is_the_same_file(tmp_path):
    first = paint_slide(tmp_path / "a.svs", width=600, height=500, n_cells=8, seed=3)
    second = paint_slide(tmp_path / "b.svs", width=600, height=500, n_cells=8, seed=3)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.cells == second.cells


def test_openslide_reads_pixels_levels_and_resolution(painted):
    with open_slide(painted.path) as slide:
        assert (slide.info.width_px, slide.info.height_px) == (painted.width, painted.height)
        assert slide.info.mpp == pytest.approx(0.25)
        assert slide.info.objective_power == 40
        assert slide.info.level_downsamples == pytest.approx((1.0, 4.0), rel=0.01)
        pixels, valid = slide.read_region(100, 50, 0, 400, 300)
    expected = paint_region(painted.cells, width=painted.width, height=350)[50:, 100:500]
    assert valid is None or valid.all()
    # JPEG at quality 90 costs a grey value or two on average.
    assert np.abs(pixels.astype(int) - expected).mean() < 3


def test_a_cell_is_dark_in_its_middle_and_the_ground_is_light():
    cell = PaintedCell("HSIL", Box(40, 40, 80, 100))
    pixels = paint_region([cell], width=120, height=140)
    assert pixels[70, 60].max() < 120
    assert pixels[20, 20].min() > 220
    # Nothing is painted outside the box.
    outside = pixels.copy()
    outside[40:100, 40:80] = 255
    assert outside.min() > 220


def test_painting_does_not_depend_on_the_order_of_the_cells():
    cells = lay_cells(600, 600, 15, 0, clumped=0.6)
    assert (paint_region(cells, width=600, height=600) == paint_region(cells[::-1], width=600, height=600)).all()


def test_an_unknown_class_cannot_be_painted():
    with pytest.raises(ValueError, match="AIS"):
        paint_region([PaintedCell("AIS", Box(0, 0, 20, 20))], width=64, height=64)


def test_a_slide_without_resolution(tmp_path):
    slide = paint_slide(tmp_path / "n.svs", width=300, height=300, mpp=None, n_cells=2)
    with open_slide(slide.path) as reader:
        assert reader.info.mpp is None


def test_a_dark_slide_is_dark(tmp_path):
    slide = paint_dark_slide(tmp_path / "d.svs", width=600, height=600)
    with open_slide(slide.path) as reader:
        assert reader.read_region(0, 0, 0, 600, 600)[0].mean() < 80


def test_a_dropped_area_has_no_data(tmp_path):
    slide = paint_slide(tmp_path / "m.svs", width=1024, height=768, n_cells=5)
    assert drop_area(slide.path, Box(256, 256, 800, 768)) == 2 * 2
    with open_slide(slide.path) as reader:
        pixels, valid = reader.read_region(0, 0, 0, 1024, 768)
    assert valid is not None
    assert not valid[256:768, 256:768].any()
    assert valid[:256].all()
    assert (pixels[256:768, 256:768] == 255).all()


def test_a_damaged_tile_says_where(tmp_path):
    slide = paint_slide(tmp_path / "x.svs", width=700, height=500, n_cells=5)
    assert damage_tile(slide.path, 2, 1) == Box(512, 256, 700, 500)


def test_every_class_looks_different():
    means = [
        paint_region([PaintedCell(label, Box(0, 0, 80, 80))], width=80, height=80).mean(axis=(0, 1)) for label in LABELS
    ]
    apart = np.abs(np.array(means)[:, None] - np.array(means)).max(axis=2)
    np.fill_diagonal(apart, 255)
    assert apart.min() > 8
