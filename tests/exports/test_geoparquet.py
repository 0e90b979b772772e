"""GeoParquet 1.1 by the words of its specification, read with pyarrow and shapely."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_detect import schema
from wsi_detect.exports import columns, geoparquet
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap


def geo(path):
    return json.loads(pq.read_schema(path).metadata[b"geo"])


def test_the_metadata_are_those_of_geoparquet(cell_map, tmp_path):
    path = geoparquet.write(cell_map(), tmp_path / "cells.parquet")
    assert geo(path) == {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": ["Polygon"],
                "crs": None,
                "edges": "planar",
                "bbox": [0.0, 0.25, 130.0, 90.0],
                "covering": {"bbox": {k: ["bbox", k] for k in ("xmin", "ymin", "xmax", "ymax")}},
            }
        },
    }
    assert b"px of level 0" in pq.read_schema(path).metadata[b"units"]


def test_shapes_are_outlines_or_boxes_and_covered(cell_map, boxes, tmp_path):
    found = pq.read_table(geoparquet.write(cell_map(), tmp_path / "cells.parquet"))
    shapes = shapely.from_wkb(found["geometry"].to_pylist())
    assert [shape.bounds for shape in shapes] == boxes
    assert shapes[1].equals(shapely.Polygon([(45, 45), (55, 45), (50, 55)]))
    assert [tuple(entry.values()) for entry in found["bbox"].to_pylist()] == boxes
    assert found["score_HSIL"].to_pylist() == [0.25, pytest.approx(0.7), None]


def test_types_of_shapes_are_named_and_none_is_no_extent(cell_map, tmp_path):
    two = shapely.to_wkb(shapely.union_all([shapely.box(45, 45, 46, 46), shapely.box(50, 50, 55, 55)]))
    many = geo(geoparquet.write(cell_map(outline=two), tmp_path / "many.parquet"))
    assert many["columns"]["geometry"]["geometry_types"] == ["Polygon", "MultiPolygon"]
    empty = geo(geoparquet.write(cell_map(number=0), tmp_path / "none.parquet"))
    assert empty["columns"]["geometry"]["geometry_types"] == []
    assert "bbox" not in empty["columns"]["geometry"]


def test_a_window_skips_row_groups(tmp_path, monkeypatch):
    """Statistics of the covering columns tell a reader which groups it can leave out."""
    monkeypatch.setattr(columns, "CHUNK", 100)
    x = np.arange(1000.0)
    values = {
        "cell_id": [f"{k}" for k in range(1000)],
        "slide_id": ["S1"] * 1000,
        **dict(zip(schema.BOX_COLUMNS, (x, x, x + 1, x + 1), strict=True)),
        "label": ["HSIL"] * 1000,
        "score": np.ones(1000, np.float32),
        "support": np.ones(1000, np.int32),
    }
    rows = pa.table({f.name: values.get(f.name, pa.nulls(1000, f.type)) for f in schema.CELLS}).cast(schema.CELLS)
    cells = CellMap(SlideInfo("S1", None, 1001, 1001, 0.25, "file", (1.0,)), rows)
    path = geoparquet.write(cells, tmp_path / "cells.parquet")
    meta = pq.read_metadata(path)
    names = [meta.schema.column(k).path for k in range(meta.num_columns)]
    low, high = names.index("bbox.xmin"), names.index("bbox.xmax")
    groups = [meta.row_group(k) for k in range(meta.num_row_groups)]
    ranges = [(g.column(low).statistics.min, g.column(high).statistics.max) for g in groups]
    assert ranges == [(k * 100.0, k * 100.0 + 100) for k in range(10)]
    window = (pc.field("bbox", "xmin") < 260) & (pc.field("bbox", "xmax") > 250)
    assert pq.read_table(path, filters=window)["cell_id"].to_pylist() == [str(k) for k in range(250, 260)]
