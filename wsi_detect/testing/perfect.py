"""A perfect detector: part files of detections made from the truth, for tests of stitching and of what comes after it.

Every cell that shows in a patch is found there, cut at the edge of the patch as a detector would see it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsi_detect import artifact, schema
from wsi_detect.geometry import box_area
from wsi_detect.taxonomy import gravest_first
from wsi_detect.testing.painter import PaintedCell, boxes_of
from wsi_detect.tiling.grid import TileGrid

if TYPE_CHECKING:
    from wsi_detect.tiling.patch_store import PatchStore

_SHORTEST_PX = 1.0


@dataclass(frozen=True, slots=True)
class Sight:
    """How well the perfect detector sees.

    Attributes:
        jitter_px: each side that is not cut by the patch moves by up to this much, slide px, evenly distributed.
        min_visible: a cell of which a smaller share shows in a patch is not seen there.
        scores: lowest and highest score; drawn evenly, whether the cell is cut or whole.
        seed: of jitter and scores.
    """

    jitter_px: float = 0.0
    min_visible: float = 0.0
    scores: tuple[float, float] = (0.5, 1.0)
    seed: int = 0


def perfect_table(
    cells: Sequence[PaintedCell],
    grid: TileGrid,
    *,
    slide_id: str = "painted",
    patch_ids: Sequence[int] | NDArray[np.int64] | None = None,
    sight: Sight | None = None,
) -> pa.Table:
    """Return the detections of a perfect detector.

    Args:
        cells: the truth, slide px.
        grid: where the patches lie.
        slide_id: written into every row.
        patch_ids: the patches to look at; None looks at all of the grid.
        sight: jitter, scores, visibility.

    Returns:
        Rows of `schema.DETECTIONS`, patch by patch.
    """
    sight = sight or Sight()
    classes = classes_of(cells)
    ids = np.arange(len(grid)) if patch_ids is None else np.asarray(patch_ids, dtype=np.int64)
    patches, boxes = grid.boxes(), boxes_of(cells)
    tables = [artifact.empty_table(schema.DETECTIONS)]
    for patch_id in ids.tolist():
        rng = np.random.default_rng([sight.seed, patch_id])
        seen, shown = _seen(boxes, patches[patch_id], sight, rng)
        scores = rng.uniform(*sight.scores, len(seen)).astype(np.float32)
        columns: dict[str, Any] = {
            "slide_id": [slide_id] * len(seen),
            "patch_id": np.full(len(seen), patch_id, np.int64),
            **{name: shown[:, k] for k, name in enumerate(schema.BOX_COLUMNS)},
            "label": [cells[k].label for k in seen],
            "score": scores,
            "class_scores": [_class_scores(cells[k].label, classes, s) for k, s in zip(seen, scores, strict=True)],
        }
        tables.append(pa.table(columns, schema=schema.DETECTIONS))
    return pa.concat_tables(tables)


def write_perfect(
    cells: Sequence[PaintedCell],
    grid: TileGrid,
    out: Path,
    *,
    slide_id: str = "painted",
    patches_per_part: int = 16,
    sight: Sight | None = None,
) -> Path:
    """Write part files over a whole grid, without a store.

    Args:
        cells: the truth, slide px.
        grid: where the patches lie.
        out: folder of the slide; gets `detections/part-*.parquet` and `patches.parquet`.
        slide_id: written into every row.
        patches_per_part: patches of one part file.
        sight: jitter, scores, visibility.

    Returns:
        The folder of the part files.
    """
    ids = np.arange(len(grid))
    parts = [ids[start : start + patches_per_part] for start in range(0, len(grid), patches_per_part)]
    coverage = np.ones(len(grid), np.float32)
    return _write(cells, grid, out, slide_id=slide_id, parts=parts, coverage=coverage, sight=sight)


def perfect_detections(
    cells: Sequence[PaintedCell], store: "PatchStore", out: Path, *, sight: Sight | None = None
) -> Path:
    """Write part files over the patches of a store, one part a shard, as the stage detect does.

    Args:
        cells: the truth, slide px.
        store: its grid and its patches are used, its pixels are not.
        out: folder of the slide; gets `detections/part-*.parquet` and `patches.parquet`.
        sight: jitter, scores, visibility.

    Returns:
        The folder of the part files.
    """
    ids = np.asarray(store.patch_ids)
    parts = [ids[shard.start : shard.stop] for shard in store.shards]
    coverage = np.zeros(len(store.grid), np.float32)
    coverage[ids] = store.coverage
    return _write(cells, store.grid, out, slide_id=store.slide.slide_id, parts=parts, coverage=coverage, sight=sight)


def classes_of(cells: Sequence[PaintedCell]) -> list[str]:
    """Classes of the cells, gravest first: what `class_scores` follows."""
    return gravest_first({cell.label for cell in cells})


def _write(
    cells: Sequence[PaintedCell],
    grid: TileGrid,
    out: Path,
    *,
    slide_id: str,
    parts: Sequence[NDArray[np.int64]],
    coverage: NDArray[np.float32],
    sight: Sight | None,
) -> Path:
    folder = out / "detections"
    every: list[dict[str, Any]] = []
    for number, ids in enumerate(parts):
        table = perfect_table(cells, grid, slide_id=slide_id, patch_ids=ids, sight=sight)
        states = [_state(slide_id, patch_id, float(coverage[patch_id])) for patch_id in ids.tolist()]
        metadata = {"classes": json.dumps(classes_of(cells)), "patches": json.dumps(states)}
        artifact.write_table(folder / f"part-{number:05d}.parquet", table, schema.DETECTIONS, metadata)
        every.extend(states)
    artifact.write_table(out / "patches.parquet", artifact.table_of(every, schema.PATCHES), schema.PATCHES)
    return folder


def _seen(
    boxes: NDArray[np.float64], patch: NDArray[np.float64], sight: Sight, rng: np.random.Generator
) -> tuple[list[int], NDArray[np.float64]]:
    """Return which cells show in a patch, and as what boxes (N, 4), slide px."""
    shown = np.column_stack([np.maximum(boxes[:, :2], patch[:2]), np.minimum(boxes[:, 2:], patch[2:])])
    visible = box_area(shown)
    seen = np.flatnonzero((visible > 0) & (visible >= sight.min_visible * box_area(boxes)))
    shown = shown[seen]
    # A side the patch cuts stays at the edge: that is how a detector sees a cut cell.
    whole = shown == boxes[seen]
    moved = shown + np.where(whole, rng.uniform(-sight.jitter_px, sight.jitter_px, shown.shape), 0.0)
    thin = (moved[:, 2:] - moved[:, :2] < _SHORTEST_PX).any(axis=1)
    moved[thin] = shown[thin]
    moved = np.column_stack([np.maximum(moved[:, :2], patch[:2]), np.minimum(moved[:, 2:], patch[2:])])
    return [int(k) for k in seen], moved


def _class_scores(label: str, classes: list[str], score: np.float32) -> list[float]:
    """Return the score for the true class, the rest shared by the others, never more than the true one has."""
    rest = min(1 - float(score), float(score)) / max(len(classes), 1)
    return [float(score) if name == label else rest for name in classes]


def _state(slide_id: str, patch_id: int, coverage: float) -> dict[str, Any]:
    return {
        "slide_id": slide_id,
        "patch_id": patch_id,
        "status": "done",
        "reason": None,
        "coverage": coverage,
        "no_data": 0.0,
        "unreadable": 0.0,
    }
