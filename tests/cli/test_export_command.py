"""The command `export`: formats, places, options, and what it says of a mistake."""

from pathlib import Path

import pytest
import yaml

from wsi_detect import artifact
from wsi_detect.schema import BOX_COLUMNS, CELLS
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap


@pytest.fixture
def work(tmp_path):
    """The folder of a slide with two cells."""
    rows = [
        {"cell_id": f"{k}", "slide_id": "S1", **dict.fromkeys(BOX_COLUMNS[:2], 10.0 * k), "label": "HSIL", "score": 0.5}
        | {"support": 1, **dict.fromkeys(BOX_COLUMNS[2:], 10.0 * k + 8)}
        for k in range(2)
    ]
    slide = SlideInfo("S1", Path("a.svs"), 400, 300, 0.25, "file", (1.0,))
    CellMap(slide, artifact.table_of(rows, CELLS)).write(tmp_path / "S1" / "cells.parquet")
    return tmp_path / "S1"


def test_formats_and_places(cli, work, tmp_path):
    code, out, _ = cli("export", work)
    assert (code, out.split()) == (0, [str(work / "exports" / "cells.geojson")])
    code, out, _ = cli("export", work / "cells.parquet", "--format", "csv,geoparquet", "-f", "heatmap_png")
    names = ["cells.csv", "cells.geo.parquet", "cells.heatmap.png"]
    assert (code, out.split()) == (0, [str(work / "exports" / name) for name in names])
    code, out, _ = cli("export", work, "--format", "asap", "--out", tmp_path / "for-asap.xml")
    assert (code, out.split()) == (0, [str(tmp_path / "for-asap.xml")])
    assert (tmp_path / "for-asap.xml").read_bytes().startswith(b"<?xml")


def test_options_come_from_the_line_and_from_the_file(cli, work, tmp_path):
    cli("export", work, "--out", tmp_path / "line", "--set", "export.max_cells_per_file=1", "--set", "export.gzip=true")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"export": {"max_cells_per_file": 1}, "exports": ["csv"]}))
    cli("export", work, "--out", tmp_path / "file", "--config", tmp_path / "c.yaml")
    names = {folder: sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("line", "file")}
    assert names == {
        "line": ["cells-001.geojson.gz", "cells-002.geojson.gz"],
        "file": ["cells-001.geojson", "cells-002.geojson"],
    }


MISTAKES = {
    "no such format": (["--format", "qupath"], 2, "unknown export format 'qupath'"),
    "an empty name": (["--format", "csv,"], 2, "unknown export format ''"),
    "another format's name": (["--format", "csv", "--out", "x.geojson"], 2, "csv files end in .csv"),
    "no such option": (["--set", "export.max_cells=1"], 2, "did you mean 'max_cells_per_file'"),
    "no such class": (["--set", "export.heatmap_labels=[HSLI]"], 2, "class 'HSLI' is not in the taxonomy"),
    "a wrong value": (["--set", "export.max_cells_per_file=0"], 2, "greater than or equal to 1"),
}


@pytest.mark.parametrize(("words", "code", "text"), MISTAKES.values(), ids=MISTAKES)
def test_what_the_user_sees(cli, work, monkeypatch, words, code, text):
    monkeypatch.chdir(work)
    found, out, err = cli("export", work, *words)
    assert (found, out) == (code, "")
    assert text in " ".join(err.split())


def test_no_cells_no_export(cli, tmp_path):
    code, _, err = cli("export", tmp_path)
    assert code == 4
    assert "cells.parquet is missing" in err
