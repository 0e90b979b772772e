"""The perfect detector: what it sees in which patch, and that stitching gives the painted cells back."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from wsi_detect import artifact
from wsi_detect.geometry import Box
from wsi_detect.schema import BOX_COLUMNS, DETECTIONS, PATCHES
from wsi_detect.slides import open_slide
from wsi_detect.stitching.stitcher import StitchingConfig, stitch, stitch_detections
from wsi_detect.testing.painter import PaintedCell, lay_cells
from wsi_detect.testing.perfect import Sight, perfect_detections, perfect_table, write_perfect
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.tiler import TilingConfig, tile_slide

GRID = TileGrid(width=400, height=200, patch=200, overlap=100)
CELLS = [PaintedCell("HSIL", Box(90, 20, 130, 60)), PaintedCell("NILM", Box(350, 150, 390, 190))]


def rows(table):
    boxes = np.column_stack([table[name].to_numpy() for name in BOX_COLUMNS]).tolist()
    return list(zip(table["patch_id"].to_pylist(), table["label"].to_pylist(), map(tuple, boxes), strict=True))


def test_every_patch_sees_what_lies_in_it_cut_at_its_edge():
    # Patches start at x = 0, 100, 200.
    assert rows(perfect_table(CELLS, GRID)) == [
        (0, "HSIL", (90, 20, 130, 60)),
        (1, "HSIL", (100, 20, 130, 60)),
        (2, "NILM", (350, 150, 390, 190)),
    ]


def test_slivers_below_the_visible_share_are_not_seen():
    table = perfect_table(CELLS, GRID, sight=Sight(min_visible=0.8))
    assert [entry[:2] for entry in rows(table)] == [(0, "HSIL"), (2, "NILM")]


def test_jitter_moves_free_sides_only():
    table = perfect_table(CELLS, GRID, sight=Sight(jitter_px=3))
    boxes = np.array([box for _, _, box in rows(table)])
    still = np.array([(90, 20, 130, 60), (100, 20, 130, 60), (350, 150, 390, 190)])
    assert boxes[1, 0] == 100
    moved = np.abs(boxes - still)
    assert moved.max() <= 3
    assert (moved > 0).sum() == 11


def test_the_true_class_has_the_highest_score():
    table = perfect_table(CELLS, GRID)
    scores = np.array(table["class_scores"].to_pylist())
    # Classes gravest first: HSIL, NILM.
    assert scores.argmax(axis=1).tolist() == [0, 0, 1]
    assert scores.max(axis=1).tolist() == table["score"].to_pylist()


def test_part_files_cover_the_grid(tmp_path):
    folder = write_perfect(CELLS, GRID, tmp_path, patches_per_part=2)
    parts = sorted(folder.iterdir())
    assert [part.name for part in parts] == ["part-00000.parquet", "part-00001.parquet"]
    assert [len(artifact.read_table(part, DETECTIONS)) for part in parts] == [2, 1]
    metadata = pq.read_schema(parts[1]).metadata
    assert json.loads(metadata[b"classes"]) == ["HSIL", "NILM"]
    assert [state["patch_id"] for state in json.loads(metadata[b"patches"])] == [2]
    patches = artifact.read_table(tmp_path / "patches.parquet", PATCHES)
    assert patches["status"].to_pylist() == ["done"] * 3


@pytest.mark.parametrize("patch", [256, 512, 1000])
@pytest.mark.parametrize("overlap", [80, 97, 128, 200])
def test_stitching_gives_exactly_the_painted_cells(patch, overlap):
    cells = lay_cells(2048, 1900, 120, seed=patch + overlap, grids=((patch, overlap),))
    grid = TileGrid(2048, 1900, patch, overlap)
    found = stitch(perfect_table(cells, grid), grid, StitchingConfig(), model_id="perfect")
    boxes = np.column_stack([found[name].to_numpy() for name in BOX_COLUMNS])
    got = sorted(zip(boxes.tolist(), found["label"].to_pylist(), strict=True))
    assert got == sorted((list(cell.box), cell.label) for cell in cells)


def test_through_a_store(small_painted, tmp_path):
    config = TilingConfig(patch_px=256, overlap_px=96, codec="none", shard_patches=3, min_coverage=0.0)
    with open_slide(small_painted.path, slide_id="S1") as slide:
        store = tile_slide(slide, tmp_path, config)
        folder = perfect_detections(small_painted.cells, store, tmp_path)
        assert len(list(folder.iterdir())) == len(store.shards)
        stitching = StitchingConfig()
        found = stitch_detections(folder, store.grid, slide.info, tmp_path, stitching, model_id="perfect")
    seen = {tuple(box) for box in found.boxes().tolist()}
    assert seen == {tuple(map(float, cell.box)) for cell in small_painted.cells}
