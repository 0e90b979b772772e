"""Pen, label and coverslip, drawn on a thumbnail of 4 µm/px over scattered cells: what goes, and what stays."""

from pathlib import Path

import numpy as np
import pytest
from memory_slides import MemorySlide
from PIL import Image

import wsi_detect.testing
from wsi_detect.tiling.blocks import Blocks, grow, shrink
from wsi_detect.tiling.mask import MaskConfig, find_cells

SIDE = 1600
GROUND = (236, 234, 238)
FIELDS = Path(wsi_detect.testing.__file__).parent / "demo_fields"


def glass(every=70, seed=0):
    """Clean glass with a grain, and a cell in each square of `every` px: (rgb, centres (N, 2) as x, y)."""
    rng = np.random.default_rng(seed)
    rgb = np.tile(np.array(GROUND, np.int16), (SIDE, SIDE, 1))
    places = np.arange(every // 2, SIDE - every // 2, every)
    centres = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2) + rng.integers(
        -15, 16, (len(places) ** 2, 2)
    )
    for x, y in centres:
        disc(rgb, x, y, 6, (200, 215, 220))
        disc(rgb, x, y, 2, (110, 90, 150))
    return rgb, centres


def disc(rgb, x, y, radius, colour):
    x, y = int(x), int(y)
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    part = rgb[y - radius : y + radius + 1, x - radius : x + radius + 1]
    part[rows**2 + columns**2 <= radius**2] = colour


