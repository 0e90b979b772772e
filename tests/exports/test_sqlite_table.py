"""The SQLite export, read with SQLite alone."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import shapely

from wsi_detect import schema
from wsi_detect.errors import EnvironmentFaultError
from wsi_detect.exports import sqlite_table
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap

#: The example of docs/outputs.md.
WINDOW = """
SELECT cells.* FROM cells_rtree JOIN cells USING (id)
WHERE cells_rtree.x1_px > :x0 AND cells_rtree.x0_px < :x1
  AND cells_rtree.y1_px > :y0 AND cells_rtree.y0_px < :y1
"""


def ask(path, query, values=()):
    with closing(sqlite3.connect(path)) as base:
        base.row_factory = sqlite3.Row
        return [dict(row) for row in base.execute(query, values)]


@pytest.fixture
def path(cell_map, tmp_path):
    return sqlite_table.write(cell_map(), tmp_path / "cells.sqlite")


def test_the_query_of_the_guide_is_the_one_tried_here():
    assert WINDOW in (Path(__file__).parents[2] / "docs" / "outputs.md").read_text()


def test_cells_have_all_columns(path, ids):
    first, second, third = ask(path, "SELECT * FROM cells ORDER BY id")
    assert first == {
        "id": 1, "cell_id": ids[0], "slide_id": "S1", "label": "NILM", "score": pytest.approx(0.9), "support": 2,
        "x0_px": 0.0, "y0_px": 0.25, "x1_px": 10.5, "y1_px": 20.0,
        "x0_um": 0.0, "y0_um": 0.125, "x1_um": 5.25, "y1_um": 10.0, "width_um": 5.25, "height_um": 9.875,
        "score_NILM": pytest.approx(0.9), "score_HSIL": 0.25, "geometry": None,
    }  # fmt: skip
    assert shapely.from_wkb(second["geometry"]).equals(shapely.Polygon([(45, 45), (55, 45), (50, 55)]))
    assert (third["id"], third["score_NILM"]) == (3, None)


def test_classes_and_facts(path):
    assert ask(path, "SELECT name, family, gravity, abnormal, colour, cells FROM classes") == [
        {"name": "HSIL", "family": "squamous", "gravity": 8, "abnormal": 1, "colour": "#d52b1e", "cells": 1},
        {"name": "TRICHOMONAS", "family": "organism", "gravity": 2, "abnormal": 0, "colour": "#009e73", "cells": 1},
        {"name": "NILM", "family": "squamous", "gravity": 0, "abnormal": 0, "colour": "#0072b2", "cells": 1},
    ]
    facts = {row["key"]: row["value"] for row in ask(path, "SELECT * FROM meta")}
    assert facts.pop("units").startswith("px of level 0")
    assert facts == {
        "slide_id": "S1", "width_px": 200, "height_px": 100, "mpp": 0.5, "mpp_source": "file", "model_id": "model",
        "schema_version": schema.SCHEMA_VERSION,
    }  # fmt: skip
    assert ask(path, "PRAGMA page_size") == [{"page_size": 4096}]
    assert ask(path, "PRAGMA user_version") == [{"user_version": schema.SCHEMA_VERSION}]
    assert ask(path, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]


WINDOWS = {
    "all": ((0, 0, 200, 100), [1, 2, 3]),
    "one": ((40, 40, 46, 46), [2]),
    "touching is not meeting": ((55, 45, 60, 50), []),
    "none": ((60, 0, 90, 50), []),
    "two": ((5, 5, 50, 50), [1, 2]),
}


@pytest.mark.parametrize(("window", "found"), WINDOWS.values(), ids=WINDOWS)
def test_cells_of_a_window(path, window, found):
    rows = ask(path, WINDOW, dict(zip(("x0", "y0", "x1", "y1"), window, strict=True)))
    assert sorted(row["id"] for row in rows) == found


def test_a_window_misses_no_cell_and_reads_through_the_tree(tmp_path):
    """The tree keeps 32-bit numbers: at 100,000 px they are 1/128 px apart, and it must err to the outside."""
    rng = np.random.default_rng(3)
    number = 2000
    corner = rng.uniform(0, 100_000, (number, 2))
    sides = rng.uniform(20, 80, (number, 2))
    values = {
        "cell_id": [f"{k}" for k in range(number)],
        "slide_id": ["S1"] * number,
        **dict(zip(schema.BOX_COLUMNS, np.hstack([corner, corner + sides]).T, strict=True)),
        "label": ["LSIL"] * number,
        "score": np.ones(number, np.float32),
        "support": np.ones(number, np.int32),
    }
    rows = pa.table({f.name: values.get(f.name, pa.nulls(number, f.type)) for f in schema.CELLS}).cast(schema.CELLS)
    cells = CellMap(SlideInfo("S1", None, 100_100, 100_100, None, "missing", (1.0,)), rows)
    path = sqlite_table.write(cells, tmp_path / "cells.sqlite")
    boxes = cells.boxes()
    for window in [*rng.uniform(0, 90_000, (40, 2)), *(boxes[:20, 2:] - 1e-9)]:
        x0, y0, x1, y1 = *window, *(window + 5000)
        true = (boxes[:, 2] > x0) & (boxes[:, 0] < x1) & (boxes[:, 3] > y0) & (boxes[:, 1] < y1)
        found = {row["id"] - 1 for row in ask(path, WINDOW, {"x0": x0, "y0": y0, "x1": x1, "y1": y1})}
        assert set(np.flatnonzero(true)) <= found
        assert len(found) <= true.sum() + 1
    plan = " ".join(
        row["detail"] for row in ask(path, f"EXPLAIN QUERY PLAN {WINDOW}", {"x0": 0, "y0": 0, "x1": 9, "y1": 9})
    )
    assert "SCAN cells_rtree VIRTUAL TABLE INDEX 2:" in plan
    assert "SEARCH cells USING INTEGER PRIMARY KEY" in plan


def test_a_class_name_is_no_sql(cell_map, tmp_path):
    cells = cell_map(number=0)
    odd = CellMap(cells.slide, cells.table, ("NILM", "AGC-EC-FN"), "'); DROP TABLE cells; --")
    path = sqlite_table.write(odd, tmp_path / "cells.sqlite")
    assert "score_AGC-EC-FN" in {row["name"] for row in ask(path, "PRAGMA table_info(cells)")}
    assert ask(path, "SELECT value FROM meta WHERE key = 'model_id'") == [{"value": "'); DROP TABLE cells; --"}]


def test_an_sqlite_without_trees_is_said_and_leaves_nothing(cell_map, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_table, "_INDEX_MODULE", "no_such_tree")
    with pytest.raises(EnvironmentFaultError, match="built without R-trees"):
        sqlite_table.write(cell_map(), tmp_path / "cells.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_cannot_be_written_is_named(cell_map, tmp_path, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite_table, "_write_meta", full)
    with pytest.raises(EnvironmentFaultError, match=r"cells\.sqlite could not be written \(database or disk is full\)"):
        sqlite_table.write(cell_map(), tmp_path / "cells.sqlite")
    assert list(tmp_path.iterdir()) == []
