"""One expert's label, as a vendor's file states it: before the label is translated and the slide is known."""

from dataclasses import dataclass

from wsi_detect.geometry import Box


@dataclass(frozen=True, slots=True)
class Annotation:
    """A labelled box.

    Attributes:
        annotation_id: unique within the file.
        source_label: the label in the file's own words.
        box: xyxy, slide px; as found, possibly broken: `importer` judges it.
        image: the picture or slide the file speaks of, usually a file name.
        image_size: width and height of that picture, px, where the file says so.
        geometry: outline as WKB in slide px, where the file has one.
        annotator: who drew it, where the file says so.
        row: place in the file, from 1, for messages.
    """

    annotation_id: str
    source_label: str
    box: Box
    image: str
    image_size: tuple[int, int] | None = None
    geometry: bytes | None = None
    annotator: str | None = None
    row: int = 0
