"""Which focal plane of a z-stack a patch is read from."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import DamagedSlideError, UnsupportedSlideError
from wsi_detect.slides.reader import SlideReader

PlaneChoice = int | Literal["middle", "sharpest"]

#: Largest side of the window that is looked at, slide px. Cells are 30 to 300 px wide at scanning resolution.
_WINDOW_PX = 512
#: Planes whose score comes this near to the best are equally sharp: noise alone moves it by less.
_TIE = 0.98


def plane_of(reader: SlideReader, choice: PlaneChoice, x_px: int, y_px: int, size_px: int) -> int:
    """Return the plane to read a square from.

    The sharpest is the one with the strongest edges in the middle quarter of the square, at level 0. Of planes equally
    sharp, as on clean glass, the one nearest to the middle of the stack is taken, and of two as near the lower.

    Args:
        reader: the slide.
        choice: a plane's number, `middle`, or `sharpest`; the middle of an even number of planes is the upper one.
        x_px: left edge of the square, slide px; it may reach beyond the slide.
        y_px: top edge, slide px.
        size_px: side, slide px.

    Raises:
        UnsupportedSlideError: the slide has no such plane.
    """
    count = reader.info.focal_planes
    if isinstance(choice, int):
        if not 0 <= choice < count:
            raise UnsupportedSlideError(
                f"slide {reader.info.slide_id} has {count} focal plane(s), counted from 0, not a plane {choice}"
            )
        return choice
    middle = count // 2
    if choice == "middle" or count == 1:
        return middle
    side = max(1, min(size_px // 2, _WINDOW_PX))
    corner = x_px + (size_px - side) // 2, y_px + (size_px - side) // 2
    scores = [_sharpness(reader, plane, corner, side) for plane in range(count)]
    best = max(scores)
    return min((k for k in range(count) if scores[k] >= _TIE * best), key=lambda plane: (abs(plane - middle), plane))


def _sharpness(reader: SlideReader, plane: int, corner: tuple[int, int], side: int) -> float:
    """Mean square of the grey difference over two px, across and down; 0 where the plane cannot be decoded."""
    try:
        rgb, _ = reader.read_region(*corner, 0, side, side, plane=plane)
    except DamagedSlideError:
        return 0.0
    # Green alone: stains absorb it most, and JPEG keeps it at full resolution.
    grey: NDArray[np.int32] = rgb[..., 1].astype(np.int32)
    across, down = grey[:, 2:] - grey[:, :-2], grey[2:] - grey[:-2]
    return float(np.square(across).sum() + np.square(down).sum()) / side**2
