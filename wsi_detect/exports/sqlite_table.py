"""SQLite with an R-tree: any program with SQLite asks for the cells of a window and gets them in milliseconds.

Tables: `cells` (flat columns, the outline as WKB, `id` from 1 in the order of the map), `cells_rtree` (the boxes by
`id`, as 32-bit numbers rounded outward, so that a window never misses a cell), `classes` and `meta`.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from wsi_detect.artifact import atomic
from wsi_detect.errors import EnvironmentFaultError
from wsi_detect.exports import columns
from wsi_detect.schema import SCHEMA_VERSION
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import cell_class, colour_hex, gravest_first

_PAGE_BYTES = 4096
_INDEX_MODULE = "rtree"


def write(cells: CellMap, path: Path) -> Path:
    """Write the cells as an SQLite database.

    Raises:
        EnvironmentFaultError: SQLite was built without R-trees, or the file cannot be written.
    """
    with atomic(path) as partial:
        partial.unlink(missing_ok=True)
        try:
            # No journal: a database that was not finished is never renamed into place.
            with closing(sqlite3.connect(partial, isolation_level=None)) as base:
                base.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
                base.execute("PRAGMA journal_mode = OFF")
                base.execute("PRAGMA synchronous = OFF")
                base.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                base.execute("BEGIN")
                _write_cells(base, cells)
                _write_classes(base, cells)
                _write_meta(base, cells)
                base.execute("COMMIT")
                base.execute("VACUUM")
        except sqlite3.OperationalError as error:
            if "no such module" in str(error):
                raise EnvironmentFaultError(
                    "this Python's SQLite was built without R-trees (SQLITE_ENABLE_RTREE); "
                    "use another Python, or export geoparquet instead of sqlite"
                ) from error
            raise EnvironmentFaultError(
                f"{path} could not be written ({error}); free space there, or export to another folder"
            ) from error
    return path


def _write_cells(base: sqlite3.Connection, cells: CellMap) -> None:
    schema = columns.flat_schema(cells)
    names = [*schema.names, "geometry"]
    kinds = [*("TEXT" if pa.types.is_string(field.type) else _number(field.type) for field in schema), "BLOB"]
    described = ", ".join(f"{_quoted(name)} {kind}" for name, kind in zip(names, kinds, strict=True))
    base.execute(f"CREATE TABLE cells (id INTEGER PRIMARY KEY, {described})")
    base.execute(f"CREATE VIRTUAL TABLE cells_rtree USING {_INDEX_MODULE}(id, x0_px, x1_px, y0_px, y1_px)")
    places = ", ".join("?" * (len(names) + 1))
    first = 1
    for batch in columns.chunks(cells):
        base.executemany(f"INSERT INTO cells VALUES ({places})", _rows(batch, cells, first))  # noqa: S608 - ? only
        boxes = columns.boxes(batch)[:, [0, 2, 1, 3]].tolist()
        base.executemany(
            "INSERT INTO cells_rtree VALUES (?, ?, ?, ?, ?)", ((first + k, *box) for k, box in enumerate(boxes))
        )
        first += len(batch)
    base.execute("CREATE UNIQUE INDEX cells_by_cell_id ON cells (cell_id)")
    base.execute("CREATE INDEX cells_by_label ON cells (label)")


def _rows(batch: pa.RecordBatch, cells: CellMap, first: int) -> Iterator[tuple[Any, ...]]:
    table = columns.flat(batch, cells)
    numbers = range(first, first + len(batch))
    return zip(numbers, *(c.to_pylist() for c in table.columns), batch["geometry"].to_pylist(), strict=True)


def _write_classes(base: sqlite3.Connection, cells: CellMap) -> None:
    counts = cells.counts()
    base.execute(
        "CREATE TABLE classes (name TEXT PRIMARY KEY, title TEXT, family TEXT, gravity INTEGER, abnormal INTEGER, "
        "colour TEXT, cells INTEGER)"
    )
    known = [cell_class(name) for name in gravest_first({*cells.classes, *counts})]
    rows = [
        (c.name, c.title, c.family, c.gravity, int(c.abnormal), colour_hex(c.name), counts.get(c.name, 0))
        for c in known
    ]
    base.executemany("INSERT INTO classes VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def _write_meta(base: sqlite3.Connection, cells: CellMap) -> None:
    slide = cells.slide
    facts = {
        "slide_id": slide.slide_id,
        "width_px": slide.width_px,
        "height_px": slide.height_px,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "model_id": cells.model_id,
        "schema_version": SCHEMA_VERSION,
        "units": "px of level 0, origin at the top left of the slide, y down",
    }
    base.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value)")
    base.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())


def _number(kind: pa.DataType) -> str:
    return "INTEGER" if pa.types.is_integer(kind) else "REAL"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
