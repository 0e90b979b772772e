"""From the file to the exports: the cells of the table, and of nothing else, under one id everywhere."""

import csv
import json
import sqlite3
from contextlib import closing

import pyarrow.parquet as pq

from wsi_detect.run import Batch, RunConfig, list_slides, run_batch
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.testing import blobs


def test_every_export_has_the_same_cells_under_the_same_ids(painted, tmp_path):
    bundle = blobs.write_bundle(tmp_path / "bundle")
    formats = ("geojson", "csv", "parquet", "geoparquet", "coco", "asap", "sqlite", "heatmap", "heatmap_png")
    config = RunConfig(exports=formats)
    (status,) = run_batch(
        list_slides([painted.path]), Batch(tmp_path / "out", bundle, config, runtime=blobs.load), workers=0
    )
    folder = tmp_path / "out" / status["slide_id"]
    ids = CellMap.read(folder / "cells.parquet").table["cell_id"].to_pylist()
    assert len(ids) == status["cells"] > 20
    geojson = json.loads((folder / "exports" / "cells.geojson").read_text())
    assert [feature["id"] for feature in geojson["features"]] == ids
    with (folder / "exports" / "cells.csv").open(newline="") as stream:
        assert [row["cell_id"] for row in csv.DictReader(stream)] == ids
    assert len(list((folder / "exports").iterdir())) == len(formats)
    for name in ("parquet", "geo.parquet"):
        assert pq.read_table(folder / "exports" / f"cells.{name}")["cell_id"].to_pylist() == ids
    with closing(sqlite3.connect(folder / "exports" / "cells.sqlite")) as base:
        assert [row for (row,) in base.execute("SELECT cell_id FROM cells ORDER BY id")] == ids
    asap = (folder / "exports" / "cells.xml").read_text()
    assert all(name in asap for name in ids)
    coco = (folder / "exports" / "cells.json").read_text()
    assert all(name in coco for name in ids)
