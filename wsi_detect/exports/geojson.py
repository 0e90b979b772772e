"""GeoJSON as QuPath (0.4 and later) imports it: one detection a cell, level-0 pixels, streamed.

A FeatureCollection whose features have a UUID as `id`, a Polygon in slide px with its origin at the top left, and as
properties `objectType`, `classification` (name, colour) and `measurements` (name → number), the keys that QuPath's
`PathObjectTypeAdapters` reads. `schemas/qupath.schema.json` beside this file is what we promise.
"""

import gzip
import json
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from wsi_detect.artifact import atomic
from wsi_detect.exports import columns
from wsi_detect.exports.text import joined, named, numbers, raw
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import cell_class


def write(cells: CellMap, path: Path, *, max_cells_per_file: int | None = None) -> Path:
    """Write the cells for QuPath; gzipped if the name ends in `.gz`.

    Coordinates are rounded to a thousandth of a pixel, scores to six decimals.

    Args:
        cells: the cells of a slide.
        path: the file.
        max_cells_per_file: a map of more cells becomes several files, `cells-001.geojson` and so on, each of
            neighbouring rows of the map. Files an earlier export of that name left and this one does not are removed.

    Returns:
        The file, the first of several.
    """
    size = max_cells_per_file or max(len(cells), 1)
    starts = range(0, max(len(cells), 1), size)
    stem, suffix = _split_name(path)
    paths = [path] if len(starts) == 1 else [path.with_name(f"{stem}-{k + 1:03}{suffix}") for k in range(len(starts))]
    for part, start in zip(paths, starts, strict=True):
        _write_part(cells, part, start, start + size)
    ours = re.compile(rf"{re.escape(stem)}(-\d{{3,}})?{re.escape(suffix)}")
    for old in sorted(path.parent.iterdir()):
        if ours.fullmatch(old.name) and old not in paths:
            old.unlink()
    return paths[0]


def _split_name(path: Path) -> tuple[str, str]:
    suffix = "".join(path.suffixes[-2:]) if path.suffix.lower() == ".gz" else path.suffix
    return path.name.removesuffix(suffix), suffix


def _write_part(cells: CellMap, path: Path, start: int, stop: int) -> None:
    with atomic(path) as partial, partial.open("wb") as stream:
        if path.suffix.lower() != ".gz":
            _stream(cells, stream, start, stop)
            return
        # No name and no time in the header: equal cells, equal bytes.
        with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=6, mtime=0) as packed:
            _stream(cells, packed, start, stop)


def _stream(cells: CellMap, stream: BinaryIO | gzip.GzipFile, start: int, stop: int) -> None:
    classes = {
        name: json.dumps({"name": name, "color": list(cell_class(name).colour)}, separators=(",", ":"))
        for name in cells.counts()
    }
    stream.write(b'{"type":"FeatureCollection","features":[')
    separator = b"\n"
    for batch in columns.chunks(cells, start, stop):
        stream.write(separator)
        stream.write(raw(_features(batch, cells, classes), ",\n"))
        separator = b",\n"
    stream.write(b"\n]}\n")


def _features(batch: pa.RecordBatch, cells: CellMap, classes: dict[str, str]) -> pa.Array:
    """Return each feature as JSON text; text made by hand is numbers and the cell's UUID only."""
    box = columns.boxes(batch)
    return joined(
        '{"type":"Feature","id":"',
        batch["cell_id"],
        '","geometry":',
        _polygons(batch, box),
        ',"properties":{"objectType":"detection","classification":',
        named(batch["label"], classes),
        ',"measurements":{"Score":',
        numbers(batch["score"].to_numpy(), 6),
        ',"Support":',
        batch["support"].cast(pa.string()),
        *_sides(box, cells.slide.mpp),
        _class_scores(batch, cells.classes),
        "}}}",
    )


def _polygons(batch: pa.RecordBatch, box: NDArray[np.float64]) -> pa.Array:
    """Outlines where there are any, else boxes; rings are closed."""
    x0, y0, x1, y1 = (numbers(side, 3) for side in box.T)
    corners = [part for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)) for part in (x, ",", y, "],[")]
    polygons = joined('{"type":"Polygon","coordinates":[[[', *corners[:-1], "]]]}")
    shapes, known = columns.outlines(batch)
    if not len(shapes):
        return polygons
    rounded = shapely.transform(shapes, lambda points: points.round(3))
    return pc.replace_with_mask(polygons, pa.array(known), pa.array(shapely.to_geojson(rounded), type=pa.string()))


def _sides(box: NDArray[np.float64], mpp: float | None) -> list[pa.Array | str]:
    if mpp is None:
        return []
    width, height = ((box[:, 2:] - box[:, :2]) * mpp).T
    return [',"Width µm":', numbers(width, 3), ',"Height µm":', numbers(height, 3)]


def _class_scores(batch: pa.RecordBatch, classes: tuple[str, ...]) -> pa.Array | str:
    """`,"Score HSIL":0.9,…` for each cell, nothing where the detector gave no scores of classes."""
    if not classes:
        return ""
    scores, known = columns.class_scores(batch, len(classes))
    keys = [f",{json.dumps(f'Score {name}')}:" for name in classes]
    parts = [part for key, column in zip(keys, scores.T, strict=True) for part in (key, numbers(column, 6))]
    return pc.if_else(pa.array(known), joined(*parts), "")
