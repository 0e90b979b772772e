"""CRIC Cervix Cell Classification: the collection's own JSON or CSV, a point for each nucleus.

Coordinates are numbers of px from 1, as the collection's description says; the centre of px 1 lies half a px from the
edge. No box was drawn: a declared rule makes them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.text import json_elements, number, read_rows
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".json", ".csv")
_FIELDS = ("cell_id", "bethesda_system", "nucleus_x", "nucleus_y")


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read `classifications.json` or `classifications.csv`.

    Raises:
        LabelError: the file is absent or none of the two; an entry is incomplete; the message names it.
    """
    entries = _from_csv(path) if path.suffix.lower() == ".csv" else _from_json(path)
    for row, (image, cell) in enumerate(entries, start=1):
        where = f"{path}: cell {row}"
        missing = [field for field in _FIELDS if cell.get(field) in (None, "")]
        if missing:
            raise LabelError(f"{where} lacks {', '.join(missing)}")
        x, y = (number(cell[field], where) - 0.5 for field in ("nucleus_x", "nucleus_y"))
        size = facts.size_of(image)
        label = str(cell["bethesda_system"])
        yield Annotation(str(cell["cell_id"]), label, Box(x, y, x, y), image, size, row=row, kind="point")


def _from_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    names, rows = read_rows(path)
    if "image_filename" not in names:
        raise LabelError(f"{path} has columns {', '.join(names)}; expected image_filename, {', '.join(_FIELDS)}")
    for _, cells in rows:
        entry = dict(zip(names, cells, strict=True))
        yield entry["image_filename"], entry


def _from_json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for row, image in enumerate(json_elements(path, ""), start=1):
        cells = image.get("classifications") if isinstance(image, dict) else None
        if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
            raise LabelError(f"{path}: image {row} has no list of classifications")
        if not isinstance(image.get("image_name"), str):
            raise LabelError(f"{path}: image {row} has no image_name")
        for cell in cells:
            yield image["image_name"], cell
