"""Painted cells and what the patches of a grid say of them."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from wsi_detect import schema
from wsi_detect.geometry import box_iou
from wsi_detect.tiling.grid import TileGrid

NAMES = np.array(["NILM", "LSIL", "HSIL"])
BOX = list(schema.BOX_COLUMNS)


@dataclass(frozen=True)
class Scene:
    """Painted cells, and what the patches of a grid say of them; `truth` is the cell each detection shows."""

    cells: np.ndarray
    kinds: np.ndarray
    table: pa.Table
    truth: np.ndarray


def paint(rng: np.random.Generator, width: int, height: int, largest: int, number: int) -> np.ndarray:
    """Boxes of 8 px to `largest`, most of them in clumps; no two have an IoU above 0.6."""
    side = rng.integers(8, largest + 1, (number, 2))
    corner = np.floor(rng.random((number, 2)) * ([width, height] - side))
    # Every other box starts near the one before, so that clumps form wherever boxes are, seams included.
    corner[1::2] = np.floor(corner[: number - number % 2 : 2] + rng.integers(-10, 11, (number // 2, 2)))
    boxes = np.hstack([corner, corner + side]).astype(np.float64)
    boxes = boxes[(boxes[:, :2] >= 0).all(axis=1) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)]
    overlap = np.triu(box_iou(boxes, boxes) > 0.6, k=1)
    return boxes[~overlap.any(axis=0)]


def show(cells: np.ndarray, grid: TileGrid, rng: np.random.Generator, jitter: float = 0.0) -> Scene:
    """A detector that sees every piece of every cell in every patch."""
    kinds = rng.integers(0, len(NAMES), len(cells))
    parts = []
    for patch, window in enumerate(grid.boxes()):
        low, high = window[[0, 1, 0, 1]], window[[2, 3, 2, 3]]
        boxes = np.clip(np.clip(cells, low, high) + rng.uniform(-jitter, jitter, cells.shape), low, high)
        shown = (cells[:, :2] < high[2:]).all(axis=1) & (cells[:, 2:] > low[:2]).all(axis=1)
        near = np.flatnonzero(shown & (boxes[:, :2] < boxes[:, 2:]).all(axis=1))
        parts.append((boxes[near], np.full(len(near), patch), near))
    boxes, patch, truth = (np.concatenate(column) for column in zip(*parts, strict=True))
    score = np.where(rng.random(len(truth)) < 0.5, 0.9, rng.random(len(truth)).round(2))
    return Scene(cells, kinds, detections(boxes, patch, NAMES[kinds[truth]], score), truth)


def detections(boxes: np.ndarray, patch: np.ndarray, label: np.ndarray, score: np.ndarray) -> pa.Table:
    columns = {
        "slide_id": ["S1"] * len(boxes),
        "patch_id": patch.astype(np.int64),
        **dict(zip(BOX, boxes.T, strict=True)),
        "label": label.tolist(),
        "score": score.astype(np.float32),
        "class_scores": pa.nulls(len(boxes), pa.list_(pa.float32())),
    }
    return pa.table(columns, schema=schema.DETECTIONS)


def boxes_of(table: pa.Table) -> np.ndarray:
    return np.column_stack([table[name].to_numpy() for name in BOX])


def in_order(boxes: np.ndarray) -> list[list[float]]:
    return boxes[np.lexsort((boxes[:, 2], boxes[:, 3], boxes[:, 0], boxes[:, 1]))].tolist()


def by_box(table: pa.Table) -> pa.Table:
    """Rows from top to bottom, whatever curve they lay on."""
    return table.sort_by([(name, "ascending") for name in ("y0_px", "x0_px", "y1_px", "x1_px", "label", "score")])
