"""Pascal VOC: one XML file a picture, a box an object, in px of the picture."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.safe_xml import records, text_of
from wsi_detect.annotations.text import number
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".xml",)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read a VOC file.

    The picture is the one the file names (`filename`, never `path`), or the one the XML file itself is called like.
    With `facts.first_px` 1, xmin and ymin are numbers of px from 1 and xmax and ymax the last px inside (Everingham and
    Winn, "The PASCAL Visual Object Classes Challenge 2012 Development Kit", section on annotation): the box
    begins one px earlier than the numbers say.

    Raises:
        LabelError: the file is absent or no VOC file, or an object has no name or no box; the message names the row.
    """
    for page in records(path, "annotation", "annotation"):
        root = page.element
        image = facts.slide or text_of(root, "filename") or facts.slide_of(path)
        size = _size(root, path) or facts.size_of(image)
        for row, entry in enumerate(root.iterfind("object"), start=1):
            where = f"{path}: object {row}"
            name = text_of(entry, "name")
            corners = [entry.findtext(f"bndbox/{corner}") for corner in _CORNERS]
            if not name or None in corners:
                raise LabelError(f"{where} has no name, or no bndbox with {', '.join(_CORNERS)}")
            x0, y0, x1, y1 = (number(corner or "", where) for corner in corners)
            box = Box(x0 - facts.first_px, y0 - facts.first_px, x1, y1)
            yield Annotation(str(row), name, box, image, size, row=row)


def _size(root: Element, path: Path) -> tuple[int, int] | None:
    sides = [number(text_of(root, f"size/{side}") or "0", f"{path}: size") for side in ("width", "height")]
    # Some programs write 0 x 0 for a picture they could not open.
    return (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None
