"""What `info` prints, and the light a slide was scanned in."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from wsi_detect.geometry import Box
from wsi_detect.slides import open_slide
from wsi_detect.slides.brightfield import is_bright_field, looks_bright
from wsi_detect.slides.describe import describe
from wsi_detect.slides.resample import Overview
from wsi_detect.testing.painter import paint_dark_slide
from wsi_detect.testing.pyramid import damage_tile, drop_area


def test_a_painted_slide_is_described(painted):
    with open_slide(painted.path, slide_id="S7") as slide:
        assert describe(slide) == [
            ("slide", "S7"),
            ("vendor", "aperio"),
            ("size", "1536 x 1280 px, 0.384 x 0.32 mm"),
            ("resolution", "0.25 µm/px, from the file (aperio.MPP)"),
            ("objective", "40x"),
            ("level 0", "1/1, 0.25 µm/px"),
            ("level 1", "1/4, 1 µm/px"),
            ("native tile", "256 x 256 px"),
            ("focal planes", "1"),
            ("scanned area", "the whole slide"),
            ("without data", "0.0% of the slide"),
            ("unreadable", "0.0% of the slide"),
            ("colour profile", "none"),
            ("light", "bright field"),
        ]


def test_a_given_resolution_is_shown_against_the_files_own(painted):
    with open_slide(painted.path, mpp=0.5, mpp_source="manifest") as slide:
        assert dict(describe(slide))["resolution"] == "0.5 µm/px, from the manifest; the file says 0.25"


def test_a_missing_resolution_comes_with_the_remedy(slides):
    with open_slide(slides("no_mpp.svs")) as slide:
        facts = dict(describe(slide))
    assert "--mpp" in facts["resolution"]
    assert facts["size"] == "192 x 128 px"
    assert facts["level 0"] == "1/1"


def test_what_is_missing_is_a_share_of_the_slide(painted, tmp_path):
    path = Path(shutil.copy(painted.path, tmp_path / "copy.svs"))
    drop_area(path, Box(0, 0, 768, 1280))
    with open_slide(path) as slide:
        assert dict(describe(slide))["without data"].startswith("50.")


def test_a_damaged_slide_is_described_too(small_painted, tmp_path):
    path = Path(shutil.copy(small_painted.path, tmp_path / "copy.svs"))
    damage_tile(path, 0, 0)
    with open_slide(path) as slide:
        assert dict(describe(slide))["unreadable"] == "20.0% of the slide"


def test_neither_the_name_nor_the_scanners_remarks_are_told(slides, tmp_path):
    path = slides("CMU-1-Small-Region.svs").rename(tmp_path / "Doe^Jane.svs")
    with open_slide(path) as slide:
        text = str(describe(slide))
    for secret in ("Doe", "Jane", str(tmp_path), "Filename", "CMU", "ScanScope", "Aperio Image"):
        assert secret not in text
    assert "0.499" in text


def test_dark_ground_is_recognised(painted, tmp_path):
    dark = paint_dark_slide(tmp_path / "dark.svs", width=512, height=512)
    with open_slide(painted.path) as light, open_slide(dark.path) as slide:
        assert is_bright_field(light)
        assert not is_bright_field(slide)
        assert "dark ground" in dict(describe(slide))["light"]


def view(*parts):
    """An overview of 100 x 100 px: (share, colour or None for no data), top to bottom."""
    rgb, has_data, row = np.full((100, 100, 3), 255, np.uint8), np.zeros((100, 100), bool), 0
    for share, colour in parts:
        rows = slice(row, row + round(share * 100))
        if colour is not None:
            rgb[rows], has_data[rows] = colour, True
        row = rows.stop
    return Overview(rgb, has_data, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("parts", "bright"),
    [
        ([(1.0, (240, 240, 240))], True),
        ([(1.0, (180, 90, 140))], True),
        ([(0.7, (0, 0, 0)), (0.3, (235, 230, 238))], True),
        ([(0.9, None), (0.1, (230, 230, 230))], True),
        ([(1.0, None)], True),
        ([(0.9, (2, 2, 4)), (0.1, (20, 40, 250))], False),
        ([(0.6, (0, 0, 0)), (0.4, (0, 230, 30))], False),
        ([(0.9, None), (0.1, (5, 5, 5))], False),
    ],
)
def test_light_is_judged_on_what_has_data(parts, bright):
    assert looks_bright(view(*parts)) is bright
