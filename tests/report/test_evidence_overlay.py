"""The map of evidence as a reader gets it: nothing hidden, nothing invented, told apart without seeing colours."""

import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from wsi_detect import artifact
from wsi_detect.errors import StaleArtifactError
from wsi_detect.report.evidence_overlay import draw_evidence, evidence_figures, paint, pooled
from wsi_detect.report.slide_report import write_report
from wsi_detect.schema import CELLS, PATCHES
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.testing.hand_map import write_map
from wsi_detect.tiling.evidence_map import FULL, NOT_LOOKED, encode

NAME = "<S1 & co>"


class Grey:
    """A slide of one grey."""

    def __init__(self, width, height):
        self.info = SlideInfo(NAME, Path("x.svs"), width, height, 0.25, "file", (1.0,))

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        return np.full((height, width, 3), 200, np.uint8), np.ones((height, width), bool)


@pytest.fixture
def values():
    """100 x 150 px of 4 slide px: one px of evidence, a patch nobody could read."""
    values = np.full((100, 150), 0.02)
    values[41, 77] = 0.9
    values[:16, :16] = np.nan
    return values


@pytest.fixture
def folder(values, tmp_path):
    write_map(tmp_path, values, slide_id=NAME)
    status = {
        "slide_id": NAME, "status": "SCREENED", "reason": None, "examined_fraction": 0.6, "gated_fraction": 0.4,
        "version": "0", "cells": 0, "counts": {}, "config": {"contours": {"threshold": 0.6}},
        "gate": {"threshold": 0.3, "patches": 20, "not_shown": 8, "audited": 2, "audit": {"patches_with_abnormal": 1}},
    }  # fmt: skip
    artifact.write_json(tmp_path / "status.json", status)
    CellMap(Grey(600, 400).info, artifact.empty_table(CELLS), ("HSIL",), "m").write(tmp_path / "cells.parquet")
    artifact.write_table(tmp_path / "patches.parquet", artifact.empty_table(PATCHES), PATCHES)
    return tmp_path


def text_of(page):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", page.partition("</style>")[2])))


def test_the_page_shows_the_map_and_says_what_it_is(folder):
    page = write_report(folder, Grey(600, 400)).read_text()
    text = text_of(page)
    assert "Where the evidence is" in text
    assert "speaks for HSIL at each place, by hand@1" in text
    assert "1e-06 mm² of 0.01474 mm² mapped are above 0.6" in text
    assert "1 of 70 patches could not be mapped" in text
    assert "8 of 20 patches, those without evidence above 0.3, were not shown to the detector" in text
    assert "Of 2 more such patches, drawn at random and shown to it, 1 hold an abnormal cell it finds. Those" in text
    assert "it was not shown may hold more" in text
    assert "40.0 % not shown to the detector" in text
    assert page.count("data:image/jpeg;base64,") == 2
    assert "<S1" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "20 µm" in text


def test_a_gate_that_hid_nothing_is_said_to_have_hidden_nothing(folder):
    status = artifact.read_json(folder / "status.json")
    status["gate"] |= {"not_shown": 0, "audited": 0, "audit": {"patches_with_abnormal": 0}}
    artifact.write_json(folder / "status.json", status | {"examined_fraction": 1.0, "gated_fraction": 0.0})
    text = text_of(write_report(folder).read_text())
    assert "It hid nothing: the detector was shown all 20 patches." in text
    assert "was not tried" not in text


def test_without_the_slide_the_figures_are_there(folder):
    page = write_report(folder).read_text()
    assert "there is no picture of the map" in page
    assert "above 0.6" in text_of(page)


def test_without_a_map_nothing_is_said(folder):
    import shutil

    shutil.rmtree(folder / "heatmap.zarr")
    assert "Where the evidence is" not in write_report(folder, Grey(600, 400)).read_text()


def test_a_map_of_another_slide_is_refused(values, tmp_path):
    found = write_map(tmp_path, values)
    with pytest.raises(StaleArtifactError, match="another size"):
        draw_evidence(Grey(604, 400), found, 0.5)


@pytest.mark.parametrize("downsample", [1.0, 2.7, 4.0, 8.0, 33.3])
def test_each_px_shows_the_highest_of_those_it_covers(values, tmp_path, downsample):
    """The one px of evidence is never averaged away, and what nobody looked at stays that."""
    found = write_map(tmp_path, values)
    height, width = int(np.ceil(400 / downsample)), int(np.ceil(600 / downsample))
    codes = pooled(found, height, width, downsample)
    peak = codes == encode(np.array([0.9]))[0]
    assert peak.any()
    y, x = (np.nonzero(peak)[k].mean() + 0.5 for k in (0, 1))
    assert (y * downsample, x * downsample) == pytest.approx((41.5 * 4, 77.5 * 4), abs=downsample + 2)
    assert codes[0, 0] == NOT_LOOKED
    assert (codes[codes != NOT_LOOKED] >= encode(np.array([0.02]))[0]).all()


def test_more_evidence_is_always_darker():
    """Lightness alone tells the order, for eyes that see no colour and for grey printers."""
    codes = np.linspace(0, FULL, 50).astype(np.uint16)[None]
    drawn = paint(np.full((1, 50, 3), 235, np.uint8), codes, 2.0)[0].astype(float)
    lightness = drawn @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) < 0).all()
    assert lightness[0] - lightness[-1] > 150


def test_the_outline_lies_around_what_is_above_and_hides_none_of_it():
    codes = np.zeros((7, 7), np.uint16)
    codes[3, 2:5] = FULL
    drawn = paint(np.full((7, 7, 3), 235, np.uint8), codes, 0.5)
    line = (drawn == (20, 60, 150)).all(axis=2)
    expected = np.zeros((7, 7), bool)
    expected[[2, 4], 2:5] = expected[3, [1, 5]] = True
    assert (line == expected).all()


def test_figures(values, tmp_path):
    found = evidence_figures(write_map(tmp_path, values), 0.5)
    assert found["above_mm2"] == pytest.approx(1e-6)
    assert found["mapped_mm2"] == pytest.approx((100 * 150 - 256) * 1e-6)
    assert (found["patches"], found["lost"], found["px_um"]) == (70, 1, 1.0)
