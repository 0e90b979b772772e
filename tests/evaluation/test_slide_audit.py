"""Finished slides: recall by depth in their own patches, and what their audits say, among the figures."""

import shutil

import pytest

from wsi_detect import artifact
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.slide_audit import AUDIT_FILE
from wsi_detect.evaluation.slides import run_on_cells
from wsi_detect.geometry import Box
from wsi_detect.run import audit
from wsi_detect.schema import ANNOTATIONS, BOX_COLUMNS, CELLS
from wsi_detect.slides import SlideInfo
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.testing.painter import PaintedCell, paint_slide
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

#: Cells of 40 px in patches that begin at x = 0, 192, 384 and are 256 px wide, as high as the slide. Depths: 176 px in
#: the first patch, 20 and 65 in the second, 76 in the third.
MIDDLES = (60, 232, 363, 480)
MISSED = 232


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A slide's folder with patches and cells, and annotations of all cells, of which one was not found."""
    folder = tmp_path_factory.mktemp("finished")
    boxes = {x: Box(x - 20, 100, x + 20, 140) for x in MIDDLES}
    slide = paint_slide(
        folder / "slide.svs", width=640, height=256, cells=[PaintedCell("HSIL", box) for box in boxes.values()]
    )
    tile_slide(slide.path, folder / "S1", TilingConfig(patch_px=256, overlap_um=16, mpp=0.25, codec="none"))
    place = {x: dict(zip(BOX_COLUMNS, map(float, box), strict=True)) for x, box in boxes.items()}
    empty = {"class_scores": None, "geometry": None, "support": 1, "score": 0.9, "label": "HSIL", "slide_id": "S1"}
    cells = [{"cell_id": str(x), **box, **empty} for x, box in place.items() if x != MISSED]
    info = SlideInfo("S1", slide.path, 640, 256, 0.25, "file", (1.0,))
    CellMap(info, artifact.table_of(cells, CELLS), ("HSIL",), "m").write(folder / "S1" / "cells.parquet")
    fact = {"slide_id": "S1", "label": "HSIL", "geometry": None, "annotator": None, "source_label": "x"}
    rows = [{"annotation_id": str(x), **box, **fact} for x, box in place.items()]
    artifact.write_table(folder / "annotations.parquet", artifact.table_of(rows, ANNOTATIONS), ANNOTATIONS)
    return folder


def figures(folder) -> dict:
    run = run_on_cells(
        [folder / "S1" / "cells.parquet"], folder / "annotations.parquet", EvaluationConfig(replicates=10)
    )
    return {
        (row["metric"], row["subset"]): (row["value"], row["n"])
        for row in run.metrics
        if row["metric"].startswith(("border", "grid"))
    }


def test_recall_by_depth_is_among_the_figures(finished):
    assert figures(finished) == {
        ("border_recall", "under 0 px deep"): (None, 0),
        ("border_recall", "0 to 32 px deep"): (0.0, 1),
        ("border_recall", "32 to 64 px deep"): (None, 0),
        ("border_recall", "from 64 px deep"): (1.0, 3),
        ("border_loss", None): (1.0, 4),
    }


def test_an_audit_beside_the_cells_is_read(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    counts = {"first": 3, "second": 4, "same": 3, "renamed": 0, "first_only": 0, "second_only": 1, "changed": 0.25}
    artifact.write_json(folder / "S1" / AUDIT_FILE, {"cells": counts, "classes": {}})
    assert figures(folder)["grid_change", None] == (0.25, 4)
    assert audit.AUDIT == AUDIT_FILE


def test_without_patches_there_is_nothing_to_say_about_borders(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(folder / "S1" / "patches.zarr")
    assert figures(folder) == {}
