"""What all formats share: chunks of rows that leave no trace, outlines as single rings, flat columns."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect import schema
from wsi_detect.exports import EXPORTERS, columns, geojson, table
from wsi_detect.stitching.cell_map import CellMap

BLOCKS = ("parquet", "geoparquet")


@pytest.mark.parametrize("name", EXPORTERS)
def test_the_size_of_a_chunk_does_not_show(cell_map, name, tmp_path, monkeypatch):
    whole = EXPORTERS[name](cell_map(), tmp_path / "whole")
    monkeypatch.setattr(columns, "CHUNK", 2)
    parts = EXPORTERS[name](cell_map(), tmp_path / "parts")
    if name in BLOCKS:
        # A row group a chunk; what it says is the same.
        assert pq.read_table(parts).equals(pq.read_table(whole))
        assert [pq.ParquetFile(path).num_row_groups for path in (whole, parts)] == [1, 2]
    else:
        assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("name", EXPORTERS)
def test_how_a_table_lies_in_memory_does_not_show(cell_map, name, tmp_path):
    cells = cell_map()
    pieces = CellMap(
        cells.slide, pa.concat_tables([cells.table.slice(k, 1) for k in range(3)]), cells.classes, cells.model_id
    )
    first, second = (EXPORTERS[name](made, tmp_path / k) for k, made in (("a", cells), ("b", pieces)))
    assert first.read_bytes() == second.read_bytes()


SQUARE = shapely.box(0, 0, 4, 4)
RINGS = {
    "box": (None, [(45, 45), (55, 45), (55, 55), (45, 55)], False),
    "triangle": (shapely.Polygon([(45, 45), (55, 45), (50, 55)]), [(45, 45), (55, 45), (50, 55)], True),
    "a hole is filled": (SQUARE - shapely.box(1, 1, 2, 2), [(4, 0), (0, 0), (0, 4), (4, 4)], True),
    "the largest part": (shapely.union_all([shapely.box(8, 8, 9, 9), SQUARE]), [(4, 0), (0, 0), (0, 4), (4, 4)], True),
    "a part among lines": (
        shapely.GeometryCollection([shapely.LineString([(0, 0), (9, 9)]), shapely.Polygon([(0, 0), (3, 0), (0, 3)])]),
        [(0, 0), (3, 0), (0, 3)],
        True,
    ),
    "a line is no outline": (shapely.LineString([(45, 45), (50, 50)]), [(45, 45), (55, 45), (55, 55), (45, 55)], False),
}


@pytest.mark.parametrize(("outline", "ring", "of_outline"), RINGS.values(), ids=RINGS)
def test_one_ring_a_cell(cell_map, outline, ring, of_outline):
    (batch,) = columns.chunks(cell_map(outline=None if outline is None else shapely.to_wkb(outline)))
    points, offsets, found = columns.rings(batch)
    assert found.tolist() == [False, of_outline, False]
    assert offsets.tolist() == [0, 4, 4 + len(ring), 8 + len(ring)]
    assert set(map(tuple, points[offsets[1] : offsets[2]].tolist())) == set(ring)
    assert points[: offsets[1]].tolist() == [[0, 0.25], [10.5, 0.25], [10.5, 20], [0, 20]]
    assert points[offsets[2] :].tolist() == [[100, 60.125], [130, 60.125], [130, 90], [100, 90]]


NUMBER = st.floats(0, 1e6, allow_nan=False).map(lambda value: value + 0.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(NUMBER, NUMBER, st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=9))
def test_text_says_what_json_would(rows):
    number = len(rows)
    x, y, score, known = (np.array(column) for column in zip(*rows, strict=True))
    values = {
        "cell_id": [f"{k:08x}-0000-8000-8000-000000000000" for k in range(number)],
        "slide_id": ["S1"] * number,
        **dict(zip(schema.BOX_COLUMNS, (x, y, x + 7.5, y + 0.001), strict=True)),
        "label": ["HSIL"] * number,
        "score": score.astype(np.float32),
        "class_scores": [[float(s), 1e-7] if k else None for s, k in zip(score, known, strict=True)],
        "support": np.ones(number, np.int32),
    }
    rows_of = pa.table({f.name: values.get(f.name, pa.nulls(number, f.type)) for f in schema.CELLS})
    cells = CellMap(None, rows_of.cast(schema.CELLS), ("HSIL", 'N"I'))
    (batch,) = columns.chunks(cells)
    found = json.loads(f"[{','.join(geojson._polygons(batch, columns.boxes(batch)).to_pylist())}]")
    for entry, (x0, y0) in zip(found, zip(x, y, strict=True), strict=True):
        corners = [(x0, y0), (x0 + 7.5, y0), (x0 + 7.5, y0 + 0.001), (x0, y0 + 0.001), (x0, y0)]
        # Where a number ends in half a thousandth, numpy and Python round to different sides.
        assert np.abs(np.array(entry["coordinates"][0]) - corners).max() <= 0.0005 + 1e-9
    texts = geojson._class_scores(batch, cells.classes).to_pylist()
    for text, s, k in zip(texts, score, known, strict=True):
        expected = {"Score HSIL": pytest.approx(round(float(np.float32(s)), 6)), 'Score N"I': 0.0} if k else {}
        assert json.loads(f"{{{text[1:]}}}") == expected


FIELDS = {"plain": "plain", "a,b": '"a,b"', 'say "a"': '"say ""a"""', "a\nb": "a b", "=1,2": '"\'=1,2"', "": ""}


@pytest.mark.parametrize(("text", "field"), FIELDS.items())
def test_text_as_a_csv_field(text, field):
    assert table._fields(pa.array([text, None], type=pa.string())).to_pylist() == [field, ""]
