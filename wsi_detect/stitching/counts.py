"""How many cells of each class there are on a slide or on a part of it, for people and for programs."""

from pathlib import Path
from typing import Any

import shapely

from wsi_detect.errors import ConfigError
from wsi_detect.geometry import Box
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.queries import Region, area_px2, check_region


def read_region(text: str) -> Region:
    """Return the part of a slide that `x0,y0,x1,y1` or the name of a GeoJSON file stands for, in slide px.

    Every polygon of the file is a part of the region; those drawn in QuPath are in slide px.

    Raises:
        ConfigError: it is neither, the file holds something else than polygons, or what it holds encloses nothing.
    """
    try:
        corners = [float(part) for part in text.split(",")]
    except ValueError:
        corners = []
    region = Box(*corners) if len(corners) == 4 else _read_polygons(Path(text))
    _check(region, text)
    return region


def _read_polygons(path: Path) -> shapely.Geometry:
    if not path.is_file():
        raise ConfigError(f"{path} is no file; give a region as x0,y0,x1,y1 in slide px, or as a GeoJSON file")
    try:
        shape = shapely.from_geojson(path.read_bytes())
    except (shapely.errors.ShapelyError, ValueError) as error:
        raise ConfigError(f"{path} is not GeoJSON ({error}); in QuPath: File, Export objects as GeoJSON") from error
    # A collection may hold polygons of several parts.
    parts = shapely.get_parts(shapely.get_parts(shape))
    other = {part.geom_type for part in parts} - {"Polygon"}
    if other or not len(parts):
        held = " and ".join(sorted(other)) or "no shape"
        raise ConfigError(f"{path} holds {held}; a region is made of polygons")
    for part in parts:
        _check(part, str(path))
    return shapely.union_all(shapely.force_2d(parts))


def _check(region: Region, text: str) -> None:
    try:
        check_region(region)
    except ValueError as error:
        raise ConfigError(f"region {text}: {error}") from error


def tally(cells: CellMap, region: Region | None = None) -> dict[str, Any]:
    """Count cells whose middle lies in a region, or all; what depends on an unknown mpp is None.

    Raises:
        ConfigError: the region lies outside the slide.
    """
    slide = cells.slide
    size = (slide.width_px, slide.height_px)
    area_px = area_px2(Box(0, 0, *size) if region is None else region, *size)
    if not area_px > 0:
        raise ConfigError(f"the region lies outside slide {slide.slide_id} of {size[0]} x {size[1]} px")
    area_mm2 = None if slide.mpp is None else area_px * slide.mpp**2 / 1e6
    counts = (cells if region is None else cells.within(region)).counts()

    def density(number: int) -> float | None:
        return None if area_mm2 is None else number / area_mm2

    return {
        "slide_id": slide.slide_id,
        "model_id": cells.model_id,
        "part": "whole slide" if region is None else "region",
        "area_mm2": area_mm2,
        "cells": sum(counts.values()),
        "density_per_mm2": density(sum(counts.values())),
        "classes": [
            {"label": name, "cells": number, "density_per_mm2": density(number)} for name, number in counts.items()
        ],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """Return a tally as lines to print: what was counted, then a line a class, the gravest first."""
    rows = [("class", "cells", "per mm²")]
    for name, entry in [*((entry["label"], entry) for entry in found["classes"]), ("all", found)]:
        density = entry["density_per_mm2"]
        rows.append((name, f"{entry['cells']:,}", "unknown" if density is None else f"{density:,.2f}"))
    first, second, third = (max(map(len, column)) for column in zip(*rows, strict=True))
    area = found["area_mm2"]
    place = f"{found['part']}, {'area unknown' if area is None else f'{area:.4g} mm²'}"
    return [f"slide {found['slide_id']}: {place}"] + [
        f"{name:<{first}}  {cells:>{second}}  {density:>{third}}" for name, cells, density in rows
    ]
