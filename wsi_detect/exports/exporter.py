"""The export stage: a cell map written in a named format."""

import difflib
import logging
from pathlib import Path
from types import MappingProxyType

from wsi_detect.errors import ConfigError
from wsi_detect.exports import EXPORTERS
from wsi_detect.stitching.cell_map import CellMap

_log = logging.getLogger(__name__)

#: Endings of file names, where they are not the name of the format.
_SUFFIXES = MappingProxyType({"coco": ".json"})


def export_cells(cells: CellMap, out: Path, format: str) -> Path:  # noqa: A002 - the word a user looks for
    """Write a cell map in one format.

    Args:
        cells: the cells of a slide.
        out: a file, if its name ends as files of the format do (`.gz` may follow for GeoJSON); else a folder, in
            which `cells` with that ending is written.
        format: a key of `EXPORTERS`.

    Returns:
        The file.

    Raises:
        ConfigError: there is no such format.
    """
    if format not in EXPORTERS:
        near = difflib.get_close_matches(format, EXPORTERS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown export format {format!r}; did you mean {near!r}? known: {', '.join(EXPORTERS)}")
    suffix = _SUFFIXES.get(format, f".{format}")
    name = out.name.lower()
    is_file = not out.is_dir() and (name.endswith(suffix) or (format == "geojson" and name.endswith(".gz")))
    path = EXPORTERS[format](cells, out if is_file else out / f"cells{suffix}")
    _log.info("%s: exported %d cells as %s", cells.slide.slide_id, len(cells), format)
    return path
