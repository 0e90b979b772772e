"""Density of cells: the numbers, the TIFF, the PNG."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import colormaps
from PIL import Image

from wsi_detect import schema
from wsi_detect.errors import ConfigError, MissingResolutionError, UnmappedLabelError
from wsi_detect.exports import heatmap
from wsi_detect.exports.density import density
from wsi_detect.exports.exporter import ExportConfig, export_cells
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap


def cells_at(points, *, width=4000, height=3000, mpp=0.5, labels="HSIL"):
    number = len(points)
    x, y = np.asarray(points, dtype=float).reshape(-1, 2).T
    values = {
        "cell_id": [f"{k}" for k in range(number)],
        "slide_id": ["S1"] * number,
        **dict(zip(schema.BOX_COLUMNS, (x - 10, y - 5, x + 10, y + 5), strict=True)),
        "label": [labels] * number if isinstance(labels, str) else labels,
        "score": np.ones(number, np.float32),
        "support": np.ones(number, np.int32),
    }
    rows = pa.table({f.name: values.get(f.name, pa.nulls(number, f.type)) for f in schema.CELLS}).cast(schema.CELLS)
    return CellMap(SlideInfo("S1", None, width, height, mpp, "file", (1.0,)), rows, (), "model")


def test_one_cell_fills_one_window():
    """A px is 10 µm, 20 px of the slide; the window of 90 µm has 0.0081 mm²."""
    found = density(cells_at([(2010, 1010)]), 90.0)
    assert found.values.shape == (150, 200)
    assert (found.px_um, found.window_um, found.cells) == (10.0, 90.0, 1)
    expected = np.zeros((150, 200), np.float32)
    expected[50 - 4 : 50 + 5, 100 - 4 : 100 + 5] = 1 / 0.0081
    np.testing.assert_allclose(found.values, expected, rtol=1e-6)


def test_at_the_edge_the_part_of_the_window_on_the_slide_counts():
    """At a corner 5 x 5 of the window's 9 x 9 px lie on the slide."""
    found = density(cells_at([(0, 0), (4000, 3000)]), 90.0).values
    assert found[0, 0] == pytest.approx(1 / 0.0025)
    assert found[-1, -1] == pytest.approx(1 / 0.0025)
    assert found[4, 0] == pytest.approx(1 / 0.0045)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=30),
    st.integers(30, 900),
    st.integers(30, 900),
    st.sampled_from([0.25, 0.499, 1.0]),
)
def test_every_value_is_the_count_of_its_window(points, width, height, mpp):
    points = [(x * width, y * height) for x, y in points]
    found = density(cells_at(points, width=width, height=height, mpp=mpp), 63.0)
    step = 7.0 / mpp
    rows, columns = found.values.shape
    assert (rows, columns) == (np.ceil(height / step), np.ceil(width / step))
    # Where the middle of the box lies as it is stored.
    cells = np.array([((x - 10 + (x + 10)) / 2, (y - 5 + (y + 5)) / 2) for x, y in points]).reshape(-1, 2)
    column = np.clip(cells[:, 0] // step, 0, columns - 1)
    row = np.clip(cells[:, 1] // step, 0, rows - 1)
    for i, j in {(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)}:
        inside = (abs(row - i) <= 4) & (abs(column - j) <= 4)
        across = min((j + 5) * step, width) - max(j - 4, 0) * step
        down = min((i + 5) * step, height) - max(i - 4, 0) * step
        assert found.values[i, j] == pytest.approx(inside.sum() / (across * down * mpp**2 / 1e6), rel=1e-5)


LABELS = {
    "all abnormal": (None, 2),
    "one": (["NILM"], 1),
    "without a cell": (["SCC"], 0),
    "several": (["NILM", "HSIL"], 2),
}


@pytest.mark.parametrize(("labels", "number"), LABELS.values(), ids=LABELS)
def test_which_cells_are_counted(labels, number):
    cells = cells_at([(500, 500)] * 4, labels=["NILM", "HSIL", "LSIL", "CANDIDA"])
    assert density(cells, 250.0, labels).cells == number


def test_what_cannot_be_mapped_is_refused():
    cells = cells_at([(500, 500)])
    with pytest.raises(UnmappedLabelError, match="HSLI"):
        density(cells, labels=["HSLI"])
    with pytest.raises(ConfigError, match="take a larger window"):
        density(cells, 0.5)
    with pytest.raises(MissingResolutionError, match="S1"):
        density(CellMap(replace(cells.slide, mpp=None), cells.table))


def test_the_cost_is_that_of_the_map_not_of_the_slide():
    """A slide of 10¹² px."""
    found = density(cells_at([(9e5, 8e5)], width=1_000_000, height=1_000_000, mpp=0.25), 2000.0)
    assert found.values.shape == (1125, 1125)
    assert found.values.sum() == pytest.approx(81 / 4)


def test_the_tiff_is_a_pyramid_with_its_resolution(tmp_path):
    cells = cells_at([(2010, 1010), (39_990, 29_990)], width=40_000, height=30_000)
    path = export_cells(cells, tmp_path, "heatmap", ExportConfig(heatmap_window_um=180))
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        assert [level.shape for level in series.levels] == [(750, 1000), (375, 500), (188, 250)]
        whole = series.levels[0].asarray()
        np.testing.assert_array_equal(whole, density(cells, 180.0).values)
        np.testing.assert_allclose(
            series.levels[1].asarray(),
            whole[:-1:2].reshape(375, 500, 2).mean(2) / 2 + whole[1::2].reshape(375, 500, 2).mean(2) / 2,
        )
        page = tiff.pages.first
        assert (page.dtype, page.is_tiled, page.tags["ResolutionUnit"].value) == (np.float32, True, 3)
        for level, px_um in zip(series.levels, (20, 40, 80), strict=True):
            top, bottom = level.keyframe.tags["XResolution"].value
            assert 1e4 / (top / bottom) == pytest.approx(px_um)
        facts = json.loads(page.description)
    assert facts.pop("labels")[-2:] == ["LSIL", "ASC-US"]
    assert facts == {
        "slide_id": "S1", "model_id": "model", "unit": "cells per mm2", "cells": 2, "window_um": 180.0, "px_um": 20.0,
    }  # fmt: skip
    assert not {"DateTime", "Software"} & {tag.name for tag in page.tags}


@pytest.mark.parametrize(("width", "height"), [(4000, 3000), (20_000, 900), (300, 8000), (40, 40)])
@pytest.mark.parametrize("number", [0, 5])
def test_the_png_shows_the_map(width, height, number, tmp_path):
    cells = cells_at([(width / 2, height / 2)] * number, width=width, height=height)
    path = heatmap.write_png(cells, tmp_path / "cells.png", labels=["HSIL"])
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert min(image.size) > 300
    # The ends of the colour map: no cell, except on a slide as small as a window, and most cells.
    lowest, highest = ((pixels == colormaps["cividis"](end, bytes=True)[:3]).all(axis=2).any() for end in (0.0, 1.0))
    assert lowest == (number == 0 or width > 40)
    assert number == 0 or highest
    assert not {"Software", "Creation Time"} & set(image.info)


LENGTHS = {0.9: 0.5, 1.0: 1.0, 4.99: 2.0, 5.0: 5.0, 0.013: 0.01, 70.0: 50.0}


@pytest.mark.parametrize(("limit", "length"), LENGTHS.items())
def test_a_scale_bar_has_a_round_length(limit, length):
    assert heatmap._round_length(limit) == pytest.approx(length)
