import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from memory_slides import painted
from PIL import Image, ImageFilter

import wsi_detect.testing
from wsi_detect.errors import ConfigError
from wsi_detect.tiling.mask import CellMask, clean_ground
from wsi_detect.tiling.quality import (
    QUALITY_COLUMNS,
    Quality,
    QualityConfig,
    measure,
    measure_patch,
    sample_boxes,
    select,
)

WHITE = (255.0, 255.0, 255.0)
FIELDS = sorted((Path(wsi_detect.testing.__file__).parent / "demo_fields").glob("*.jpg"))
SHARP = QualityConfig().in_focus


def blurred(rgb, sigma):
    return np.asarray(Image.fromarray(rgb).filter(ImageFilter.GaussianBlur(sigma)))


def field(path):
    return np.asarray(Image.open(path).convert("RGB"))[100:612, 100:612]


def test_the_columns_are_the_fields():
    assert tuple(field.name for field in dataclasses.fields(Quality)) == QUALITY_COLUMNS


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([], id="none"),
        pytest.param([np.full((256, 256, 3), 255, np.uint8)], id="blank"),
        pytest.param([np.full((1, 1, 3), 100, np.uint8)], id="one px"),
    ],
)
def test_where_there_is_no_cell_there_is_no_figure(samples):
    assert all(math.isnan(value) for value in dataclasses.astuple(measure(samples, WHITE)))


@pytest.mark.parametrize(("grey", "stain"), [(25, 1.0086), (128, 0.2993), (204, 0.0969)])
def test_stain_is_the_optical_density_of_the_cells(grey, stain):
    rgb = np.full((128, 128, 3), 255, np.uint8)
    rgb[:64] = grey
    assert measure([rgb], WHITE).stain == pytest.approx(stain, abs=1e-3)


def test_stain_is_against_the_ground():
    assert measure([np.full((64, 64, 3), 100, np.uint8)], (200.0,) * 3).stain == pytest.approx(0.301, abs=1e-3)


@pytest.mark.parametrize(
    ("colour", "crowding", "blood", "mucus"),
    [
        pytest.param((80, 60, 110), 0.5, 0, 0, id="nuclei"),
        pytest.param((215, 120, 100), 0, 0.5, 0, id="red cells"),
        pytest.param((225, 208, 228), 0, 0, 0.5, id="mucus"),
        pytest.param((180, 130, 150), 0, 0, 0, id="cytoplasm"),
    ],
)
def test_crowding_blood_and_mucus_are_shares_of_the_area(colour, crowding, blood, mucus):
    rgb = np.full((256, 256, 3), 240, np.uint8)
    rgb[:128] = colour
    found = measure([rgb], (240.0, 240.0, 240.0))
    assert (found.crowding, found.blood, found.mucus) == (crowding, blood, mucus)


def test_textured_cytoplasm_is_not_mucus():
    rgb = np.full((256, 256, 3), 225, np.uint8)
    rgb[::16] = rgb[1::16] = 180
    assert measure([rgb], WHITE).mucus == 0


