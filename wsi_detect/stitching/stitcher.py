"""The stitch stage: detections of overlapping patches → every cell of the slide once.

Four steps, each a file: `ownership` says which patch may found a cell and what an edge has cut, `pairs` finds the
views that overlap across patches, `nms` decides which of them are one cell, `labels` what the cell is called.
The result is a function of the set of detections: their order, the order of files and the machine do not matter.
"""

import json
import logging
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect import artifact
from wsi_detect.config import Config
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, NonFiniteError, StaleArtifactError
from wsi_detect.schema import BOX_COLUMNS, CELLS, DETECTIONS
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching import labels, nms, ownership
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import gravity
from wsi_detect.tiling.grid import TileGrid, check_overlap

_log = logging.getLogger(__name__)


class StitchingConfig(Config):
    """How views of one cell are recognised.

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
    seen = _Detections.of(table)
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
    order = np.lexsort((-score, label, box[:, 2], box[:, 3], box[:, 0], box[:, 1]))
    slide_id = table["slide_id"][0].as_py() if table.num_rows else ""
    called = [seen.names[k] for k in label[order].tolist()]
    columns: dict[str, object] = {
        "cell_id": _cell_ids(slide_id, model_id, called, box[order]),
        "slide_id": [slide_id] * len(order),
        **dict(zip(BOX_COLUMNS, box[order].T, strict=True)),
        "label": called,
        "score": score[order].astype(np.float32),
        "class_scores": _as_lists(None if merged is None else merged[order], len(order)),
        "support": support[order].astype(np.int32),
        "geometry": pa.nulls(len(order), pa.binary()),
    }
    return pa.table(columns, schema=CELLS)


@dataclass(frozen=True, slots=True)
class _Detections:
    """The columns of a detections table as arrays: boxes (N, 4), the others (N,), class scores (N, K) or None."""

    boxes: NDArray[np.float64]
    patch: NDArray[np.int64]
    score: NDArray[np.float64]
    label: NDArray[np.int64]
    names: tuple[str, ...]
    gravity: NDArray[np.int64]
    class_scores: NDArray[np.float32] | None

    @classmethod
    def of(cls, table: pa.Table) -> "_Detections":
        """Take a table apart; what is not finite is refused."""
        boxes = np.column_stack([table[name].to_numpy() for name in BOX_COLUMNS]).reshape(-1, 4)
        patch, score = table["patch_id"].to_numpy(), table["score"].to_numpy().astype(np.float64)
        class_scores = _class_scores(table)
        _refuse_non_finite(patch, np.isfinite(boxes).all(axis=1) & np.isfinite(score))
        # Sorted, so that a label's number does not depend on the order of the rows.
        names = tuple(sorted(pc.unique(table["label"]).to_pylist()))
        label = pc.index_in(table["label"], value_set=pa.array(names, type=pa.string())).to_numpy().astype(np.int64)
        return cls(boxes, patch, score, label, names, _gravities(names)[label], class_scores)


def _gravities(names: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([gravity(name) for name in names], dtype=np.int64)


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


def _refuse_non_finite(patch: NDArray[np.int64], finite: NDArray[np.bool_]) -> None:
    if finite.all():
        return
    bad = np.unique(patch[~finite])
    others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    raise NonFiniteError(
        f"{(~finite).sum()} detections are not finite, in patch {bad[0]}{others}; "
        "a detector must report such a patch as failed: run detect again"
    )


def _class_scores(table: pa.Table) -> NDArray[np.float32] | None:
    """Class scores (N, K) with a row of -inf where there are none; None if no detection has any."""
    column = table["class_scores"].combine_chunks()
    given = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    if not len(given):
        return None
    lengths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if len(lengths) > 1:
        raise DamagedArtifactError(f"detections carry {sorted(lengths)} class scores; one model gives one number")
    result = np.full((table.num_rows, lengths[0]), -np.inf, dtype=np.float32)
    result[given] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(given), lengths[0])
    _refuse_non_finite(table["patch_id"].to_numpy()[given], np.isfinite(result[given]).all(axis=1))
    return result


def _as_lists(class_scores: NDArray[np.float32] | None, rows: int) -> pa.Array:
    kind = CELLS.field("class_scores").type
    if class_scores is None:
        return pa.nulls(rows, kind)
    width = class_scores.shape[1]
    absent = pa.array(np.isneginf(class_scores).all(axis=1) & (width > 0))
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(class_scores.ravel()), type=kind, mask=absent)


def _cell_ids(slide_id: str, model_id: str, found: list[str], boxes: NDArray[np.float64]) -> list[str]:
    """Derive a UUID from slide, model, class and box, so that a cell has the same id in every export and every run."""
    ids, seen = [], dict[str, int]()
    for label, (x0, y0, x1, y1) in zip(found, boxes.tolist(), strict=True):
        text = f"{slide_id}|{model_id}|{label}|{x0:.2f}|{y0:.2f}|{x1:.2f}|{y1:.2f}"
        again = seen.get(text, 0)
        seen[text] = again + 1
        # A detector may report a box twice in one patch; ids stay unique all the same.
        ids.append(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{text}|{again}" if again else text)))
    return ids
