"""Part files: any cut into parts and bands, any order, any number of workers, and the same bytes; the rest unread."""

import json
import logging
import threading
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stitch_scenes import boxes_of, paint, show

from wsi_detect import artifact, schema
from wsi_detect.errors import DamagedArtifactError, NonFiniteError, StaleArtifactError
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching import bands, parts
from wsi_detect.stitching.stitcher import StitchingConfig, stitch, stitch_detections
from wsi_detect.tiling.grid import TileGrid

GRID = TileGrid(1200, 1500, 256, 64)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(5)
    seen = show(paint(rng, GRID.width, GRID.height, 64, 500), GRID, rng, jitter=3.0).table
    scores = rng.random((seen.num_rows, 3)).astype(np.float32).tolist()
    column = schema.DETECTIONS.get_field_index("class_scores")
    field = schema.DETECTIONS.field("class_scores")
    return seen.set_column(column, field, pa.array(scores, field.type))


def write(folder, table, cuts, classes=("NILM", "LSIL", "HSIL")):
    edges = [0, *sorted(cuts), table.num_rows]
    for number, (start, stop) in enumerate(pairwise(edges)):
        path, rows = folder / "detections" / f"part-{number:05d}.parquet", table.slice(start, stop - start)
        artifact.write_table(path, rows, schema.DETECTIONS, {"classes": json.dumps(classes)})
    return folder / "detections"


def written(detections, out, **options):
    slide = SlideInfo("S1", out, GRID.width, GRID.height, 0.25, "file", (1.0,))
    stitch_detections(detections, GRID, slide, out, StitchingConfig(**options), model_id="m")
    return (out / "cells.parquet").read_bytes()


@pytest.fixture(scope="module")
def expected(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return written(write(folder, table, ()), folder)


def test_in_memory_it_is_the_same(table, expected, tmp_path):
    (tmp_path / "cells.parquet").write_bytes(expected)
    kept = artifact.read_table(tmp_path / "cells.parquet", schema.CELLS)
    found = stitch(table, GRID, StitchingConfig(), model_id="m")
    assert found.equals(kept)
    assert found.num_rows > 300


@given(
    seed=st.integers(0, 2**32 - 1),
    number=st.integers(0, 6),
    band=st.sampled_from([1, 300, 10**9]),
    orderly=st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_parts_may_be_cut_anywhere_and_hold_rows_in_any_order(
    tmp_path_factory, table, expected, seed, number, band, orderly
):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("parts")
    rows = table if orderly else table.take(pa.array(rng.permutation(table.num_rows)))
    detections = write(folder, rows, rng.integers(0, table.num_rows + 1, number).tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "BAND", band)
        assert written(detections, folder) == expected


def test_three_runs_give_the_same_bytes(table, expected, tmp_path):
    detections = write(tmp_path, table, (700, 1500))
    assert [written(detections, tmp_path) for _ in range(3)] == [expected] * 3


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_gives_the_same_bytes(workers, table, expected, tmp_path, monkeypatch, caplog):
    detections = write(tmp_path, table, range(200, table.num_rows, 200))
    monkeypatch.setattr(bands, "BAND", 1)
    # The first bands wait until as many threads as there are workers have one: all of them do work.
    together, read = threading.Barrier(workers), parts.Parts.load
    waiting = iter(range(workers))

    def load(self, first, after):
        if next(waiting, None) is not None:
            together.wait(timeout=30)
        return read(self, first, after)

    monkeypatch.setattr(parts.Parts, "load", load)
    with caplog.at_level(logging.DEBUG, "wsi_detect.stitching.bands"):
        assert written(detections, tmp_path, workers=workers) == expected
    threads = {record.args[-1] for record in caplog.records if record.name.endswith("bands")}
    assert len(threads) == workers
    assert len([record for record in caplog.records if record.name.endswith("bands")]) == GRID.shape[0]


def test_a_band_reads_the_parts_it_needs(table, tmp_path):
    columns = GRID.shape[1]
    order = pa.array(np.argsort(table["patch_id"].to_numpy(), kind="stable"))
    ordered = table.take(order)
    row = ordered["patch_id"].to_numpy() // columns
    detections = write(tmp_path, ordered, np.searchsorted(row, np.arange(1, GRID.shape[0])))
    found = parts.Parts.open(detections, "S1", GRID)
    assert found.counts().tolist() == np.bincount(row).tolist()
    (detections / "part-00000.parquet").unlink()
    seen = found.load(1, 3)
    assert sorted(seen.boxes.tolist()) == sorted(boxes_of(ordered)[(row == 1) | (row == 2)].tolist())


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"patch_id": 10**6}, StaleArtifactError, "patch 1000000 is not in the grid"),
        ({"patch_id": -1}, StaleArtifactError, "patch -1 is not in the grid"),
        ({"x0_px": float("nan")}, NonFiniteError, "in patch 47;"),
        ({"class_scores": [0.5]}, DamagedArtifactError, r"\[1, 3\] class scores"),
    ],
)
def test_what_only_the_last_band_meets_is_refused_too(change, error, text, workers, table, tmp_path, monkeypatch):
    monkeypatch.setattr(bands, "BAND", 1)
    row = {**table.slice(0, 1).to_pylist()[0], "patch_id": len(GRID) - 1, "x0_px": 1150.0, "x1_px": 1190.0}
    last = {**row, "y0_px": 1400.0, "y1_px": 1440.0, **change}
    detections = write(tmp_path, pa.concat_tables([table, artifact.table_of([last], schema.DETECTIONS)]), ())
    with pytest.raises(error, match=text):
        written(detections, tmp_path, workers=workers)
    assert not (tmp_path / "cells.parquet").exists()
