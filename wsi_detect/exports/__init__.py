"""A cell map in the formats other programs read; every format of single cells carries the same cell ids.

An exporter is a function `write(cells, path) -> path`, with options as keywords that have defaults; a new one is a
file here and an entry below.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from wsi_detect.exports import asap, coco, dicom, geojson, geoparquet, heatmap, sqlite_table, table

Exporter = Callable[..., Path]

EXPORTERS: Mapping[str, Exporter] = MappingProxyType(
    {
        "geojson": geojson.write,
        "csv": table.write_csv,
        "parquet": table.write_parquet,
        "geoparquet": geoparquet.write,
        "coco": coco.write,
        "asap": asap.write,
        "dicom": dicom.write,
        "sqlite": sqlite_table.write,
        "heatmap": heatmap.write_tiff,
        "heatmap_png": heatmap.write_png,
    }
)

#: Formats that are pictures: they show where cells are and hold no single cell.
PICTURES = frozenset({"heatmap", "heatmap_png"})

__all__ = ["EXPORTERS", "PICTURES", "Exporter"]
