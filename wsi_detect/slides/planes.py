"""Which focal plane of a z-stack a patch is read from."""

from typing import Literal

from wsi_detect.slides.reader import SlideReader


def plane_of(
    reader: SlideReader, choice: int | Literal["middle", "sharpest"], x_px: int, y_px: int, size_px: int
) -> int:
    """Return the plane to read a square from."""
    if isinstance(choice, int):
        return choice
    return reader.info.focal_planes // 2
