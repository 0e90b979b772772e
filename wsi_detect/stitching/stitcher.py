"""The stitch stage: detections of overlapping patches → every cell of the slide once.

Four steps, each a file: `ownership` says which patch may found a cell and what an edge has cut, `pairs` finds the
views that overlap across patches, `nms` decides which of them are one cell, `labels` what the cell is called.
(`columns` takes tables apart and puts them together.)
The result is a function of the set of detections: their order, the order of files and the machine do not matter.
"""

import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from wsi_detect import artifact
from wsi_detect.config import Config
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, StaleArtifactError
from wsi_detect.schema import BOX_COLUMNS, CELLS, DETECTIONS
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching import labels, nms, ownership
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.columns import Detections, as_lists, cell_ids
from wsi_detect.tiling.grid import TileGrid, check_overlap

_log = logging.getLogger(__name__)


class StitchingConfig(Config):
    """How views of one cell are recognised.

    The defaults were chosen on painted boxes of 20 to 80 px, patches of 512 px overlapping by 80 px, cut boxes scored
    highest. `python scripts/bench_stitching.py --quick` gives, of 20,000 cells: none lost or doubled at 0 and 2 px of
    jitter, 1 doubled at 5 px; of 19,985 cells, 4 in 5 of them in clumps of two with an IoU of 0.3 to 0.6: none at 0
    and 2 px, 3 lost and 5 doubled at 5 px.

    Attributes:
        iou: least intersection over union of two views of one cell.
        ios: least intersection over the smaller box, where a patch edge has cut one of the two.
        cut_margin_px: a box this close to an inner edge of its patch may be cut, patch px; at least the detector's
            localisation error.
        jitter: by how much of the overlap a patch's core grows, so that a cell on a seam has an owner although
            patches disagree about its centre.
        score_margin: how much less a graver class may score and still name the cell.
        class_agnostic: one cell called ASC-US here and LSIL there is one cell. If False, it is two.
        largest_cell_um: side of the largest cell expected, µm; an overlap that cannot hold it is refused. None: the
            caller has checked.
    """

    iou: float = Field(default=0.3, gt=0, le=1)
    ios: float = Field(default=0.6, gt=0, le=1)
    cut_margin_px: float = Field(default=6.0, ge=0)
    jitter: float = Field(default=0.15, ge=0, le=0.5)
    score_margin: float = Field(default=0.1, ge=0, le=1)
    class_agnostic: bool = True
    largest_cell_um: float | None = Field(default=None, gt=0)


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
    """
    if config.largest_cell_um is not None:
        check_overlap(grid.overlap, slide.resolution(), config.largest_cell_um)
    table, classes = _read_parts(detections)
    foreign = set(pc.unique(table["slide_id"]).to_pylist()) - {slide.slide_id}
    if foreign:
        raise StaleArtifactError(
            f"{detections} holds detections of slide {min(foreign)}, not of {slide.slide_id}; run detect again"
        )
    cells = CellMap(slide, stitch(table, grid, config, model_id=model_id, scale=scale), classes, model_id)
    cells.write(out / "cells.parquet")
    _log.info("%s: stitched %d detections into %d cells", slide.slide_id, table.num_rows, len(cells))
    return cells


def stitch(table: pa.Table, grid: TileGrid, config: StitchingConfig, *, model_id: str, scale: float = 1.0) -> pa.Table:
    """Merge detections into cells.

    Args:
        table: rows of `schema.DETECTIONS` of one slide, in any order.
        grid: the grid the patches lie on.
        config: how views of one cell are recognised.
        model_id: the detector, part of every cell's id.
        scale: slide px per patch px.

    Returns:
        Rows of `schema.CELLS`, sorted by y0, x0, y1, x1, label, falling score. A cell has the box of its founding
        view, the class and score of the view the clinical rule chose, the highest score each class got in any view,
        and as support the number of patches that saw it.

    Raises:
        NonFiniteError: a box or a score is not finite; the message names the patch.
        StaleArtifactError: a detection does not lie in its patch of this grid.
        UnmappedLabelError: a label is not in the taxonomy.
    """
    seen = Detections.of(table)
    margins = {"core_margin_px": config.jitter * grid.overlap, "cut_margin_px": config.cut_margin_px * scale}
    views = ownership.view(seen.boxes, seen.patch, grid, **margins)
    place = nms.rank(views, seen.score, seen.label)
    kinds = None if config.class_agnostic else seen.label
    founder = nms.suppress(views, place, kinds, iou=config.iou, ios=config.ios)

    member = np.flatnonzero(founder >= 0)
    founding, group, support = np.unique(founder[member], return_inverse=True, return_counts=True)
    opinions = labels.Opinions(seen.gravity[member], seen.score[member], views.cut[member], place[member])
    voice = member[labels.decide(group, opinions, margin=config.score_margin)]
    merged = None if seen.class_scores is None else labels.merge_class_scores(group, seen.class_scores[member])
    box, label, score = views.boxes[founding], seen.label[voice], seen.score[voice]
    order = np.lexsort((place[founding], -score, label, box[:, 2], box[:, 3], box[:, 0], box[:, 1]))
    slide_id = table["slide_id"][0].as_py() if table.num_rows else ""
    called = [seen.names[k] for k in label[order].tolist()]
    columns: dict[str, object] = {
        "cell_id": cell_ids(slide_id, model_id, called, box[order]),
        "slide_id": [slide_id] * len(order),
        **dict(zip(BOX_COLUMNS, box[order].T, strict=True)),
        "label": called,
        "score": score[order].astype(np.float32),
        "class_scores": as_lists(None if merged is None else merged[order], len(order)),
        "support": support[order].astype(np.int32),
        "geometry": pa.nulls(len(order), pa.binary()),
    }
    return pa.table(columns, schema=CELLS)


def _read_parts(folder: Path) -> tuple[pa.Table, tuple[str, ...]]:
    """Read every part file; a hole in their numbers, or no part where patches were recorded, is an error."""
    parts = sorted(folder.glob("part-*.parquet"))
    absent = [name for k in range(len(parts)) if not (folder / (name := f"part-{k:05d}.parquet")).exists()]
    if absent or (not parts and not (folder.parent / "patches.parquet").exists()):
        raise MissingArtifactError(f"{folder / (absent or ['part-00000.parquet'])[0]} is missing; run detect again")
    tables, classes = [], set()
    for part in parts:
        tables.append(artifact.read_table(part, DETECTIONS).replace_schema_metadata(DETECTIONS.metadata))
        classes.add((pq.read_schema(part).metadata or {}).get(b"classes", b"[]"))
    if len(classes) > 1:
        raise DamagedArtifactError(f"the parts in {folder} come from detectors with other classes; run detect again")
    table = pa.concat_tables(tables) if tables else artifact.empty_table(DETECTIONS)
    return table.combine_chunks(), tuple(json.loads(classes.pop())) if classes else ()
