"""ASAP XML: one slide a file; an annotation has a name, a group and corners in slide px (level 0)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from wsi_detect.annotations.annotation import Annotation, Kind
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.outline import Outline, Points, drawn, points_of_text
from wsi_detect.annotations.safe_xml import attribute, records
from wsi_detect.annotations.text import number
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".xml",)
_NUMBER = re.compile(r"\s*\d+\s*$")
_AREAS = ("Rectangle", "Polygon", "Spline")
_POINTS = ("Dot", "PointSet")


class _Entry(NamedTuple):
    row: int
    annotation_id: str
    label: str
    kind: Kind
    problem: str | None = None


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read an ASAP file.

    The label is the group an annotation is in, and its name is then its id. One in no group is labelled by its name,
    from which a running number at the end and double blanks are taken ("Group HSIL 3" → "Group HSIL"); its id is its
    place in the file. A Spline is read as the polygon of its corners. Dots are points.

    Raises:
        LabelError: the file is absent, no ASAP file, or about no slide that is known; a corner is incomplete.
    """
    image = facts.slide_of(path)
    size = facts.size_of(image)
    for entry, shape in drawn(_entries(path)):
        yield Annotation(
            entry.annotation_id, entry.label, shape.box, image, size, shape.geometry, None, entry.row, entry.kind,
            entry.problem or shape.problem,
        )  # fmt: skip


def _entries(path: Path) -> Iterator[tuple[_Entry, Points | Outline]]:
    for row, (found, _) in enumerate(records(path, "ASAP_Annotations", "Annotation"), start=1):
        where = f"{path}: annotation {row}"
        group, name, kind = (found.get(key, "").strip() for key in ("PartOfGroup", "Name", "Type"))
        grouped = group not in ("", "None")
        label = group if grouped else " ".join(_NUMBER.sub("", name).split())
        own = name if grouped and name else str(row)
        corners = _corners(found, where)
        if kind in _POINTS:
            for k, (x, y) in enumerate(corners.tolist()):
                numbered = own if len(corners) == 1 else f"{own}/{k + 1}"
                yield _Entry(row, numbered, label, "point"), Outline(Box(x, y, x, y))
            continue
        problem = None if kind in _AREAS else f"is a {kind or 'thing without a type'}, which is no cell"
        yield _Entry(row, own, label, "cell", problem), corners


def _corners(entry: Element, where: str) -> Points:
    corners = list(entry.iter("Coordinate"))
    points = points_of_text([(corner.get("X"), corner.get("Y")) for corner in corners], where)
    order = [number(attribute(corner, "Order", where), where) for corner in corners]
    return points[np.argsort(order, kind="stable")]
