"""Counts of a map or a part: what they say, and which regions are refused."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import shapely

from wsi_detect import artifact, schema
from wsi_detect.errors import ConfigError
from wsi_detect.geometry import Box
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.counts import lines, read_region, tally


def cells(mpp=0.5):
    """Three cells with middles (5, 5), (50, 50), (105, 55) on a slide of 1 mm by 0.5 mm."""
    rows = [(0, 0, 10, 10, "NILM"), (45, 45, 55, 55, "HSIL"), (100, 50, 110, 60, "NILM")]
    fixed = {"slide_id": "S1", "score": 0.5, "class_scores": None, "support": 1, "geometry": None}
    names = (*schema.BOX_COLUMNS, "label")
    entries = [{"cell_id": str(k), **dict(zip(names, row, strict=True)), **fixed} for k, row in enumerate(rows)]
    info = SlideInfo("S1", Path("x.svs"), 2000, 1000, mpp, "file" if mpp else "missing", (1.0,))
    return CellMap(info, artifact.table_of(entries, schema.CELLS), ("NILM", "HSIL"), "m")


def feature(shape):
    return {"type": "Feature", "geometry": shapely.geometry.mapping(shape), "properties": {"objectType": "annotation"}}


def test_a_tally_of_the_whole_slide():
    assert tally(cells()) == {
        "slide_id": "S1",
        "model_id": "m",
        "part": "whole slide",
        "area_mm2": 0.5,
        "cells": 3,
        "density_per_mm2": 6.0,
        "classes": [
            {"label": "HSIL", "cells": 1, "density_per_mm2": 2.0},
            {"label": "NILM", "cells": 2, "density_per_mm2": 4.0},
        ],
    }
    assert lines(tally(cells())) == [
        "slide S1: whole slide, 0.5 mm²",
        "class  cells  per mm²",
        "HSIL       1     2.00",
        "NILM       2     4.00",
        "all        3     6.00",
    ]


def test_a_tally_of_a_region():
    found = tally(cells(), Box(0, 0, 100, 100))
    assert (found["part"], found["area_mm2"], found["cells"]) == ("region", 0.0025, 2)
    assert [entry["density_per_mm2"] for entry in found["classes"]] == [400.0, 400.0]
    with pytest.raises(ConfigError, match="outside slide S1 of 2000 x 1000 px"):
        tally(cells(), Box(3000, 0, 4000, 100))


def test_without_a_resolution_there_are_counts_only():
    found = tally(cells(mpp=None))
    assert (found["area_mm2"], found["cells"], found["density_per_mm2"]) == (None, 3, None)
    assert [entry["density_per_mm2"] for entry in found["classes"]] == [None, None]
    assert lines(found)[0] == "slide S1: whole slide, area unknown"
    assert lines(found)[-1] == "all        3  unknown"


def test_an_empty_map_has_a_tally():
    full = cells()
    empty = CellMap(full.slide, full.table.slice(0, 0))
    assert lines(tally(empty))[1:] == ["class  cells  per mm²", "all        0     0.00"]
    assert pa.types.is_string(empty.table.schema.field("label").type)


def test_a_region_in_words():
    assert read_region("0,10.5, 20,30") == Box(0, 10.5, 20, 30)
    assert read_region("-5,-5,1e3,7") == Box(-5, -5, 1000, 7)


TWO = shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(90, 40, 120, 70)])


@pytest.mark.parametrize(
    "content",
    [
        shapely.geometry.mapping(TWO),
        feature(TWO),
        {"type": "FeatureCollection", "features": [feature(TWO)]},
        {"type": "FeatureCollection", "features": [feature(part) for part in TWO.geoms]},
        # Drawn over each other: counted once.
        {"type": "FeatureCollection", "features": [feature(TWO), *map(feature, TWO.geoms)]},
    ],
    ids=["geometry", "feature", "collection", "one each", "overlapping"],
)
def test_a_region_drawn_in_another_program(tmp_path, content):
    (tmp_path / "region.geojson").write_text(json.dumps(content))
    region = read_region(str(tmp_path / "region.geojson"))
    assert region.area == 1000
    found = tally(cells(), region)
    assert [(entry["label"], entry["cells"]) for entry in found["classes"]] == [("NILM", 2)]
    assert found["area_mm2"] == pytest.approx(1000 * 0.25e-6)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is no file"),
        ("0,0,5", "is no file"),
        ("5,0,5,9", "x0 < x1"),
        ("nan,0,5,9", "x0 < x1"),
        ("not { json", "is not GeoJSON"),
        (json.dumps({"type": "FeatureCollection", "features": []}), "holds no shape"),
        (json.dumps(feature(shapely.Point(1, 2))), "holds Point"),
        (json.dumps(feature(shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)]))), "not valid"),
    ],
)
def test_a_region_that_is_none_is_refused(tmp_path, content, words):
    path = tmp_path / "region.geojson"
    given = str(path)
    if content and "," in content and "{" not in content:
        given = content
    elif content:
        path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_region(given)
