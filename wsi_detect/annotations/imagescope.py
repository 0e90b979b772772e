"""Aperio ImageScope XML: one slide a file; layers of regions, corners in slide px (level 0)."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.outline import Outline, ellipse, outline, points_of
from wsi_detect.annotations.safe_xml import Record, attribute, records
from wsi_detect.annotations.text import number

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
    for row, record in enumerate(records(path, "Annotations", "Region"), start=1):
        region, where = record.element, f"{path}: region {row}"
        kind = region.get("Type", _POLYGON)
        shape = _shape(region, kind, where)
        problem = shape.problem
        if kind not in (_POLYGON, _RECTANGLE, _ELLIPSE):
            problem = f"is {_NO_AREA.get(kind, f'of type {kind}')}, which is no cell"
        elif region.get("NegativeROA", "0") == "1":
            problem = "is a negative region, cut out of another"
        yield Annotation(
            str(row), _label(record), shape.box, image, size, shape.geometry, row=row, problem=problem
        )  # fmt: skip


def _label(record: Record) -> str:
    layer = next((attributes for tag, attributes in reversed(record.around) if tag == "Annotation"), {})
    return (record.element.get("Text", "") or layer.get("Name", "")).strip()


def _shape(region: Element, kind: str, where: str) -> Outline:
    points = [
        (number(attribute(corner, "X", where), where), number(attribute(corner, "Y", where), where))
        for corner in region.iter("Vertex")
    ]
    shape = outline(points_of(points, where))
    # Two opposite corners are all there is of an ellipse, and of a rectangle in some versions.
    if kind == _ELLIPSE:
        return ellipse(shape.box)
    if kind == _RECTANGLE and len(points) == 2:
        x0, y0, x1, y1 = shape.box
        return outline(points_of([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], where))
    return shape
