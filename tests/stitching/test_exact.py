"""The fast stitcher against its definition, view by view; any cut into bands against the whole slide."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import stitch_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from stitch_scenes import boxes_of, detections, show

from wsi_detect.geometry import box_iou
from wsi_detect.stitching import bands, nms, ownership
from wsi_detect.stitching.cells import in_order, table_of
from wsi_detect.stitching.columns import Detections
from wsi_detect.stitching.joins import joined
from wsi_detect.stitching.rules import StitchingConfig
from wsi_detect.stitching.stitcher import stitch
from wsi_detect.tiling.grid import TileGrid

CONFIG = StitchingConfig()
#: Every rule, and every method.
CONFIGS = st.sampled_from(
    [
        CONFIG,
        StitchingConfig(class_agnostic=False, clusters=True),
        StitchingConfig(refine=True, join=True, clusters=True),
        StitchingConfig(method="nms", clusters=True),
        StitchingConfig(method="soft_nms", clusters=True),
        StitchingConfig(method="soft_nms", decay="linear", least_score=0.2),
    ]
)
many = settings(max_examples=60, deadline=None, derandomize=True)
GRIDS = st.sampled_from([(400, 300, 128, 64), (300, 420, 100, 30), (350, 350, 128, 100), (260, 600, 90, 45)])
JITTERS = st.sampled_from([0.0, 2.0, 8.0])


def crowd(rng: np.random.Generator, grid: TileGrid, number: int) -> np.ndarray:
    """Boxes in a few heaps, sides 4 to 60 px, many of the same place or size: chains and ties."""
    heap = rng.random((4, 2)) * [grid.width - 60, grid.height - 60]
    corner = np.clip(heap[rng.integers(0, 4, number)] + rng.normal(0, 15, (number, 2)), 0, None).round()
    boxes = np.hstack([corner, corner + rng.integers(1, 16, (number, 2)) * 4.0])
    return np.clip(boxes, 0, [grid.width, grid.height] * 2)


@given(seed=st.integers(0, 2**32 - 1), shape=GRIDS, jitter=JITTERS, number=st.integers(0, 40), apart=st.booleans())
@many
def test_it_is_its_definition(seed, shape, jitter, number, apart):
    rng = np.random.default_rng(seed)
    grid = TileGrid(*shape)
    scene = show(crowd(rng, grid, number), grid, rng, jitter)
    boxes, patch = boxes_of(scene.table), scene.table["patch_id"].to_numpy()
    score, label = scene.table["score"].to_numpy().astype(np.float64), rng.integers(0, 2, len(patch))
    kinds = label if apart else None
    views = ownership.view(boxes, patch, grid, core_margin_px=8, cut_margin_px=3)
    place = nms.rank(views, score, label)
    assert place.tolist() == stitch_oracle.places(views, score, label).tolist()
    pairs = nms.candidates(views, patch, kinds, iou=0.3, ios=0.6)
    links = nms.partners(pairs, views, place)
    chosen = stitch_oracle.partners(views, place, 0.3, 0.6, kinds)
    assert sorted(zip(links.first.tolist(), links.second.tolist(), strict=True)) == sorted(chosen)
    founder = nms.suppress(views, place, kinds, iou=0.3, ios=0.6)
    assert founder.tolist() == stitch_oracle.founders(views, place, chosen)


def greedy(boxes: np.ndarray, score: np.ndarray, iou: float) -> list[int]:
    """Non-maximum suppression of one image, box by box: the founder of each."""
    likeness = box_iou(boxes, boxes).tolist()
    founder = [-1] * len(boxes)
    for k in sorted(range(len(boxes)), key=lambda k: (-score[k], *boxes[k][[1, 0, 3, 2]], k)):
        if founder[k] < 0:
            for j in range(len(boxes)):
                if j == k or (founder[j] < 0 and likeness[k][j] >= iou):
                    founder[j] = k
    return founder


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(0, 60))
@settings(max_examples=1000, deadline=None, derandomize=True)
def test_with_a_patch_for_each_detection_it_is_plain_suppression(seed, number):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 60, (number, 2))
    boxes = np.hstack([corner, corner + rng.integers(1, 40, (number, 2))]).astype(np.float64)
    score = rng.integers(0, 5, number) / 4
    never = np.zeros(number, dtype=bool)
    everywhere = np.tile([0.0, 0.0, 200.0, 200.0], (number, 1))
    views = ownership.Views(boxes.T, np.arange(number), ~never, never.view(np.uint8), never, everywhere)
    place = nms.rank(views, score, np.zeros(number, dtype=np.int64))
    assert nms.suppress(views, place, None, iou=0.5, ios=1.0).tolist() == greedy(boxes, score, 0.5)


def swept(table, grid, config, cuts):
    """Cells of a slide cut into bands at the given rows."""
    seen = Detections.of(table)
    row, counts = seen.patch // grid.shape[1], np.bincount(seen.patch, minlength=len(grid))

    def load(first, after):
        return seen.take(np.flatnonzero((row >= first) & (row < after)))

    job = bands.Job(grid, config, np.cumsum(counts) - counts if config.clusters else None)
    cells = bands.sweep(load, list(pairwise([0, *sorted(cuts), grid.shape[0]])), job)
    return table_of(in_order(joined(cells, config) if config.join else cells, grid), "S1", "m")


@given(data=st.data(), seed=st.integers(0, 2**32 - 1), shape=GRIDS, jitter=JITTERS, config=CONFIGS)
@settings(many, max_examples=120)
def test_any_cut_into_bands_and_any_order_give_the_same_cells(data, seed, shape, jitter, config):
    rng = np.random.default_rng(seed)
    number = int(rng.integers(0, 90))
    grid = TileGrid(*shape)
    scene = show(crowd(rng, grid, number), grid, rng, jitter)
    rows = grid.shape[0]
    cuts = data.draw(st.sets(st.integers(1, rows - 1)) if rows > 1 else st.just(set()))
    whole = swept(scene.table, grid, config, ())
    shuffled = scene.table.take(pa.array(rng.permutation(scene.table.num_rows)))
    assert swept(shuffled, grid, config, cuts).equals(whole)
    assert stitch(shuffled, grid, config, model_id="m").equals(whole)


def test_a_chain_across_every_band_is_decided_from_its_far_end():
    """Each box takes the next only if it is not taken itself; whether the last founds a cell hangs on the first."""
    grid = TileGrid(100, 1000, 100, 40)
    rows = grid.shape[0]
    # One detection a patch, each overlapping the one of the next patch; scores fall from the bottom up.
    top = np.arange(rows) * 60.0 + 25
    boxes = np.column_stack([np.full(rows, 20.0), top, np.full(rows, 80.0), top + 72])
    for length in (rows, rows - 1):
        table = detections(boxes[:length], np.arange(length), np.full(length, "NILM"), np.linspace(0.2, 0.9, length))
        config = StitchingConfig(iou=0.05, cut_margin_px=0, jitter=0.5)
        whole = swept(table, grid, config, ())
        kept = sorted(whole["y0_px"].to_pylist(), reverse=True)
        assert kept == top[:length][::-2].tolist()
        for cuts in (range(1, rows), [3, 7], [rows - 1]):
            assert swept(table, grid, config, cuts).equals(whole)
        assert stitch(table, grid, config, model_id="m").equals(whole)


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        ([5, 5, 5, 5], 10, [(0, 2), (2, 4)]),
        ([0, 0, 0], 10, [(0, 3)]),
        ([25, 1, 1], 10, [(0, 1), (1, 3)]),
        ([3], 10, [(0, 1)]),
    ],
)
def test_a_band_has_whole_rows(counts, limit, expected):
    assert bands.plan(np.array(counts), limit) == expected


def test_crowds_take_rounds_not_squares():
    """A row of boxes, each a little more like the next than like the one before: the longest chain there is."""
    number = 400
    left = np.cumsum(np.linspace(4, 2, number))
    boxes = np.column_stack([left, np.zeros(number), left + 20, np.full(number, 20.0)])
    patch = np.arange(number) % 2
    views = ownership.Views(
        boxes.T,
        patch,
        owned=np.ones(number, dtype=bool),
        edges=np.zeros(number, dtype=np.uint8),
        alone=np.zeros(number, dtype=bool),
        windows=np.array([[0.0, 0, 2000, 20]] * 2),
    )
    score = np.ones(number)
    place = nms.rank(views, score, patch)
    assert nms.suppress(views, place, None, iou=0.3, ios=1.0).tolist() == stitch_oracle.founders(
        views, place, stitch_oracle.partners(views, place, 0.3, 1)
    )
