"""Hamamatsu NDPA: one slide a file; nanometres from the centre of the glass, so that it needs facts of the slide.

x_px = width / 2 + (x_nm / 1000 - centre_um) / mpp: `centre_um` is where the centre of the picture lies on the glass,
which NDPI files say in their tags 65422 and 65423 (OpenSlide: hamamatsu.XOffsetFromSlideCentre), in nanometres.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.outline import Outline, Points, ellipse, outline, points_of
from wsi_detect.annotations.safe_xml import records, text_of
from wsi_detect.annotations.text import number
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".ndpa",)

#: Points in nm → points in slide px.
_ToPixels = Callable[[Points], Points]


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read an NDPA file.

    The label is the title of an annotation. Freehand outlines and rectangles are polygons, circles polygons of 64
    corners, pins points. Open lines, pointers and rulers are no cells and are reported as faults.

    Raises:
        LabelError: the file is absent, no NDPA file, or about no slide that is known; size, µm per px or centre of the
            slide are not known; coordinates are in something else than nanometres.
    """
    image = facts.slide_of(path)
    to_pixels = _frame(image, facts, path)
    size = facts.size_of(image)
    for row, (entry, _) in enumerate(records(path, "annotations", "ndpviewstate"), start=1):
        where = f"{path}: annotation {row}"
        unit = text_of(entry, "coordformat") or "nanometers"
        drawn = entry.find("annotation")
        if unit != "nanometers" or drawn is None:
            raise LabelError(f"{where} has {'no shape' if drawn is None else f'coordinates in {unit[:40]!r}'}")
        kind, label = drawn.get("type", ""), text_of(entry, "title")
        if kind == "pin":
            ((x, y),) = to_pixels(_points([drawn], where)).tolist()
            yield Annotation(str(row), label, Box(x, y, x, y), image, size, row=row, kind="point")
        else:
            shape = _shape(drawn, kind, to_pixels, where)
            yield Annotation(str(row), label, shape.box, image, size, shape.geometry, row=row, problem=shape.problem)


def _frame(image: str, facts: SourceFacts, path: Path) -> _ToPixels:
    slide = facts.slides.get(image)
    if slide is None or slide.size_px is None or slide.mpp is None or slide.centre_um is None:
        raise LabelError(
            f"{path}: NDPA files count nanometres from the centre of the glass; of {image} the size, the µm per px and "
            "where its centre lies must be known: let the slide file be there, or say them"
        )
    (width, height), (x_um, y_um), mpp = slide.size_px, slide.centre_um, slide.mpp

    def to_pixels(nanometres: Points) -> Points:
        return np.asarray((nanometres / 1000 - (x_um, y_um)) / mpp + (width / 2, height / 2))

    return to_pixels


def _points(entries: list[Element], where: str) -> Points:
    return points_of([[number(text_of(entry, axis), where) for axis in ("x", "y")] for entry in entries], where)


def _shape(drawn: Element, kind: str, to_pixels: _ToPixels, where: str) -> Outline:
    if kind == "circle":
        radius = number(text_of(drawn, "radius"), where)
        ((x0, y0), (x1, y1)) = to_pixels(np.add(_points([drawn], where), [[-radius], [radius]])).tolist()
        return ellipse(Box(x0, y0, x1, y1))
    shape = outline(to_pixels(_points(drawn.findall("pointlist/point"), where)))
    if kind != "freehand":
        return Outline(shape.box, None, f"is a {kind or 'thing without a type'}, which is no cell")
    if text_of(drawn, "closed") == "0":
        return Outline(shape.box, None, "is an open line, which is no cell")
    return shape
