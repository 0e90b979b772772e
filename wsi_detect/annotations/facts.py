"""What an annotation file does not say of itself: which slides there are, what numbers and columns mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsi_detect.errors import LabelError

_LISTED = 20


@dataclass(frozen=True, slots=True)
class SlideFacts:
    """What importers may need of a slide.

    Attributes:
        slide_id: of the slide.
        size_px: width and height, slide px; None if nobody looked.
        mpp: µm per slide px; None if nobody knows.
        centre_um: where the centre of the picture lies, µm from the centre of the glass along x and y; only NDPA asks,
            and only Hamamatsu's slide files say it.
    """

    slide_id: str
    size_px: tuple[int, int] | None = None
    mpp: float | None = None
    centre_um: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What the user says of a source.

    Attributes:
        slides: slides by the name that annotations call them, usually a file name.
        slide: name of the slide that a file of one slide speaks of, where its own name does not say so.
        names: class names in the order of their numbers (YOLO).
        columns: our name of a column → the file's (table); see `table.COLUMNS`.
        first_px: number of the first px of a row in VOC files: 0, corners in px from the edge, as nearly all programs
            write them; 1, numbers of the first and of the last px inside, as the VOC development kit defines them.
    """

    slides: Mapping[str, SlideFacts]
    slide: str | None = None
    names: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    first_px: Literal[0, 1] = 0

    def slide_of(self, path: Path) -> str:
        """Return the name of the slide that a file of one slide is about.

        That is `slide` if given; else the slide whose file name the annotation file's begins with: `a.svs.geojson` or
        `a.geojson` is about `a.svs`.

        Raises:
            LabelError: no slide, or more than one, is called so.
        """
        if self.slide is not None:
            return self.slide
        name = path.name.removesuffix(".gz")
        stems = {name, Path(name).stem}
        exact = [slide for slide in self.slides if slide in stems]
        found = exact or [slide for slide in self.slides if Path(slide).stem in stems]
        if len(found) != 1:
            which = "no slide is" if not found else f"{len(found)} slides are"
            known = ", ".join(sorted(self.slides)[:_LISTED])
            raise LabelError(f"{path}: {which} called like it (slides: {known}); name the slide it is about")
        return found[0]

    def size_of(self, image: str) -> tuple[int, int] | None:
        """Return width and height of a slide, px, where they are known."""
        known = self.slides.get(image)
        return None if known is None else known.size_px
