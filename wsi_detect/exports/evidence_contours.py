"""Outlines of the evidence map of a slide, as GeoJSON annotations for QuPath (0.4 and later).

A contour runs along the sides of the px of the map that are above the threshold: what is outlined is what was counted,
and area and mean need no correction. Px that meet at a corner only are two regions. Coordinates are slide px (level 0),
from the top left; `schemas/qupath_regions.schema.json` beside this file is what we promise.
"""

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect.artifact import write_bytes
from wsi_detect.config import Config
from wsi_detect.tiling.evidence_map import CHUNK, FULL, NOT_LOOKED, Codes, EvidenceMap

#: Name of a slide's contours among its exports.
CONTOURS = "evidence.geojson"
_NAME, _COLOUR = "Evidence", [230, 97, 0]


class ContourConfig(Config):
    """What is outlined.

    Attributes:
        threshold: evidence above it is; None is the model's own.
        min_area_um2: smaller regions are specks and left out. 20 µm² is about half the nucleus of a normal
            intermediate cell.
        min_hole_um2: smaller holes are filled; the mean is of the px above the threshold all the same.
    """

    threshold: float | None = Field(None, ge=0, lt=1)
    min_area_um2: float = Field(20.0, ge=0)
    min_hole_um2: float = Field(20.0, ge=0)


@dataclass(frozen=True, slots=True)
class Region:
    """An outlined part of a slide.

    Attributes:
        outline: polygon, with its holes, slide px.
        area_um2: of the polygon.
        mean: evidence of its px above the threshold.
        highest: evidence of any of its px.
    """

    outline: shapely.Polygon
    area_um2: float
    mean: float
    highest: float


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Stretches of px of one row above the threshold: (N,) row, first and behind the last column, sum and most code."""

    row: NDArray[np.int64]
    first: NDArray[np.int64]
    behind: NDArray[np.int64]
    total: NDArray[np.float64]
    most: NDArray[np.float64]


def find_regions(found: EvidenceMap, config: ContourConfig | None = None) -> tuple[list[Region], int]:
    """Outline what is above the threshold.

    Args:
        found: the map.
        config: threshold, and what is a speck.

    Returns:
        The regions, the largest first, and how many specks were left out.

    Raises:
        MissingResolutionError: nobody knows the size of a slide px.
    """
    config = config or ContourConfig()
    level = found.threshold if config.threshold is None else config.threshold
    um2 = (found.px * found.slide.resolution()) ** 2
    runs = _joined([_runs(found, top, level) for top in range(0, found.shape[0], CHUNK)])
    if not len(runs.row):
        return [], 0
    boxes = shapely.box(runs.first, runs.row, runs.behind, runs.row + 1)
    outlines = shapely.get_parts(shapely.union_all(boxes))
    members, owners = shapely.STRtree(outlines).query(
        shapely.points((runs.first + runs.behind) / 2, runs.row + 0.5), predicate="within"
    )
    order = np.argsort(members)
    owner = owners[order]
    count = np.bincount(owner, runs.behind - runs.first, len(outlines))
    mean = np.bincount(owner, runs.total, len(outlines)) / count / FULL
    most = np.zeros(len(outlines))
    np.maximum.at(most, owner, runs.most / FULL)
    kept = [k for k, outline in enumerate(outlines) if outline.area * um2 >= config.min_area_um2]
    shapes = {k: _filled(outlines[k], config.min_hole_um2 / um2) for k in kept}
    regions = [
        Region(_on_slide(shapes[k], found), float(shapes[k].area * um2), float(mean[k]), float(most[k])) for k in kept
    ]
    regions.sort(key=lambda region: (-region.area_um2, region.outline.bounds))
    return regions, len(outlines) - len(kept)


def write_contours(found: EvidenceMap, path: Path, config: ContourConfig | None = None) -> Path:
    """Write the regions of a map; equal maps give equal bytes.

    Args:
        found: the map.
        path: the file.
        config: see `find_regions`.

    Raises:
        MissingResolutionError: nobody knows the size of a slide px.
    """
    config = config or ContourConfig()
    level = found.threshold if config.threshold is None else config.threshold
    regions, _ = find_regions(found, config)
    about = f"{found.slide.slide_id} {found.attributes['model_id']} {level!r}"
    features = [_feature(region, about, level) for region in regions]
    lines = ",\n".join(json.dumps(feature, separators=(",", ":"), ensure_ascii=False) for feature in features)
    write_bytes(path, f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n'.encode())
    return path


def _runs(found: EvidenceMap, top: int, level: float) -> _Runs:
    bottom = min(top + CHUNK, found.shape[0])
    codes = found.codes((top, bottom), (0, found.shape[1]))
    above = (codes != NOT_LOOKED) & (codes > level * FULL)
    edges = np.diff(np.pad(above.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, first = np.nonzero(edges == 1)
    behind = np.nonzero(edges == -1)[1]
    flat = codes.ravel()
    starts, ends = row * codes.shape[1] + first, row * codes.shape[1] + behind
    return _Runs(row + top, first, behind, _sums(flat, starts, ends), _most(flat, above, starts))


def _sums(codes: Codes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    total = np.concatenate([[0], np.cumsum(codes, dtype=np.int64)])
    return np.asarray(total[ends] - total[starts], dtype=np.float64)


def _most(codes: Codes, above: NDArray[np.bool_], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    if not len(starts):
        return np.zeros(0)
    # What lies between two runs counts for nothing.
    return np.maximum.reduceat(np.where(above.ravel(), codes, 0), starts).astype(np.float64)


def _joined(parts: list[_Runs]) -> _Runs:
    names = ("row", "first", "behind", "total", "most")
    row, first, behind, total, most = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
    return _Runs(row, first, behind, total, most)


def _filled(outline: shapely.Polygon, smallest: float) -> shapely.Polygon:
    """Fill holes of less area, px of the map squared."""
    holes = [ring for ring in outline.interiors if shapely.Polygon(ring).area >= smallest]
    return shapely.Polygon(outline.exterior, holes)


def _on_slide(outline: shapely.Polygon, found: EvidenceMap) -> shapely.Polygon:
    """Px of the map → slide px; the last row and column may have reached beyond the slide."""
    limit = np.array([found.slide.width_px, found.slide.height_px], dtype=np.float64)
    return shapely.transform(outline, lambda points: np.minimum(points * found.px, limit).round(3))


def _feature(region: Region, about: str, level: float) -> dict[str, Any]:
    name = uuid.uuid5(uuid.NAMESPACE_OID, f"{about} {region.outline.wkb_hex}")
    figures = {
        "Area µm²": round(region.area_um2, 3),
        "Mean evidence": round(region.mean, 6),
        "Highest evidence": round(region.highest, 6),
        "Threshold": level,
    }
    return {
        "type": "Feature",
        "id": str(name),
        "geometry": json.loads(shapely.to_geojson(region.outline)),
        "properties": {
            "objectType": "annotation",
            "classification": {"name": _NAME, "color": _COLOUR},
            "isLocked": False,
            "measurements": figures,
        },
    }
