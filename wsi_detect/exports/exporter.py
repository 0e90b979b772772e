"""The export stage: a cell map written in a named format."""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import Field, field_validator

from wsi_detect.config import Config
from wsi_detect.errors import ConfigError
from wsi_detect.exports import EXPORTERS, PICTURES
from wsi_detect.exports.density import WINDOW_UM
from wsi_detect.exports.dicom import NO_DATE
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import cell_class

_log = logging.getLogger(__name__)

#: How names of files end, where it is not with the name of the format; the first is the one we give.
_ENDINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "geojson": (".geojson", ".gz"),
        "geoparquet": (".geo.parquet", ".geoparquet", ".parquet"),
        "coco": (".json",),
        "asap": (".xml",),
        "sqlite": (".sqlite", ".db"),
        "dicom": (".dcm",),
        "heatmap": (".heatmap.tif", ".tif", ".tiff"),
        "heatmap_png": (".heatmap.png", ".png"),
    }
)


class ExportConfig(Config):
    """Options of formats.

    Attributes:
        gzip: pack GeoJSON that goes into a folder.
        max_cells_per_file: cells of one GeoJSON file; more become `cells-001.geojson` and so on. None: one file.
        heatmap_window_um: side of the square in which cells are counted for a heat map.
        heatmap_labels: classes a heat map counts; None: all abnormal ones.
        dicom_source: the slide's DICOM file, to whose study and image DICOM annotations then refer.
        dicom_date: Content Date of DICOM annotations, eight digits; None: one that means nobody gave one.
    """

    gzip: bool = False
    max_cells_per_file: int | None = Field(None, ge=1)
    heatmap_window_um: float = Field(WINDOW_UM, gt=0)
    heatmap_labels: tuple[str, ...] | None = Field(None, min_length=1)
    dicom_source: Path | None = None
    dicom_date: str | None = Field(None, pattern="^[0-9]{8}$", coerce_numbers_to_str=True)

    @field_validator("heatmap_labels")
    @classmethod
    def _known_classes(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in labels or ():
            cell_class(name)
        return labels


def export_cells(cells: CellMap, out: Path, format: str, config: ExportConfig | None = None) -> Path:  # noqa: A002 - the word a user looks for
    """Write a cell map in one format.

    Args:
        cells: the cells of a slide.
        out: a file, if its name ends as files of the format do (`.gz` may follow for GeoJSON); else a folder, in
            which `cells` with that ending is written.
        format: a key of `EXPORTERS`.
        config: options of formats.

    Returns:
        The file; the first, if `max_cells_per_file` makes several.

    Raises:
        ConfigError: there is no such format, or the name of the file ends as those of another do.
    """
    check_format(format)
    config = config or ExportConfig()
    path = EXPORTERS[format](cells, _place(out, format, config), **_options(format, config))
    _log.info("%s: exported %d cells as %s", cells.slide.slide_id, len(cells), format)
    return path


def check_format(name: str) -> None:
    """Refuse a format that is not there.

    Raises:
        ConfigError: with the nearest name.
    """
    if name not in EXPORTERS:
        near = difflib.get_close_matches(name, EXPORTERS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown export format {name!r}; did you mean {near!r}? known: {', '.join(EXPORTERS)}")


def _place(out: Path, name: str, config: ExportConfig) -> Path:
    endings = _endings(name)
    if not out.is_dir():
        if out.name.lower().endswith(endings):
            return out
        if out.name.lower().endswith(tuple(ending for other in EXPORTERS for ending in _endings(other))):
            raise ConfigError(f"{out}: {name} files end in {' or '.join(endings)}; give such a name, or a folder")
    return out / f"cells{endings[0]}{'.gz' if name == 'geojson' and config.gzip else ''}"


def _endings(name: str) -> tuple[str, ...]:
    return _ENDINGS.get(name, (f".{name}",))


def _options(name: str, config: ExportConfig) -> Mapping[str, Any]:
    if name == "geojson":
        return {"max_cells_per_file": config.max_cells_per_file}
    if name == "dicom":
        return {"source": config.dicom_source, "date": config.dicom_date or NO_DATE}
    if name in PICTURES:
        return {"window_um": config.heatmap_window_um, "labels": config.heatmap_labels}
    return {}
