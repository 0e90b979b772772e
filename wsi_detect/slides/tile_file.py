"""Slide files that are a header, tables of places, and JPEG tiles: what they share once the header is read.

Every number of a header is a claim. The limits here are checked before anything is allocated or read by one.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import DamagedSlideError
from wsi_detect.slides import jpeg
from wsi_detect.slides.jpeg import Colour, JpegFaultError
from wsi_detect.slides.reader import Pixels, SlideInfo, check_request
from wsi_detect.slides.tiles import JpegTiles, TileLevel, damaged

#: Longest side of a level, px: 10 cm of glass at 0.1 µm.
MAX_SIDE_PX = 1 << 20
#: Tiles of one level, and of one table.
MAX_TILES = 1 << 22
#: Sides a tile can have, px.
TILE_SIDES = range(16, 4097)
MAX_LEVELS = 16
#: Magnifications an objective can have.
OBJECTIVES = range(1, 201)

EXPERIMENTAL = "slide %s: %s is read experimentally: no real file was ever tried; check positions and colours"

#: What a stream may take beyond its raw pixels: tables and comments.
_HEADROOM = 1 << 16
#: Stored tiles asked for their colours before giving up.
_ASKED = 8


class TileFileReader:
    """An open slide all of whose levels are JPEG tiles.

    Attributes:
        info: facts of the slide.
        tiles: of the slide.
    """

    def __init__(self, info: SlideInfo, levels: Sequence[TileLevel]) -> None:
        """Open the file; `levels` are those of `info`."""
        self.info = info
        self._stored = JpegTiles(info.path, levels)
        self.tiles: JpegTiles | None = self._stored

    def read_region(self, x_px: int, y_px: int, level: int, width: int, height: int, *, plane: int = 0) -> Pixels:
        """Read a rectangle; see `SlideReader.read_region`. A corner between two px of a level goes to the nearest.

        A coarse level that lacks what a finer one has is damaged there: white would pass for glass without cells.
        """
        check_request(self.info, level, width, height, plane)
        step = self.info.level_downsamples[level]
        x, y = (int(np.floor(corner / step + 0.5)) for corner in (x_px, y_px))
        if self._stored.lacks(level, x, y, width, height):
            raise DamagedSlideError(
                f"slide {self.info.slide_id}: level {level} lacks a tile at ({x_px}, {y_px}) that finer levels have"
            )
        try:
            return self._stored.read(level, x, y, width, height)
        except JpegFaultError as error:
            raise damaged(self.info.slide_id, error) from error

    def close(self) -> None:
        """Give the file back."""
        self._stored.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def check_sizes(path: Path, size: tuple[int, int], tile: tuple[int, int]) -> None:
    """Refuse a slide of impossible size: (width, height) px of level 0 and of a tile.

    Raises:
        DamagedSlideError: a side, or the number of tiles, is beyond the limits above.
    """
    sides = f"{size[0]} x {size[1]} px in tiles of {tile[0]} x {tile[1]}"
    fits = all(1 <= side <= MAX_SIDE_PX for side in size) and all(side in TILE_SIDES for side in tile)
    if not fits or -(-size[0] // tile[0]) * -(-size[1] // tile[1]) > MAX_TILES:
        raise DamagedSlideError(f"{path}: its header says {sides}, which no slide has; copy the file again")


def largest_stream(tile: tuple[int, int]) -> int:
    """Bytes a tile's stream can have."""
    return 3 * tile[0] * tile[1] + _HEADROOM


def lose(offsets: NDArray[np.int64], lengths: NDArray[np.int64], where: NDArray[np.bool_], file_size: int) -> None:
    """Turn tiles into ones that cannot be read, in place: to the reader damage, where length 0 would be bare glass."""
    offsets[where], lengths[where] = file_size, 1


def with_stated_colour(path: Path, levels: Sequence[TileLevel]) -> list[TileLevel]:
    """Return the levels in the colours their streams state, for formats whose headers are silent on them.

    Args:
        path: of the slide.
        levels: finest first; the first sound tile of that one speaks for all.
    """
    colour = _stated_colour(path, levels[0])
    return [replace(level, colour=colour) for level in levels]


def _stated_colour(path: Path, level: TileLevel) -> Colour:
    with path.open("rb") as stream:
        for place in np.flatnonzero(level.lengths)[:_ASKED]:
            offset, length = int(level.offsets.flat[place]), int(level.lengths.flat[place])
            try:
                frame = jpeg.read_frame(os.pread(stream.fileno(), length, offset))
            except JpegFaultError:
                continue
            if frame.components == 1:
                return "grey"
            named = frame.adobe is None and not frame.jfif and frame.ids == b"RGB"
            return "rgb" if frame.adobe == 0 or named else "ycbcr"
    return "ycbcr"
