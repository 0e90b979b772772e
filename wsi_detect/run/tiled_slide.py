"""The slide file that belongs to a store: opened again for its px, and refused if it is another one."""

from pathlib import Path

from wsi_detect import artifact
from wsi_detect.errors import MissingSlideError, StaleArtifactError
from wsi_detect.slides.reader import SlideReader
from wsi_detect.tiling.journal import STORE
from wsi_detect.tiling.patch_store import read_attributes
from wsi_detect.tiling.tiler import SlideSource


def open_tiled(folder: Path, slide: Path) -> SlideReader:
    """Open the slide of a folder at the resolution it was tiled at.

    Args:
        folder: of the slide, with its `patches.zarr`.
        slide: the slide file.

    Raises:
        MissingSlideError: there is no such file.
        StaleArtifactError: the patches were made from another file. Size and resolution do not tell: one scanner gives
            many slides the same.
    """
    key = read_attributes(folder / STORE)["key"]
    if not slide.is_file():
        raise MissingSlideError(f"{slide} does not exist; give the slide file that {folder} was made from")
    if artifact.fingerprint(slide) != key["slide"]:
        raise StaleArtifactError(
            f"{slide} is not the slide {folder} was made from, or it has changed since; give that file, or tile this "
            "one again"
        )
    given = None if key["mpp_source"] == "file" else key["mpp"]
    return SlideSource(slide, given, key["mpp_source"], key["slide_id"]).open()
