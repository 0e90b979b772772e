"""A cell map in the formats other programs read; every format carries the same cell ids.

An exporter is a function `write(cells, path) -> path`; a new one is a file here and an entry below.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from wsi_detect.exports import coco, geojson, table
from wsi_detect.stitching.cell_map import CellMap

Exporter = Callable[[CellMap, Path], Path]

EXPORTERS: Mapping[str, Exporter] = MappingProxyType(
    {
        "geojson": geojson.write,
        "csv": table.write_csv,
        "parquet": table.write_parquet,
        "coco": coco.write,
    }
)

__all__ = ["EXPORTERS", "Exporter"]
