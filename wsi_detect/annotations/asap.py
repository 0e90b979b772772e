"""ASAP XML: one slide a file; an annotation has a name, a group and corners in slide px (level 0)."""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.outline import Points, outline
from wsi_detect.annotations.safe_xml import attribute, records
from wsi_detect.annotations.text import number
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".xml",)
_NUMBER = re.compile(r"\s*\d+\s*$")
_AREAS = ("Rectangle", "Polygon", "Spline")
_POINTS = ("Dot", "PointSet")


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
    for row, (entry, _) in enumerate(records(path, "ASAP_Annotations", "Annotation"), start=1):
        where = f"{path}: annotation {row}"
        group, name, kind = (entry.get(key, "").strip() for key in ("PartOfGroup", "Name", "Type"))
        grouped = group not in ("", "None")
        label = group if grouped else " ".join(_NUMBER.sub("", name).split())
        annotation_id = name if grouped and name else str(row)
        corners = _corners(entry, where)
        if kind in _POINTS:
            for k, (x, y) in enumerate(corners.tolist()):
                own = annotation_id if len(corners) == 1 else f"{annotation_id}/{k + 1}"
                yield Annotation(own, label, Box(x, y, x, y), image, size, row=row, kind="point")
            continue
        shape = outline(corners)
        problem = shape.problem if kind in _AREAS else f"is a {kind or 'thing without a type'}, which is no cell"
        yield Annotation(annotation_id, label, shape.box, image, size, shape.geometry, row=row, problem=problem)


def _corners(entry: Element, where: str) -> Points:
    found = [
        tuple(number(attribute(corner, key, where), where) for key in ("Order", "X", "Y"))
        for corner in entry.iter("Coordinate")
    ]
    points = np.array(sorted(found, key=lambda corner: corner[0]), dtype=np.float64).reshape(-1, 3)
    return points[:, 1:]