@pytest.mark.parametrize(("width", "focus"), [(1, 2.45), (6, 1.5), (12, 1.0)])
def test_focus_of_a_single_edge(width, focus):
    row = np.clip((np.arange(256) - 128) / width, 0, 1)
    rgb = np.repeat((240 - 120 * row).round().astype(np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    assert measure([rgb], (240.0,) * 3).focus == pytest.approx(focus, abs=0.25)


def test_even_cells_have_no_focus():
    assert measure([np.full((256, 256, 3), 150, np.uint8)], WHITE).focus == 0


@pytest.mark.parametrize("path", FIELDS, ids=lambda path: path.stem[:6])
def test_blur_lowers_the_focus_of_real_fields(path):
    rgb = field(path)
    ground = clean_ground(rgb)
    found = [measure_patch(rgb, ground).focus]
    found += [measure_patch(blurred(rgb, sigma), ground).focus for sigma in (0.5, 1, 1.5, 2, 3, 4)]
    assert found == sorted(found, reverse=True)
    assert found[0] > SHARP > found[4]


@pytest.mark.parametrize("share", [0.5, 0.25])
def test_pale_cells_are_as_sharp_as_dark_ones(share):
    rgb = field(FIELDS[0])
    ground = np.array(clean_ground(rgb))
    pale = np.clip(ground - share * (ground - rgb), 0, 255).round().astype(np.uint8)
    sharp = measure_patch(rgb, tuple(ground)).focus
    assert measure_patch(pale, tuple(ground)).focus == pytest.approx(sharp, rel=0.1)


def test_grain_does_not_make_a_blurred_field_sharp():
    rgb = field(FIELDS[0])
    noise = np.random.default_rng(0).normal(0, 2, rgb.shape)
    grainy = np.clip(blurred(rgb, 3) + noise, 0, 255).round().astype(np.uint8)
    assert measure_patch(grainy, clean_ground(rgb)).focus < SHARP


def test_crowding_counts_nuclei():
    assert measure([painted(192, 192)], WHITE).crowding == pytest.approx(4 * np.pi * 12**2 / 192**2, rel=0.15)


def test_windows_with_most_cells_are_sampled():
    mask = np.zeros((64, 64), bool)
    mask[0:4, 28:32] = True
    mask[40:48, 0:8] = True
    cells = CellMask(mask, 32.0)
    boxes = sample_boxes(cells, np.array([[0, 0], [1024, 1024], [1024, 0]]), 1024, 1024)
    assert boxes.dtype == np.int64
    assert boxes.tolist() == [[[768, 0]] + [[-1, -1]] * 3, [[-1, -1]] * 4, [[-1, -1]] * 4]
    assert sample_boxes(cells, np.array([[0, 1024]]), 1024, 1024)[0, 0].tolist() == [0, 256]


@pytest.mark.parametrize(
    ("patch_px", "patch_slide_px", "expected"),
    [
        pytest.param(1024, 1024, [[0, 0], [256, 0], [512, 0], [768, 0]], id="first ones where equal"),
        pytest.param(512, 1024, [[0, 0], [256, 0], [0, 256], [256, 256]], id="resampled"),
        pytest.param(300, 300, [[0, 0], [256, 0], [0, 256], [256, 256]], id="cut at the edge"),
        pytest.param(100, 100, [[0, 0], [-1, -1], [-1, -1], [-1, -1]], id="smaller than a window"),
    ],
)
def test_windows_of_a_patch_full_of_cells(patch_px, patch_slide_px, expected):
    cells = CellMask(np.ones((1, 1), bool), 4096.0)
    boxes = sample_boxes(cells, np.array([[0, 0], [1024, 2048]]), patch_slide_px, patch_px)
    assert boxes.tolist() == [expected, expected]


def test_without_patches_there_are_no_windows():
    assert sample_boxes(CellMask(np.ones((1, 1), bool), 64.0), np.zeros((0, 2), np.int64), 64, 64).shape == (0, 4, 2)


def test_a_patch_without_a_mask_is_measured_where_its_cells_are():
    rgb = np.full((1024, 768, 3), 240, np.uint8)
    rgb[512:768, 256:512] = painted(256, 256)
    rgb[0:8, 0:8] = 100
    alone = measure([rgb[512:768, 256:512], rgb[:256, :256]], (240.0,) * 3)
    assert measure_patch(rgb, (240.0,) * 3) == alone
    assert math.isnan(measure_patch(np.full((600, 600, 3), 240, np.uint8), (240.0,) * 3).focus)


COLUMNS = {"focus": np.array([1.2, 1.5, 1.9, np.nan]), "blood": np.array([0.0, 0.5, 1.0, 0.2])}


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({}, [True, True, True, True]),
        ({"focus": (1.5, None)}, [False, True, True, True]),
        ({"focus": (None, 1.5)}, [True, True, False, True]),
        ({"focus": (1.3, 1.8), "blood": (None, 0.1)}, [False, False, False, False]),
        ({"blood": (None, 0.5)}, [True, True, False, True]),
    ],
)
def test_a_rule_keeps_what_it_says_and_what_was_not_measured(rule, kept):
    assert select(COLUMNS, rule).tolist() == kept


def test_a_rule_of_an_unknown_column_is_refused():
    with pytest.raises(ConfigError, match=r"no column 'sharpness'.*known: blood, focus"):
        select(COLUMNS, {"sharpness": (1, None)})
