"""GeoJSON as QuPath (0.4 and later) imports it: one detection a cell, level-0 pixels, streamed.

A FeatureCollection whose features have a UUID as `id`, a Polygon in slide px with its origin at the top left, and as
properties `objectType`, `classification` (name, colour) and `measurements` (name → number), the keys that QuPath's
`PathObjectTypeAdapters` reads. `schemas/qupath.schema.json` beside this file is what we promise.
"""

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import shapely

from wsi_detect.artifact import atomic
from wsi_detect.schema import BOX_COLUMNS
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import cell_class

_CHUNK = 8192


def write(cells: CellMap, path: Path) -> Path:
    """Write the cells for QuPath; gzipped if the name ends in `.gz`.

    Coordinates are rounded to a thousandth of a pixel, scores to six decimals.
    """
    with atomic(path) as partial, partial.open("wb") as raw:
        if path.suffix.lower() == ".gz":
            # No name and no time in the header: equal cells, equal bytes.
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=6, mtime=0) as packed:
                _stream(cells, packed)
        else:
            _stream(cells, raw)
    return path


def _stream(cells: CellMap, binary: BinaryIO | gzip.GzipFile) -> None:
    text = io.TextIOWrapper(binary, encoding="utf-8", newline="\n")
    text.write('{"type":"FeatureCollection","features":[')
    separator = "\n"
    for feature in _features(cells):
        text.write(separator + feature)
        separator = ",\n"
    text.write("\n]}\n")
    text.detach().flush()


def _features(cells: CellMap) -> Iterator[str]:
    """Yield each feature as JSON text; text made by hand is numbers and the cell's UUID only."""
    classes = {
        name: json.dumps({"name": name, "color": list(cell_class(name).colour)}, separators=(",", ":"))
        for name in cells.counts()
    }
    keys = [json.dumps(f"Score {name}") for name in cells.classes]
    mpp = cells.slide.mpp
    for batch in cells.table.to_batches(max_chunksize=_CHUNK):
        columns = zip(
            batch["cell_id"].to_pylist(),
            batch["label"].to_pylist(),
            _polygons(batch),
            _measurements(batch, keys, mpp),
            strict=True,
        )
        for cell_id, label, polygon, measurements in columns:
            yield (
                f'{{"type":"Feature","id":"{cell_id}","geometry":{polygon},"properties":{{"objectType":"detection",'
                f'"classification":{classes[label]},"measurements":{{{measurements}}}}}}}'
            )


def _polygons(batch: pa.RecordBatch) -> Iterator[str]:
    """Outlines where there are any, else boxes; rings are closed."""
    corners = np.column_stack([batch[name].to_numpy() for name in BOX_COLUMNS]).round(3).tolist()
    for (x0, y0, x1, y1), outline in zip(corners, batch["geometry"].to_pylist(), strict=True):
        if outline is None:
            yield (
                f'{{"type":"Polygon","coordinates":[[[{x0},{y0}],[{x1},{y0}],[{x1},{y1}],[{x0},{y1}],[{x0},{y0}]]]}}'
            )
        else:
            yield shapely.to_geojson(shapely.set_precision(shapely.from_wkb(outline), 0.001))


def _measurements(batch: pa.RecordBatch, keys: list[str], mpp: float | None) -> Iterator[str]:
    box = np.column_stack([batch[name].to_numpy() for name in BOX_COLUMNS])
    scores = batch["score"].to_numpy().astype(np.float64).round(6).tolist()
    sides = ((box[:, 2:] - box[:, :2]) * (mpp or 0.0)).round(3).tolist()
    rows = zip(scores, batch["support"].to_pylist(), batch["class_scores"].to_pylist(), sides, strict=True)
    for score, support, class_scores, (width, height) in rows:
        parts = [f'"Score":{score},"Support":{support}']
        if mpp is not None:
            parts.append(f'"Width µm":{width},"Height µm":{height}')
        if class_scores is not None and keys:
            parts.extend(f"{key}:{round(value, 6)}" for key, value in zip(keys, class_scores, strict=True))
        yield ",".join(parts)
