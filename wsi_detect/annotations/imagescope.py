"""Aperio ImageScope XML: one slide a file; layers of regions, corners in slide px (level 0)."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.outline import Outline, Points, drawn, ellipse, outline, points_of_text
from wsi_detect.annotations.safe_xml import Record, records

SUFFIXES: tuple[str, ...] = (".xml",)
_POLYGON, _RECTANGLE, _ELLIPSE = "0", "1", "2"
_NO_AREA = {"3": "an arrow", "4": "a ruler", "5": "a ruler"}


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read an ImageScope file.

    The label is a region's own text, else the name of its layer. An ellipse, of which the file has the box, becomes a
    polygon of 64 corners. Arrows, rulers and negative regions (what a pathologist cut out of another) are no cells and
    are reported as faults.

    Raises:
        LabelError: the file is absent, no ImageScope file, or about no slide that is known; a corner is incomplete.
    """
    image = facts.slide_of(path)
    size = facts.size_of(image)
    for (row, label, problem), shape in drawn(_regions(path)):
        yield Annotation(
            str(row), label, shape.box, image, size, shape.geometry, row=row, problem=problem or shape.problem
        )  # fmt: skip


def _regions(path: Path) -> Iterator[tuple[tuple[int, str, str | None], Points | Outline]]:
    for row, record in enumerate(records(path, "Annotations", "Region"), start=1):
        region, problem = record.element, None
        kind = region.get("Type", _POLYGON)
        if kind not in (_POLYGON, _RECTANGLE, _ELLIPSE):
            problem = f"is {_NO_AREA.get(kind, f'of type {kind}')}, which is no cell"
        elif region.get("NegativeROA", "0") == "1":
            problem = "is a negative region, cut out of another"
        yield (row, _label(record), problem), _shape(region, kind, f"{path}: region {row}")


def _label(record: Record) -> str:
    layer = next((attributes for tag, attributes in reversed(record.around) if tag == "Annotation"), {})
    return (record.element.get("Text", "") or layer.get("Name", "")).strip()


def _shape(region: Element, kind: str, where: str) -> Points | Outline:
    points = points_of_text([(corner.get("X"), corner.get("Y")) for corner in region.iter("Vertex")], where)
    # Two opposite corners are all there is of an ellipse, and of a rectangle in some versions.
    if kind == _ELLIPSE:
        return ellipse(outline(points).box)
    if kind == _RECTANGLE and len(points) == 2:
        x0, y0, x1, y1 = outline(points).box
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64)
    return points
