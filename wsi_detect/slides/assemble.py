"""A rectangle put together from decoded tiles, and a bounded memory of them: for formats whose tiles are not JPEG."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.slides.reader import Pixels

#: Decoded tiles kept for each open slide: some two rows of patches of 1024 px.
CACHE_BYTES = 64 << 20
#: What a stream may take beyond its pixels: tables, comments, a colour profile.
_HEADROOM = 1 << 20

_Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A level cut into tiles, px; the last row and column may reach beyond it."""

    width: int
    height: int
    tile_width: int
    tile_height: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.height // self.tile_height), -(-self.width // self.tile_width)


def step_between(whole: tuple[int, int], small: tuple[int, int]) -> float | None:
    """Return how many px of a picture one of a smaller copy spans, None if it is no smaller copy.

    Args:
        whole: width and height, px.
        small: likewise.
    """
    sides = list(zip(whole, small, strict=True))
    if any(not 1 <= short <= long for long, short in sides):
        return None
    step = sum(long / short for long, short in sides) / 2
    # Halving rounds up or down, so that the ratio is seldom a whole number where the step is.
    exact = round(step)
    if all(short in (long // exact, -(-long // exact)) for long, short in sides):
        step = float(exact)
    return step if all(abs(long / step - short) <= 1 for long, short in sides) else None


def assemble(
    sheet: Sheet, corner: tuple[int, int], size: tuple[int, int], tile: Callable[[int, int], _Image | None]
) -> Pixels:
    """Put a rectangle of a level together.

    Args:
        sheet: the level.
        corner: left and top edge, level px; may lie outside.
        size: width and height, level px.
        tile: row and column → (h, w, 3) RGB, at least what of the tile lies on the level; None where the file has none.

    Returns:
        As `SlideReader.read_region`.
    """
    (x, y), (width, height) = corner, size
    rgb = np.full((height, width, 3), 255, dtype=np.uint8)
    valid = np.zeros((height, width), dtype=np.bool_)
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + width, sheet.width), min(y + height, sheet.height)
    for row in range(y0 // sheet.tile_height, -(-y1 // sheet.tile_height) if x1 > x0 else 0):
        for column in range(x0 // sheet.tile_width, -(-x1 // sheet.tile_width) if y1 > y0 else 0):
            pixels = tile(row, column)
            if pixels is None:
                continue
            left, top = column * sheet.tile_width, row * sheet.tile_height
            a, b = max(left, x0), max(top, y0)
            c, d = min(left + sheet.tile_width, x1), min(top + sheet.tile_height, y1)
            rgb[b - y : d - y, a - x : c - x] = pixels[b - top : d - top, a - left : c - left]
            valid[b - y : d - y, a - x : c - x] = True
    return rgb, None if bool(valid.all()) else valid


def read_stream(file: int, offset: int, length: int, raw: int) -> bytes:
    """Read the stream of a tile from an open file.

    Args:
        file: its descriptor.
        offset: at which the stream begins.
        length: in bytes, as the file claims.
        raw: bytes of the decoded tile, of which a stream is at most twice as long, or a little more if it is short.

    Raises:
        ValueError: there is not as much, or it claims to be far longer than any stream of such a tile.
    """
    if not 0 <= length <= 2 * raw + _HEADROOM:
        raise ValueError(f"it is said to take {length} bytes")
    data = os.pread(file, length, offset)
    if len(data) < length:
        raise ValueError("it reaches beyond the end of the file")
    return data


class TileCache:
    """The tiles decoded last; safe to use from several threads."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        """Keep up to `limit` bytes, and always the last tile, however large."""
        self._limit = limit
        self._kept: OrderedDict[Hashable, _Image] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable, decode: Callable[[], _Image]) -> _Image:
        """Return the tile kept under a key, decoding it if there is none; it must not be written to."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = decode()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += made.nbytes
            while self._bytes > self._limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return made

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0
