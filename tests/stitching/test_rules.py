"""What may be chosen: boxes refined, members kept, pieces joined, and the methods of other programs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stitch_scenes import BOX, boxes_of, by_box, detections, in_order, paint, show

from wsi_detect.geometry import box_area, box_intersection, box_iou
from wsi_detect.stitching.stitcher import StitchingConfig, stitch
from wsi_detect.tiling.grid import TileGrid

# Two patches, 0-100 and 60-160, then one below each, 60-160: they share 60-100 each way.
GRID = TileGrid(width=160, height=160, patch=100, overlap=40)


def cells_of(rows, **options):
    """Cells of (patch, box, score) or (patch, box, score, label): box, score, label, support, members."""
    rows = [(*row, "NILM")[:4] for row in rows]
    patch, boxes, score, label = (np.array(column) for column in zip(*rows, strict=True))
    table = detections(boxes.astype(float), patch, label, score)
    result = by_box(stitch(table, GRID, StitchingConfig(cut_margin_px=2, **options), model_id="m"))
    return [
        ([cell[name] for name in BOX], round(cell["score"], 3), cell["label"], cell["support"], cell["members"])
        for cell in result.to_pylist()
    ]


def test_a_refined_box_is_the_weighted_mean_of_whole_views():
    rows = [(0, [66, 10, 86, 30], 0.6), (1, [70, 14, 90, 34], 0.2)]
    assert cells_of(rows)[0][0] == [66, 10, 86, 30]
    (box, *_), *others = cells_of(rows, refine=True)
    assert box == pytest.approx([67, 11, 87, 31])
    assert others == []


@pytest.mark.parametrize(
    "rows",
    [
        # A piece says nothing of the whole.
        [(0, [50, 10, 80, 30], 0.4), (1, [60, 11, 80, 31], 0.9)],
        # A view alone is its own mean, to the last bit.
        [(0, [10.1, 10.1, 20.3, 20.7], 0.3)],
    ],
)
def test_refining_leaves_other_boxes_alone(rows):
    assert cells_of(rows, refine=True) == cells_of(rows)


def test_members_are_numbered_by_patch_and_box():
    rows = [
        (1, [72, 10, 88, 30], 0.9),
        (0, [10, 50, 20, 60], 0.8),
        (1, [120, 5, 130, 15], 0.7),
        (0, [71, 10, 88, 30], 0.5),
    ]
    # Patch 0: 0 is the box at y 10, 1 the one at y 50. Patch 1: 2 is the box at y 5, 3 the one at y 10. Founder first.
    assert [cell[4] for cell in cells_of(rows, clusters=True)] == [[2], [3, 0], [1]]
    assert {cell[4] for cell in cells_of(rows)} == {None}


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        # Cut by one edge: 50 px in an overlap of 40.
        ([(0, [45, 10, 100, 30], 0.5), (1, [60, 10, 110, 30], 0.9)], [45, 10, 110, 30]),
        # Cut in four.
        (
            [
                (0, [50, 50, 100, 100], 0.5),
                (1, [60, 50, 112, 100], 0.5),
                (2, [50, 60, 100, 115], 0.5),
                (3, [60, 60, 112, 115], 0.5),
            ],
            [50, 50, 112, 115],
        ),
        # Off by a pixel or two, and one patch sees more of its height.
        ([(0, [44, 10, 99, 40], 0.5), (1, [61, 12, 110, 31], 0.9)], [44, 10, 110, 40]),
    ],
)
def test_pieces_are_joined(pieces, expected):
    assert [cell[0] for cell in cells_of(pieces, join=True)] == [expected]
    assert [cell[0] for cell in cells_of(pieces)] != [expected]


def test_the_pieces_of_a_long_object_are_joined_along_it():
    grid = TileGrid(340, 100, 100, 40)
    x0, x1 = grid.boxes()[:, [0, 2]].T.clip(30, 300)
    boxes = np.column_stack([x0, np.full(5, 10.0), x1, np.full(5, 30.0)])
    label = np.array(["NILM", "NILM", "LSIL", "NILM", "HSIL"])
    table = detections(boxes, np.arange(5), label, np.array([0.8, 0.7, 0.9, 0.6, 0.85]))
    result = stitch(table, grid, StitchingConfig(join=True, clusters=True), model_id="m").to_pylist()
    assert [[cell[name] for name in BOX] for cell in result] == [[30, 10, 300, 30]]
    # The clinical rule speaks over the pieces.
    assert (result[0]["label"], result[0]["support"], sorted(result[0]["members"])) == ("HSIL", 5, [0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    "rows",
    [
        # Both end at their seam, but do not face each other: one above the other.
        [(0, [50, 10, 99, 30], 0.5), (1, [61, 40, 110, 60], 0.5)],
        # One is a piece, the other whole.
        [(0, [70, 10, 100, 30], 0.5), (1, [90, 22, 120, 44], 0.5)],
        # Pieces of two objects with the same edge cutting them.
        [(0, [50, 10, 100, 30], 0.5), (0, [55, 28, 100, 50], 0.5)],
    ],
)
def test_what_is_not_one_object_is_not_joined(rows):
    joined = cells_of(rows, join=True)
    assert [cell[0] for cell in joined] == [box for _, box, _ in rows]


@pytest.mark.parametrize("jitter", [0.0, 2.0])
@pytest.mark.parametrize("sizes", [(90, 200), (300, 700)])
def test_objects_larger_than_the_overlap_come_out_once_and_whole(jitter, sizes):
    once = number = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        grid = TileGrid(4000, 4000, 512, 80)
        # One to a square of the slide's chequer, so that they are apart, and most of them on a seam.
        pitch = sizes[1] + 20
        corner = np.stack(np.meshgrid(*[np.arange(0, 4000 - pitch, pitch)] * 2), axis=-1).reshape(-1, 2)
        size = rng.uniform(*sizes, corner.shape)
        corner = corner + rng.uniform(0, 1, corner.shape) * (sizes[1] - size)
        objects = np.hstack([corner, corner + size])
        found = boxes_of(stitch(show(objects, grid, rng, jitter).table, grid, StitchingConfig(join=True), model_id="m"))
        near, iou = box_intersection(objects, found) / box_area(found), box_iou(objects, found)
        once += (((iou > 0.85).sum(axis=1) == 1) & ((near > 0.1).sum(axis=1) == 1)).sum()
        number += len(objects)
    assert once >= 0.99 * number


@given(seed=st.integers(0, 2**32 - 1), jitter=st.sampled_from([0.0, 2.0]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_joining_makes_no_cell_of_two_where_the_overlap_holds_them(seed, jitter):
    rng = np.random.default_rng(seed)
    grid = TileGrid(1400, 1200, 256, 64)
    cells = paint(rng, 1400, 1200, 64, 600)
    table = show(cells, grid, rng, jitter).table
    result = stitch(table, grid, StitchingConfig(join=True), model_id="m")
    assert result.num_rows == stitch(table, grid, StitchingConfig(), model_id="m").num_rows
    if jitter == 0:
        assert in_order(boxes_of(result)) == in_order(cells)


def test_plain_suppression_takes_all_that_overlap_and_knows_no_cut():
    box, half = [50, 10, 80, 30], [60, 10, 80, 30]
    rows = [(0, box, 0.4), (1, half, 0.9)]
    # The half scores higher and is two thirds of the whole: it founds the cell.
    assert [cell[:2] for cell in cells_of(rows, method="nms", iou=0.5)] == [(half, 0.9)]
    assert [cell[:2] for cell in cells_of(rows, method="nms", iou=0.7)] == [(box, 0.4), (half, 0.9)]
    # Two neighbours of one patch are both taken by a box of another.
    rows = [(0, [62, 10, 82, 30], 0.5), (0, [66, 10, 86, 30], 0.5), (1, [64, 10, 84, 30], 0.9)]
    assert [(cell[0], cell[3]) for cell in cells_of(rows, method="nms", iou=0.5)] == [([64, 10, 84, 30], 3)]


@pytest.mark.parametrize(
    ("options", "lowered"),
    [
        ({"decay": "gaussian", "sigma": 0.5}, 0.8 * math.exp(-0.36 / 0.5)),
        ({"decay": "gaussian", "sigma": 0.1}, None),
        ({"decay": "linear", "iou": 0.5}, 0.8 * 0.4),
        ({"decay": "linear", "iou": 0.7}, 0.8),
    ],
)
def test_soft_suppression_lowers_scores(options, lowered):
    # They share 15 of 25 px: an intersection over union of 0.6.
    rows = [(0, [65, 10, 85, 30], 0.9), (1, [70, 10, 90, 30], 0.8)]
    expected = [0.9] if lowered is None else [0.9, round(lowered, 3)]
    assert [cell[1] for cell in cells_of(rows, method="soft_nms", **options)] == expected


def soft(boxes, score, config):
    """Soft suppression of one image, box by box: boxes and lowered scores, as published."""
    likeness, score, left, kept = box_iou(boxes, boxes), score.copy(), list(range(len(boxes))), []
    while left:
        best = min(left, key=lambda k: (-score[k], *boxes[k][[1, 0, 3, 2]], k))
        left.remove(best)
        kept.append((*boxes[best], score[best]))
        for k in left:
            x = likeness[best, k]
            linear = 1 - x if x >= config.iou else 1
            score[k] *= np.exp(-(x**2) / config.sigma) if config.decay == "gaussian" else linear
        left = [k for k in left if score[k] >= config.least_score]
    return sorted(kept)


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(0, 40), decay=st.sampled_from(["gaussian", "linear"]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_soft_suppression_is_that_of_one_image(seed, number, decay):
    """Where any two boxes that overlap lie in different patches: two patches that both show everything but an edge."""
    rng = np.random.default_rng(seed)
    grid = TileGrid(101, 100, 100, 99)
    config = StitchingConfig(method="soft_nms", decay=decay, iou=0.3)
    boxes, patch = np.empty((0, 4)), np.empty(0, dtype=np.int64)
    for _ in range(number):
        corner, which = rng.integers(1, 70, 2), rng.integers(0, 2)
        box = np.concatenate([corner, corner + rng.integers(5, 30, 2)]).astype(float)
        if not (box_intersection(box[None], boxes[patch == which]) > 0).any():
            boxes, patch = np.vstack([boxes, box]), np.append(patch, which)
    # No two scores alike: order of picking is then the published one.
    score = (rng.permutation(len(boxes)) + 7) / (len(boxes) + 8)
    score = score.astype(np.float32).astype(np.float64)
    result = stitch(detections(boxes, patch, np.full(len(boxes), "NILM"), score), grid, config, model_id="m")
    found = sorted(map(tuple, np.column_stack([boxes_of(result), result["score"].to_numpy()]).tolist()))
    expected = soft(boxes, score, config)
    assert [row[:4] for row in found] == [row[:4] for row in expected]
    assert [row[4] for row in found] == pytest.approx([row[4] for row in expected], rel=1e-5)
