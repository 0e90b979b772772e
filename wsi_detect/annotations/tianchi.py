"""JSON of the Tianchi 2019 cervical-cancer challenge: one slide a file, a list of x, y, w, h, class in slide px.

Entries of class `roi` are the areas that were labelled. The organisers warn that outside of them there may be positive
cells without a box: what lies there is neither cell nor background.
"""

from collections.abc import Iterator
from pathlib import Path

from wsi_detect.annotations.annotation import Annotation, Kind
from wsi_detect.annotations.facts import SourceFacts
from wsi_detect.annotations.text import json_elements, number
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

SUFFIXES: tuple[str, ...] = (".json",)
ROI = "roi"
_FIELDS = ("x", "y", "w", "h", "class")


def read(path: Path, facts: SourceFacts) -> Iterator[Annotation]:
    """Read a file of the challenge.

    Raises:
        LabelError: the file is absent, no such list, or about no slide that is known; an entry is incomplete; there are
            cells but no area, so that nothing says where the slide was labelled.
    """
    image = facts.slide_of(path)
    size = facts.size_of(image)
    cells = rois = 0
    for row, entry in enumerate(json_elements(path, ""), start=1):
        where = f"{path}: entry {row}"
        if not isinstance(entry, dict) or any(field not in entry for field in _FIELDS):
            raise LabelError(f"{where} lacks one of {', '.join(_FIELDS)}")
        x, y, width, height = (number(entry[field], where) for field in _FIELDS[:4])
        label = str(entry["class"])
        cells, rois = cells + (label != ROI), rois + (label == ROI)
        kind: Kind = "roi" if label == ROI else "cell"
        yield Annotation(str(row), label, Box(x, y, x + width, y + height), image, size, row=row, kind=kind)
    if cells and not rois:
        raise LabelError(f"{path} has {cells} cells but no entry of class {ROI!r}: where was the slide labelled?")
