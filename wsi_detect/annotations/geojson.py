"""GeoJSON as QuPath writes it, packed or not: one slide a file, features in slide px with a classification.

Read feature by feature; outlines are made a few thousand at a time, which takes a third of the time.
"""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from wsi_detect.annotations.annotation import Annotation, Kind
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.outline import Outline, Points, outlines, points_of, united
from wsi_detect.annotations.text import json_elements
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".geojson", ".geojson.gz", ".json", ".json.gz")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_BATCH = 4096


class _Feature(NamedTuple):
    row: int
    annotation_id: str
    label: str
    #: One ring; or what was made of several; or a point.
    shape: Points | Outline | Box


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read a GeoJSON file: a FeatureCollection, a list of features, or one feature.

    The label is the name in `classification` of a feature's properties, empty where it has none. Polygons are kept as
    they are; of MultiPoint each point is a cell; lines and mixtures are reported as faults. A nucleus outlined besides
    its cell is left out.

    Raises:
        LabelError: the file is absent, no GeoJSON, or about no slide that is known; the message names the feature.
    """
    image = facts.slide_of(path)
    size = facts.size_of(image)
    features = _features(path)
    while batch := list(islice(features, _BATCH)):
        made = iter(outlines([entry.shape for entry in batch if not isinstance(entry.shape, (Outline, Box))]))
        for entry in batch:
            kind: Kind = "point" if isinstance(entry.shape, Box) else "cell"
            if isinstance(entry.shape, Box):
                found = Outline(entry.shape)
            else:
                found = entry.shape if isinstance(entry.shape, Outline) else next(made)
            yield Annotation(
                entry.annotation_id, entry.label, found.box, image, size, found.geometry, None, entry.row, kind,
                found.problem,
            )  # fmt: skip


def _features(path: Path) -> Iterator[_Feature]:
    for row, feature in enumerate(json_elements(path, "features"), start=1):
        where = f"{path}: feature {row}"
        if not isinstance(feature, dict) or not isinstance(feature.get("geometry"), dict):
            raise LabelError(f"{where} is no GeoJSON feature with a geometry")
        given = feature.get("id")
        # QuPath up to 0.3 gives every object the name of its kind as an id.
        name = given if isinstance(given, str) and _UUID.fullmatch(given) else str(row)
        label = _label(feature.get("properties"), where)
        shapes = _shapes(feature["geometry"], where)
        for k, shape in enumerate(shapes):
            yield _Feature(row, name if len(shapes) == 1 else f"{name}/{k + 1}", label, shape)


def _label(properties: Any, where: str) -> str:
    found = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(found, dict):
        # QuPath 0.5 writes a class derived from others as a list of names.
        found = found.get("name", found.get("names"))
    if isinstance(found, list) and all(isinstance(part, str) for part in found):
        found = ": ".join(found)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise LabelError(f"{where}: its classification has no name")
    return found


def _shapes(geometry: dict[str, Any], where: str) -> list[Points | Outline | Box]:
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "Polygon" and isinstance(coordinates, list) and len(coordinates) == 1:
        return [points_of(coordinates[0], where)]
    if kind in ("Polygon", "MultiPolygon") and isinstance(coordinates, list):
        polygons = [coordinates] if kind == "Polygon" else coordinates
        try:
            return [united([[points_of(ring, where) for ring in polygon] for polygon in polygons])]
        except TypeError as error:
            raise LabelError(f"{where}: its coordinates are not those of a {kind}") from error
    if kind in ("Point", "MultiPoint"):
        points = points_of([coordinates] if kind == "Point" else coordinates or [], where)
        return [Box(x, y, x, y) for x, y in points.tolist()]
    if kind in ("LineString", "MultiLineString", "GeometryCollection"):
        return [Outline(Box(0, 0, 0, 0), None, f"is a {kind}, which is no cell")]
    raise LabelError(f"{where}: {str(kind)[:40]!r} is no geometry with coordinates")
