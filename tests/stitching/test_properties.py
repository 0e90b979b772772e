"""What must hold of the stitcher whatever the slide, the grid and the order: each function a property."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stitch_scenes import BOX, Scene, boxes_of, by_box, detections, in_order, paint, show

from wsi_detect import artifact, schema
from wsi_detect.geometry import box_iou
from wsi_detect.stitching import nms, ownership
from wsi_detect.stitching.stitcher import StitchingConfig, stitch
from wsi_detect.tiling.grid import TileGrid

CONFIG = StitchingConfig()
few = settings(max_examples=15, deadline=None, derandomize=True)


def founders(scene: Scene, grid: TileGrid) -> tuple[np.ndarray, np.ndarray]:
    """Founding view of each detection, and its patch."""
    boxes, patch = boxes_of(scene.table), scene.table["patch_id"].to_numpy()
    margin = CONFIG.jitter * grid.overlap
    views = ownership.view(boxes, patch, grid, core_margin_px=margin, cut_margin_px=CONFIG.cut_margin_px)
    label = np.zeros(len(patch), dtype=np.int64)
    place = nms.rank(views, scene.table["score"].to_numpy().astype(np.float64), label)
    return nms.suppress(views, place, None, iou=CONFIG.iou, ios=CONFIG.ios), patch


@pytest.mark.parametrize("patch", [256, 512, 1000])
@given(
    seed=st.integers(0, 2**32 - 1),
    largest=st.sampled_from([24, 40, 64]),
    slack=st.integers(0, 60),
    extra=st.sampled_from([(0, 0), (37, -90), (-200, 411), (611, 250)]),
)
@few
def test_a_perfect_detector_gives_exactly_the_painted_cells(patch, seed, largest, slack, extra):
    rng = np.random.default_rng(seed)
    grid = TileGrid(1500 + extra[0], 1300 + extra[1], patch, largest + slack)
    scene = show(paint(rng, grid.width, grid.height, largest, 400), grid, rng)
    result = stitch(scene.table, grid, CONFIG, model_id="m")
    assert in_order(boxes_of(result)) == in_order(scene.cells)


@pytest.mark.parametrize(("patch", "overlap"), [(256, 200), (512, 400), (1000, 700), (256, 64)])
def test_a_perfect_detector_is_exact_when_most_of_a_patch_overlaps(patch, overlap):
    rng = np.random.default_rng(patch)
    grid = TileGrid(1111, 1001, patch, overlap)
    scene = show(paint(rng, grid.width, grid.height, 64, 300), grid, rng)
    result = stitch(scene.table, grid, CONFIG, model_id="m")
    assert in_order(boxes_of(result)) == in_order(scene.cells)


@given(seed=st.integers(0, 2**32 - 1))
@few
def test_single_precision_of_the_detector_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    grid = TileGrid(1400, 1200, 512, 64)
    scene = show(paint(rng, grid.width, grid.height, 64, 300) + 0.0, grid, rng)
    exact = boxes_of(scene.table)
    corner = grid.origins()[scene.table["patch_id"].to_numpy()][:, [0, 1, 0, 1]]
    scale = 1.37
    rounded = ((exact - corner) / scale).astype(np.float32).astype(np.float64) * scale + corner
    table = scene.table
    for k, name in enumerate(BOX):
        table = table.set_column(table.schema.get_field_index(name), schema.DETECTIONS.field(name), [rounded[:, k]])
    result = boxes_of(stitch(table, grid, CONFIG, model_id="m", scale=scale))
    expected = scene.cells
    assert len(result) == len(expected)
    distance = np.abs(result[:, None] - expected[None]).max(axis=2)
    assert (distance.min(axis=0) < 1e-3).all()


@given(seed=st.integers(0, 2**32 - 1), jitter=st.sampled_from([0.0, 3.0]))
@few
def test_the_order_of_detections_does_not_matter(seed, jitter):
    rng = np.random.default_rng(seed)
    grid = TileGrid(900, 700, 256, 64)
    scene = show(paint(rng, 900, 700, 64, 200), grid, rng, jitter)
    shuffled = scene.table.take(pa.array(rng.permutation(scene.table.num_rows)))
    assert stitch(shuffled, grid, CONFIG, model_id="m").equals(stitch(scene.table, grid, CONFIG, model_id="m"))


@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 3), rows=st.integers(1, 3))
@few
def test_shifting_the_slide_shifts_the_cells(seed, columns, rows):
    rng = np.random.default_rng(seed)
    step, grid = 192, TileGrid(256 + 192 * 9, 256 + 192 * 9, 256, 64)
    width = grid.shape[1]
    scene = show(paint(rng, 500, 500, 64, 150) + 300, grid, rng, 3.0)
    boxes, patch = boxes_of(scene.table), scene.table["patch_id"].to_numpy()
    offset = np.array([columns, rows, columns, rows]) * step
    label, score = np.array(scene.table["label"].to_pylist()), scene.table["score"].to_numpy()
    # Whole numbers of sixteenths add exactly, so that only the place changes.
    boxes = np.round(boxes * 16) / 16
    here = by_box(stitch(detections(boxes, patch, label, score), grid, CONFIG, model_id="m"))
    moved = detections(boxes + offset, patch + rows * width + columns, label, score)
    there = by_box(stitch(moved, grid, CONFIG, model_id="m"))
    assert boxes_of(there).tolist() == (boxes_of(here) + offset).tolist()
    assert there.select(["label", "score", "support"]).equals(here.select(["label", "score", "support"]))


@given(seed=st.integers(0, 2**32 - 1))
@few
def test_cells_entered_again_as_one_patch_come_out_unchanged(seed):
    rng = np.random.default_rng(seed)
    grid = TileGrid(900, 700, 256, 64)
    once = stitch(show(paint(rng, 900, 700, 64, 200), grid, rng, 3.0).table, grid, CONFIG, model_id="m")
    again = once.append_column("patch_id", pa.array(np.zeros(once.num_rows, dtype=np.int64)))
    again = again.select(schema.DETECTIONS.names).cast(schema.DETECTIONS)
    twice = stitch(again, TileGrid(900, 700, 900, 64), CONFIG, model_id="m")
    unchanged = [name for name in schema.CELLS.names if name != "support"]
    assert twice.select(unchanged).equals(once.select(unchanged))


@given(seed=st.integers(0, 2**32 - 1), jitter=st.sampled_from([0.0, 2.0, 5.0]))
@few
def test_a_cell_absorbs_at_most_one_detection_from_each_other_patch(seed, jitter):
    rng = np.random.default_rng(seed)
    grid = TileGrid(900, 700, 256, 100)
    founder, patch = founders(show(paint(rng, 900, 700, 64, 250), grid, rng, jitter), grid)
    member = founder >= 0
    taken = list(zip(founder[member].tolist(), patch[member].tolist(), strict=True))
    assert len(taken) == len(set(taken))


@pytest.mark.parametrize(("overlap", "clumped"), [(64, False), (96, False), (64, True)])
def test_two_pixels_of_jitter_lose_and_double_nothing(overlap, clumped):
    lost = doubled = number = 0
    for seed in range(4):
        rng = np.random.default_rng(seed)
        grid = TileGrid(3000, 3000, 512, overlap)
        cells = paint(rng, 3000, 3000, 64, 2000)
        cells = cells[(cells[:, 2:] - cells[:, :2]).min(axis=1) >= 20]
        if not clumped:
            cells = cells[~np.triu(box_iou(cells, cells) > 0.1, k=1).any(axis=0)]
        scene = show(cells, grid, rng, 2.0)
        founder, _ = founders(scene, grid)
        times = np.bincount(scene.truth[founder == np.arange(len(founder))], minlength=len(cells))
        lost, doubled, number = lost + (times == 0).sum(), doubled + (times > 1).sum(), number + len(cells)
    assert number > 1500
    assert (lost, doubled) == (0, 0)


@given(seed=st.integers(0, 2**32 - 1))
@few
def test_support_counts_the_patches_that_show_the_cell(seed):
    rng = np.random.default_rng(seed)
    grid = TileGrid(900, 700, 256, 64)
    corner = np.stack(np.meshgrid(np.arange(0, 840, 70), np.arange(0, 640, 70)), axis=-1).reshape(-1, 2)
    corner = corner + rng.integers(0, 6, corner.shape)
    scene = show(np.hstack([corner, corner + rng.integers(8, 64, corner.shape)]).astype(float), grid, rng)
    result = stitch(scene.table, grid, CONFIG, model_id="m")
    cells, windows = boxes_of(result), grid.boxes()
    shown = (cells[:, None, :2] < windows[None, :, 2:]).all(axis=2) & (cells[:, None, 2:] > windows[None, :, :2]).all(2)
    assert result["support"].to_pylist() == shown.sum(axis=1).tolist()


def test_nothing_in_gives_a_typed_nothing():
    grid = TileGrid(900, 700, 256, 64)
    result = stitch(artifact.empty_table(schema.DETECTIONS), grid, CONFIG, model_id="m")
    assert result.num_rows == 0
    assert result.schema.equals(schema.CELLS)
