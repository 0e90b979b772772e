"""`wsi-detect view-counts`: what it prints, and the exit codes."""

import json

import pytest
import shapely

from wsi_detect import artifact, schema
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap


@pytest.fixture
def folder(tmp_path):
    """Folders of a slide of 1 mm by 0.5 mm with two cells, `known`, and of one without a resolution, `unknown`."""
    fixed = {"slide_id": "S1", "score": 0.5, "class_scores": None, "support": 1, "geometry": None}
    rows = [("a", 0, 0, 10, 10, "NILM"), ("b", 1000, 500, 1040, 540, "HSIL")]
    names = ("cell_id", *schema.BOX_COLUMNS, "label")
    table = artifact.table_of([{**dict(zip(names, row, strict=True)), **fixed} for row in rows], schema.CELLS)
    for name, mpp, source in (("known", 0.5, "file"), ("unknown", None, "missing")):
        info = SlideInfo("S1", tmp_path / "x.svs", 2000, 1000, mpp, source, (1.0,))
        CellMap(info, table, ("NILM", "HSIL"), "m").write(tmp_path / name / "cells.parquet")
    return tmp_path


def test_help_has_an_example(cli):
    code, out, _ = cli("view-counts", "--help")
    assert code == 0
    assert "Example: wsi-detect view-counts" in " ".join(out.split())


@pytest.mark.parametrize("place", ["known", "known/cells.parquet"])
def test_a_line_a_class_the_gravest_first(cli, folder, place):
    code, out, err = cli("view-counts", folder / place)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "slide S1: whole slide, 0.5 mm²",
        "class  cells  per mm²",
        "HSIL       1     2.00",
        "NILM       1     2.00",
        "all        2     4.00",
    ]


def test_a_region_by_its_corners_or_as_drawn(cli, folder):
    (folder / "drawn.geojson").write_text(shapely.to_geojson(shapely.box(900, 400, 1100, 600)))
    for region in ("900,400,1100,600", folder / "drawn.geojson"):
        code, out, _ = cli("view-counts", folder / "known", "--region", region, "--json")
        found = json.loads(out)
        assert code == 0
        assert (found["part"], found["area_mm2"], found["cells"]) == ("region", 0.01, 1)
        assert found["classes"] == [{"label": "HSIL", "cells": 1, "density_per_mm2": 100.0}]
    code, out, _ = cli("view-counts", folder / "known", "--region=-100,-100,100,100", "--json")
    assert json.loads(out)["area_mm2"] == 0.0025


def test_without_a_resolution_there_are_counts_and_a_line_that_says_why(cli, folder):
    code, out, err = cli("view-counts", folder / "unknown")
    assert code == 0
    assert out.splitlines()[-1] == "all        2  unknown"
    assert "how large a pixel is" in err
    code, out, _ = cli("view-counts", folder / "unknown", "--json")
    assert json.loads(out)["classes"][0] == {"label": "HSIL", "cells": 1, "density_per_mm2": None}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nowhere"], 4, "is missing"),
        (["known", "--region", "1,2,3"], 2, "x0,y0,x1,y1"),
        (["known", "--region", "5000,0,6000,9"], 2, "outside slide S1"),
    ],
)
def test_what_cannot_be_counted(cli, folder, monkeypatch, words, code, text):
    monkeypatch.chdir(folder)
    found, out, err = cli("view-counts", *words)
    assert (found, out) == (code, "")
    assert text in " ".join(err.split())
