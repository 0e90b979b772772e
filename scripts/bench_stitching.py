"""Measure the stitcher on painted boxes: cells lost and doubled against jitter, and time.

    python scripts/bench_stitching.py --quick --json FILE

A detector that sees every cell, and every piece of a cell that a patch shows, reports boxes whose four sides are off
by up to ±jitter px (uniform, independent in every patch). One setting; real detectors err in other ways.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect.stitching import nms, ownership
from wsi_detect.stitching.stitcher import StitchingConfig
from wsi_detect.tiling.grid import TileGrid

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
WIDTH = HEIGHT = 12_000


@dataclass(frozen=True)
class Scene:
    """What patches report of painted cells: boxes (N, 4) slide px, patch (N,), truth (N,), score (N,)."""

    boxes: Floats
    patch: Index
    truth: Index
    score: Floats


def paint(number: int, smallest: float, largest: float, clumped: float, rng: np.random.Generator) -> Floats:
    """Boxes (number, 4): cells at random places, a share of them beside another cell, pairwise IoU 0.3 to 0.6."""
    single = number - round(number * clumped)
    size = rng.uniform(smallest, largest, (single, 2))
    corner = rng.uniform(0, 1, (single, 2)) * ([WIDTH, HEIGHT] - size)
    boxes = np.hstack([corner, corner + size])
    host = boxes[rng.choice(single, number - single, replace=False)]
    side = host[:, 2:] - host[:, :2]
    iou = rng.uniform(0.3, 0.6, len(host))
    # Two equal boxes shifted by a fraction d of the side along one axis have IoU (1 - d) / (1 + d).
    shift = (1 - iou) / (1 + iou) * rng.choice([-1, 1], len(host))
    along = rng.integers(0, 2, len(host))
    step = np.zeros_like(side)
    step[np.arange(len(host)), along] = shift * side[np.arange(len(host)), along]
    moved = host + np.hstack([step, step])
    fits = (moved >= 0).all(axis=1) & (moved[:, 2] <= WIDTH) & (moved[:, 3] <= HEIGHT)
    return np.vstack([boxes, moved[fits]])


def show(cells: Floats, grid: TileGrid, jitter: float, cut_high: bool, rng: np.random.Generator) -> Scene:
    """What each patch reports of the cells: their visible part, jittered, with a random score."""
    parts = []
    for patch, window in enumerate(grid.boxes()):
        low, high = window[[0, 1, 0, 1]], window[[2, 3, 2, 3]]
        near = np.flatnonzero((cells[:, :2] < window[2:]).all(axis=1) & (cells[:, 2:] > window[:2]).all(axis=1))
        seen = np.clip(cells[near], low, high)
        cut = (seen != cells[near]).any(axis=1)
        boxes = np.clip(seen + rng.uniform(-jitter, jitter, seen.shape), low, high)
        valid = (boxes[:, :2] < boxes[:, 2:]).all(axis=1)
        score = rng.uniform(0.3, 0.9, len(near))
        score[cut & cut_high] = 0.95
        parts.append((boxes[valid], np.full(valid.sum(), patch), near[valid], score[valid].round(3)))
    return Scene(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def merge(scene: Scene, grid: TileGrid, config: StitchingConfig) -> tuple[Index, float]:
    """Truth of every founding view, and seconds."""
    start = time.perf_counter()
    views = ownership.view(
        scene.boxes,
        scene.patch,
        grid,
        core_margin_px=config.jitter * grid.overlap,
        cut_margin_px=config.cut_margin_px,
    )
    label = np.zeros(len(scene.truth), dtype=np.int64)
    founder = nms.suppress(views, nms.rank(views, scene.score, label), None, iou=config.iou, ios=config.ios)
    seconds = time.perf_counter() - start
    return scene.truth[founder == np.arange(len(founder))], seconds


def errors(config: StitchingConfig, case: dict[str, float], seeds: int, number: int) -> dict[str, float]:
    """Cells lost and doubled over some seeds of one case."""
    cells_in = lost = doubled = 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        cells = paint(number, case["smallest"], case["largest"], case["clumped"], rng)
        grid = TileGrid(WIDTH, HEIGHT, int(case["patch"]), int(case["overlap"]))
        scene = show(cells, grid, case["jitter"], bool(case["cut_high"]), rng)
        found = np.bincount(merge(scene, grid, config)[0], minlength=len(cells))
        cells_in, lost, doubled = (
            cells_in + len(cells),
            lost + int((found == 0).sum()),
            doubled + int((found > 1).sum()),
        )
    return {**case, "cells": cells_in, "lost": lost, "doubled": doubled}


def cases(jitters: list[float]) -> list[dict[str, float]]:
    """The scenes measured: patch 512, overlap as large as the largest cell, cells alone and in clumps."""
    base = {"patch": 512, "overlap": 80, "smallest": 20, "largest": 80, "cut_high": 1}
    return [{**base, "clumped": clumped, "jitter": jitter} for clumped in (0.0, 0.4) for jitter in jitters]


def main() -> None:
    """Print one line a case; `--json` keeps them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer seeds, fewer jitters")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    config = StitchingConfig()
    rows = []
    for case in cases([0, 2, 5] if options.quick else [0, 1, 2, 3, 4, 5]):
        rows.append(errors(config, case, seeds=2 if options.quick else 5, number=10_000))
        print(rows[-1])
    rng = np.random.default_rng(0)
    number = 30_000 if options.quick else 200_000
    grid = TileGrid(WIDTH, HEIGHT, 1024, 256)
    scene = show(paint(number, 20, 40, 0.0, rng), grid, 1.0, False, rng)
    seconds = merge(scene, grid, config)[1]
    rows.append({"detections": len(scene.truth), "seconds": round(seconds, 3)})
    print(rows[-1])
    if options.json:
        options.json.write_text(json.dumps({"config": config.model_dump(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
