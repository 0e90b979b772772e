"""What exporters share of a cell map's columns: chunks of rows, the flat columns of a table, outlines as rings.

All work on one chunk of rows at a time, so that a slide of millions of cells needs no more memory than a small one.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from wsi_detect.schema import BOX_COLUMNS
from wsi_detect.stitching.cell_map import CellMap

#: Rows in memory at once, and in a row group of a Parquet file.
CHUNK = 16_384

_POLYGON = 3
_IDENTITY = (("cell_id", pa.string()), ("slide_id", pa.string()), ("label", pa.string()))
_FIGURES = (("score", pa.float32()), ("support", pa.int32()))
_MICROMETRES = (*(name.replace("_px", "_um") for name in BOX_COLUMNS), "width_um", "height_um")


def chunks(cells: CellMap, start: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
    """Yield rows `start` to `stop` of the map in its order, `CHUNK` at a time, however its table lies in memory."""
    stop = len(cells) if stop is None else min(stop, len(cells))
    for first in range(start, stop, CHUNK):
        yield from cells.table.slice(first, min(CHUNK, stop - first)).combine_chunks().to_batches()


def flat_schema(cells: CellMap) -> pa.Schema:
    """Columns of `flat`, in order."""
    return pa.schema(
        [
            *_IDENTITY,
            *_FIGURES,
            *((name, pa.float64()) for name in (*BOX_COLUMNS, *_MICROMETRES)),
            *((f"score_{name}", pa.float32()) for name in cells.classes),
        ]
    )


def flat(batch: pa.RecordBatch, cells: CellMap) -> pa.RecordBatch:
    """Return a chunk as plain columns: id, slide, class, score, support, box in px and µm, a score each class.

    µm have three decimals and are null when the slide's mpp is unknown; class scores are null where the detector gave
    none.
    """
    scores, known = class_scores(batch, len(cells.classes))
    columns = [batch[name] for name, _ in (*_IDENTITY, *_FIGURES)]
    columns += [batch[name] for name in BOX_COLUMNS]
    columns += _micrometres(boxes(batch), cells.slide.mpp)
    columns += [pa.array(column, mask=~known) for column in scores.T]
    return pa.record_batch(columns, schema=flat_schema(cells))


def boxes(batch: pa.RecordBatch) -> NDArray[np.float64]:
    """Boxes (N, 4) float64 xyxy in slide px."""
    return np.column_stack([batch[name].to_numpy() for name in BOX_COLUMNS])


def class_scores(batch: pa.RecordBatch, classes: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores (N, classes) float32, zero where there are none, and whether a cell has any (N,)."""
    lists = batch["class_scores"]
    known: NDArray[np.bool_] = lists.is_valid().to_numpy(zero_copy_only=False)
    scores = np.zeros((len(batch), classes), dtype=np.float32)
    if classes and known.any():
        scores[known] = lists.flatten().to_numpy().reshape(-1, classes)
    return scores, known


def outlines(batch: pa.RecordBatch) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Outlines there are, as shapely geometries (M,) in slide px, and whether a cell has one (N,), M of them true."""
    known: NDArray[np.bool_] = batch["geometry"].is_valid().to_numpy(zero_copy_only=False)
    return np.asarray(shapely.from_wkb(batch["geometry"].drop_null().to_pylist()), dtype=object), known


def rings(batch: pa.RecordBatch) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.bool_]]:
    """Corners of every cell, for formats that know one simple polygon each.

    Returns:
        Points (P, 2) in slide px: the corners of the box, clockwise on the screen from the top left, or those of the
        outline, without its holes and of its largest part only. No ring repeats its first point.
        Where the points of each cell begin, and the end: (N + 1,) int32.
        Whether they are those of an outline (N,).
    """
    shapes, known = outlines(batch)
    parts, owner = shapely.get_parts(shapes, return_index=True)
    polygonal = shapely.get_type_id(parts) == _POLYGON
    parts, owner = parts[polygonal], owner[polygonal]
    order = np.lexsort((-shapely.area(parts), owner))
    owner, first = np.unique(owner[order], return_index=True)
    outer = shapely.get_exterior_ring(parts[order][first])
    # What is no area, a point or a line, has no ring: there the box stays.
    has_ring = np.zeros(len(batch), dtype=bool)
    has_ring[np.flatnonzero(known)[owner]] = True
    sizes = np.full(len(batch), 4)
    sizes[has_ring] = shapely.get_num_coordinates(outer) - 1
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    points = np.empty((int(offsets[-1]), 2))
    of_outline = np.repeat(has_ring, sizes)
    closed = np.cumsum(shapely.get_num_coordinates(outer)) - 1
    points[of_outline] = np.delete(shapely.get_coordinates(outer), closed, axis=0)
    points[~of_outline] = boxes(batch)[~has_ring][:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2)
    return points, offsets, has_ring


def _micrometres(box: NDArray[np.float64], mpp: float | None) -> list[pa.Array]:
    if mpp is None:
        return [pa.nulls(len(box), pa.float64())] * len(_MICROMETRES)
    sides = np.concatenate([box, box[:, 2:] - box[:, :2]], axis=1)
    return [pa.array(column) for column in (sides * mpp).round(3).T]
