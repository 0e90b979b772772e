"""The stitch stage: detections of overlapping patches → every cell of the slide once.

Four steps, each a file: `ownership` says which patch may found a cell and what an edge has cut, `pairs` finds the
views that overlap across patches, `nms` decides which of them are one cell, `labels` what the cell is called.
`bands` goes over the slide with them and `settling` takes the decisions that are ripe; `parts` reads detections,
`merging` and `joins` make cells, `cells` keeps them. What may be chosen stands in `rules`.
The result is a function of the set of detections: their order, the order of files, the cut into bands, the number of
workers and the machine do not matter.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.schema import CELLS
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching import bands, ownership
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.cells import Cells, in_order, table_of
from wsi_detect.stitching.columns import Detections
from wsi_detect.stitching.joins import joined
from wsi_detect.stitching.ordering import order_of
from wsi_detect.stitching.parts import Parts
from wsi_detect.stitching.rules import StitchingConfig
from wsi_detect.tiling.grid import TileGrid, check_overlap

__all__ = ["StitchingConfig", "stitch", "stitch_detections"]

_log = logging.getLogger(__name__)


def stitch_detections(
    detections: Path,
    grid: TileGrid,
    slide: SlideInfo,
    out: Path,
    config: StitchingConfig,
    *,
    model_id: str,
    scale: float = 1.0,
) -> CellMap:
    """Merge a slide's part files into its cell map, and write it as `out/cells.parquet`.

    Memory follows the detections of some rows of patches and the cells of the slide, not its detections.

    Args:
        detections: folder of `part-*.parquet`, every part of the slide.
        grid: the grid the patches lie on.
        slide: the slide.
        out: folder of the slide.
        config: how views of one cell are recognised.
        model_id: the detector, part of every cell's id.
        scale: slide px per patch px.

    Raises:
        ConfigError: the overlap cannot hold the largest cell expected.
        MissingArtifactError: a part file is not there.
        DamagedArtifactError: parts disagree about the classes.
        StaleArtifactError: the detections are those of another slide or another tiling.
        NonFiniteError: a box or a score is not finite; the message names the patch.
        UnmappedLabelError: a label is not in the taxonomy.
    """
    if config.largest_cell_um is not None:
        check_overlap(grid.overlap, slide.resolution(), config.largest_cell_um)
    parts = Parts.open(detections, slide.slide_id, grid)
    job = bands.Job(grid, _on_slide(config, scale), parts.before() if config.clusters else None)
    found = _found(parts.load, parts.counts(), job)
    cells = CellMap(slide, table_of(found, slide.slide_id, model_id), parts.classes, model_id)
    cells.write(out / "cells.parquet")
    _log.info("%s: stitched %d detections into %d cells", slide.slide_id, parts.rows(), len(cells))
    return cells


def stitch(table: pa.Table, grid: TileGrid, config: StitchingConfig, *, model_id: str, scale: float = 1.0) -> pa.Table:
    """Merge detections in memory into cells.

    Args:
        table: rows of `schema.DETECTIONS` of one slide, in any order.
        grid: the grid the patches lie on.
        config: how views of one cell are recognised.
        model_id: the detector, part of every cell's id.
        scale: slide px per patch px.

    Returns:
        Rows of `schema.CELLS` along Hilbert's curve, see `hilbert.curve_order`. A cell has the box of its founding
        view, the class and score of the view the clinical rule chose, the highest score each class got in any view,
        and as support the number of patches that saw it.

    Raises:
        NonFiniteError: a box or a score is not finite; the message names the patch.
        StaleArtifactError: a detection does not lie in its patch of this grid.
        UnmappedLabelError: a label is not in the taxonomy.
    """
    if not table.num_rows:
        return artifact.empty_table(CELLS)
    seen = Detections.of(table)
    ownership.check_patches(seen.patch, grid)
    row = seen.patch // grid.shape[1]
    if (np.diff(row) < 0).any():
        seen, row = seen.take(order_of(row.view(np.uint64))), np.sort(row)
    starts = np.searchsorted(row, np.arange(grid.shape[0] + 1)).tolist()
    counts = np.bincount(seen.patch, minlength=len(grid))
    job = bands.Job(grid, _on_slide(config, scale), np.cumsum(counts) - counts if config.clusters else None)
    found = _found(lambda first, after: seen.take(slice(starts[first], starts[after])), np.diff(starts), job)
    return table_of(found, table["slide_id"][0].as_py(), model_id)


def _on_slide(config: StitchingConfig, scale: float) -> StitchingConfig:
    return config.model_copy(update={"cut_margin_px": config.cut_margin_px * scale})


def _found(load: Callable[[int, int], Detections], counts: NDArray[np.int64], job: bands.Job) -> Cells:
    """Return the cells of a slide in the order of `cells.parquet`."""
    cells = bands.sweep(load, bands.plan(counts, bands.BAND), job)
    return in_order(joined(cells, job.config) if job.config.join else cells, job.grid)
