"""CSV of the RIVA challenge: a row a cell; x and y are the centre of a box of width x height px of the picture."""

from collections.abc import Iterator
from pathlib import Path

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.text import number, read_rows
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".csv",)
_FIELDS = ("image_filename", "x", "y", "width", "height", "class_name")


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read a file of the challenge.

    That x and y are centres, not corners, is how programs of participants read them. Every box of the set is 100 x 100
    px: it says where a cell is, not how large. Boxes of cells at the edge reach beyond the picture, and are reported.

    Raises:
        LabelError: the file is absent or lacks a column; a row is incomplete; the message names it.
    """
    names, rows = read_rows(path)
    missing = [field for field in _FIELDS if field not in names]
    if missing:
        raise LabelError(f"{path} has columns {', '.join(names)}; it lacks {', '.join(missing)}")
    places = [names.index(field) for field in _FIELDS]
    for row, cells in rows:
        image, *numbers, label = (cells[place] for place in places)
        if not label:
            raise LabelError(f"{path}: row {row} has no class_name")
        x, y, width, height = (number(value, f"{path}: row {row}") for value in numbers)
        box = Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        yield Annotation(str(row), label, box, image, facts.size_of(image), row=row)
