"""GeoParquet 1.1: the flat table with outlines or boxes as WKB polygons, for GIS programs, DuckDB and geopandas.

Coordinates are slide px (level 0), y down, so the file has no coordinate reference system. The struct column `bbox`
covers the geometries: a reader that wants a window skips row groups by its statistics.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from wsi_detect.artifact import atomic
from wsi_detect.exports import columns
from wsi_detect.stitching.cell_map import CellMap

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
#: By shapely's number of the type.
_TYPES = (
    *("Point", "LineString", "LinearRing", "Polygon"),
    *("MultiPoint", "MultiLineString", "MultiPolygon", "GeometryCollection"),
)
_UNITS = "px of level 0 of the slide, origin at its top left, x right, y down; no coordinate reference system"


def write(cells: CellMap, path: Path) -> Path:
    """Write the cells as GeoParquet; beside `geo`, the metadata key `units` says in words what coordinates are."""
    box = pa.struct([(corner, pa.float64()) for corner in _CORNERS])
    schema = pa.schema(
        [*columns.flat_schema(cells), pa.field("bbox", box), pa.field("geometry", pa.binary())],
        metadata={"geo": _metadata(cells), "units": _UNITS},
    )
    with atomic(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for batch in columns.chunks(cells):
            shapes = _shapes(batch)
            covering = [pa.array(side) for side in shapely.bounds(shapes).T]
            table = columns.flat(batch, cells)
            added = [
                pa.StructArray.from_arrays(covering, fields=list(box)),
                pa.array(shapely.to_wkb(shapes), type=pa.binary()),
            ]
            writer.write_batch(pa.record_batch([*table.columns, *added], schema=schema))
    return path


def _metadata(cells: CellMap) -> str:
    """Return the text under `geo`; it stands before the rows, so they are gone through once for it."""
    column: dict[str, object] = {
        "encoding": "WKB",
        "geometry_types": [],
        "crs": None,
        "edges": "planar",
        "covering": {"bbox": {corner: ["bbox", corner] for corner in _CORNERS}},
    }
    types: set[int] = set()
    extents = []
    for batch in columns.chunks(cells):
        shapes = _shapes(batch)
        types.update(shapely.get_type_id(shapes).tolist())
        extents.append(shapely.total_bounds(shapes))
    if extents:
        found = np.array(extents)
        column["geometry_types"] = [_TYPES[kind] for kind in sorted(types)]
        column["bbox"] = [*found[:, :2].min(axis=0).tolist(), *found[:, 2:].max(axis=0).tolist()]
    return json.dumps({"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}})


def _shapes(batch: pa.RecordBatch) -> NDArray[np.object_]:
    """Outlines where there are any, else boxes: geometries (N,)."""
    shapes = np.asarray(shapely.box(*columns.boxes(batch).T), dtype=object)
    outlines, known = columns.outlines(batch)
    shapes[known] = outlines
    return shapes