def finished(rgb, seed=1):
    noise = np.random.default_rng(seed).integers(-3, 4, (rgb.shape[0], rgb.shape[1], 1), dtype=np.int16)
    return np.clip(rgb.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def masked(rgb, **config):
    return find_cells(MemorySlide(finished(rgb), mpp=4.0), MaskConfig(**config))


def at(centres, half=2):
    return np.concatenate([centres - half, centres + half], axis=1)


def stroke(rgb, colour, share=1.0):
    """Draw a slanting stroke of a pen, 150 px (600 µm) wide; returns where it is."""
    rows, columns = np.ogrid[:SIDE, :SIDE]
    where = (np.abs(columns - 500 - rows // 4) < 75) & (rows > 200) & (rows < 1300)
    light = 1 - share + share * np.array(colour) / 255
    rgb[where] = (np.array(GROUND) * light).astype(np.int16)
    return where


INKS = {"black": (25, 25, 30), "blue": (30, 60, 180), "green": (20, 150, 80), "red": (215, 25, 50)}


@pytest.mark.parametrize("colour", INKS.values(), ids=INKS)
def test_a_pen_mark_goes_and_every_cell_beside_it_stays(colour):
    rgb, centres = glass()
    where = stroke(rgb, colour)
    mask = masked(rgb)
    assert set(mask.left_out) == {"pen"}
    assert mask.left_out["pen"] == pytest.approx(where.sum(), rel=0.1)
    assert not mask.mask[where & (np.arange(SIDE) % 2 == 0)[:, None]].mean() > 0.1
    beside = np.array([not where[max(y - 16, 0) : y + 17, max(x - 16, 0) : x + 17].any() for x, y in centres])
    assert beside.sum() > 400
    assert (mask.coverage(at(centres[beside], 6)) == 1).all()


@pytest.mark.parametrize("colour", INKS.values(), ids=INKS)
def test_faint_ink_stays(colour):
    rgb, centres = glass()
    stroke(rgb, colour, share=0.4)
    for x, y in centres:
        disc(rgb, x, y, 2, (90, 70, 120))
    mask = masked(rgb)
    assert mask.left_out == {}
    assert (mask.coverage(at(centres)) == 1).all()


@pytest.mark.parametrize("colour", [INKS["blue"], INKS["green"], INKS["red"]])
def test_a_cell_that_shows_through_ink_stays(colour):
    rgb, _ = glass()
    stroke(rgb, colour)
    disc(rgb, 690, 760, 4, tuple(value // 3 for value in colour))
    mask = masked(rgb)
    assert "pen" in mask.left_out
    assert mask.coverage(at(np.array([[690, 760]]), 4)) == 1


def test_a_slide_all_of_one_strong_colour_is_not_a_pen_mark():
    rgb, _ = glass()
    rgb[:, 200:] = INKS["blue"]
    assert masked(rgb).left_out == {}


@pytest.mark.parametrize("name", ["dust", "cell", "clump"])
def test_small_dark_things_are_not_ink(name):
    rgb, _ = glass()
    disc(rgb, 800, 800, {"dust": 3, "cell": 8, "clump": 22}[name], INKS["blue"])
    mask = masked(rgb)
    assert mask.left_out == {}
    assert mask.coverage(np.array([[797, 797, 803, 803]])) == 1


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("grey", [10, 60, 150])
def test_a_label_goes_wherever_it_lies(turn, grey):
    rgb, centres = glass()
    rgb[:240] = grey
    centres = centres[centres[:, 1] > 260]
    # The cells turn with the picture.
    kept = np.zeros((SIDE, SIDE), bool)
    kept[centres[:, 1], centres[:, 0]] = True
    mask = masked(np.ascontiguousarray(np.rot90(rgb, turn)))
    assert set(mask.left_out) == {"label"}
    assert mask.left_out["label"] == pytest.approx(240 * SIDE, rel=0.02)
    assert mask.mask[np.rot90(kept, turn)].all()


def test_a_label_that_covers_part_of_a_border_goes_and_a_cell_on_it_stays():
    rgb, centres = glass()
    rgb[:200, 300:1100] = 120
    disc(rgb, 700, 100, 6, (50, 30, 80))
    mask = masked(rgb)
    assert mask.left_out["label"] == pytest.approx(200 * 800, rel=0.1)
    assert mask.coverage(np.array([[696, 96, 704, 104]])) == 1
    outside = (centres[:, 1] > 220) | (centres[:, 0] < 270) | (centres[:, 0] > 1130)
    assert (mask.coverage(at(centres[outside])) == 1).all()


@pytest.mark.parametrize("name", ["short", "uneven", "away from the border", "deep"])
def test_what_is_no_label_stays(name):
    rgb, _ = glass()
    if name == "short":
        rgb[:200, 300:600] = 120
    elif name == "uneven":
        rgb[:200] = np.random.default_rng(3).choice([90, 200], (200, SIDE, 1))
    elif name == "away from the border":
        rgb[40:240] = 120
    else:
        rgb[:1000] = 120
    mask = masked(rgb)
    assert mask.left_out == {}
    assert mask.coverage(np.array([[300, 60, 600, 190]])) > 0.99


def line(rgb, slope, width=5):
    across = np.arange(SIDE)
    middle = 120 + slope * across
    for k in range(-(width // 2), width // 2 + 1):
        rgb[(middle + k).astype(int), across] = (90, 90, 95)
    return middle


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("slope", [0.0, 0.02, -0.03])
def test_the_edge_of_the_coverslip_goes_and_no_cell_with_it(turn, slope):
    rgb, centres = glass()
    middle = line(rgb, slope)
    disc(rgb, 800, middle[800], 8, (110, 90, 150))
    mask = masked(np.ascontiguousarray(np.rot90(rgb, turn)))
    assert set(mask.left_out) == {"coverslip"}
    assert mask.left_out["coverslip"] > 0.6 * 5 * SIDE
    kept = np.zeros((SIDE, SIDE), bool)
    kept[centres[:, 1], centres[:, 0]] = True
    kept[int(middle[800]), 795:806] = True
    away = np.abs(np.arange(SIDE)[:, None] - middle) > 8
    away[:, 790:811] = True
    assert mask.mask[np.rot90(kept & away, turn)].all()


@pytest.mark.parametrize("name", ["in the middle", "short", "broken"])
def test_what_is_no_coverslip_stays(name):
    rgb, _ = glass()
    if name == "in the middle":
        rgb[800:805] = 90
    elif name == "short":
        rgb[120:125, 200:1000] = 90
    else:
        rgb[120:125, np.arange(SIDE) % 100 < 50] = 90
    mask = masked(rgb)
    assert mask.left_out == {}


def test_each_kind_can_be_kept():
    rgb, _ = glass()
    rgb[:240] = 60
    line(rgb[240:], 0.0)
    assert set(masked(rgb).left_out) == {"label", "coverslip"}
    assert set(masked(rgb, leave_out=("label",)).left_out) == {"label"}
    assert masked(rgb, leave_out=()).left_out == {}


def test_a_deposit_is_found_beside_a_pen_mark():
    side = 1500
    rows, columns = np.mgrid[:side, :side]
    inside = np.hypot(columns - 750, rows - 750) < 650
    rgb = np.tile(np.array(GROUND, np.int16), (side, side, 1))
    rgb[inside & (np.random.default_rng(0).random((side, side)) < 0.2)] = (150, 120, 170)
    rgb[20:120, 40:1300] = INKS["green"]
    slide = MemorySlide(finished(rgb), mpp=10.0)
    mask = find_cells(slide, MaskConfig(um_per_px=10.0))
    assert mask.circle is not None
    assert mask.circle.radius_px == pytest.approx(650, rel=0.02)
    assert mask.left_out["pen"] > 100_000


def test_real_fields_lose_nothing():
    """Laid edge to edge, as they would fill a smear, at the scale of the thumbnail and finer."""
    fields = sorted(FIELDS.glob("*.jpg"))
    assert len(fields) == 12
    for path in fields:
        field = Image.open(path).convert("RGB")
        for shrunk in (16, 8):
            small = np.asarray(field.resize((field.width // shrunk, field.height // shrunk), Image.Resampling.BOX))
            tile = np.concatenate([small, small[:, ::-1]], axis=1)
            tile = np.concatenate([tile, tile[::-1]])
            rgb = np.tile(tile, (-(-1500 // tile.shape[0]), -(-1500 // tile.shape[1]), 1))[:1500, :1500]
            assert find_cells(MemorySlide(np.ascontiguousarray(rgb), mpp=4.0)).left_out == {}, path.name


@pytest.mark.parametrize(("shape", "um"), [((10, 13), 4.0), ((8, 8), 4.0), ((3, 5), 20.0), ((1, 1), 4.0)])
def test_blocks_hold_the_extremes_of_their_px(shape, um):
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    blocks = Blocks.of(rgb, um)
    side = blocks.side
    for i, j in np.ndindex(blocks.low.shape):
        part = rgb[i * side : (i + 1) * side, j * side : (j + 1) * side, 1]
        assert (blocks.low[i, j], blocks.high[i, j]) == (part.min(), part.max())
    assert blocks.to_px(np.ones(blocks.low.shape, bool)).shape == shape


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 7])
def test_shrink_undoes_grow_and_spares_the_border(radius):
    mask = np.zeros((40, 40), bool)
    mask[15:25, 15:25] = True
    assert (shrink(grow(mask, radius), radius) == mask).all()
    assert shrink(np.ones((9, 9), bool), radius).all()
