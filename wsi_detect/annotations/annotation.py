"""One expert's label, as a vendor's file states it: before the label is translated and the slide is known."""

from dataclasses import dataclass
from typing import Literal

from wsi_detect.geometry import Box

#: A cell; the centre of one, which gets its box by a declared rule; an area inside which everything was labelled.
Kind = Literal["cell", "point", "roi"]


@dataclass(frozen=True, slots=True)
class Annotation:
    """A labelled box, point or area.

    Attributes:
        annotation_id: unique within the file.
        source_label: the label in the file's own words.
        box: xyxy, slide px; as found, possibly broken: `faults` judges it. Of a point, the point twice.
        image: the picture or slide the file speaks of, usually a file name.
        image_size: width and height of that picture, px, where the file says so.
        geometry: outline as WKB in slide px, where the file has one.
        annotator: who drew it, where the file says so.
        row: place in the file, from 1, for messages.
        kind: what it is.
        problem: what the importer found wrong with it that box and outline do not show.
    """

    annotation_id: str
    source_label: str
    box: Box
    image: str
    image_size: tuple[int, int] | None = None
    geometry: bytes | None = None
    annotator: str | None = None
    row: int = 0
    kind: Kind = "cell"
    problem: str | None = None
