"""Patches read in the order of the grid, each of the slide's own tiles decoded once.

Neighbouring patches share tiles. A decoded tile is kept until the last patch that needs it has been read: for a sweep
row by row that is the overlap of two rows of patches, whatever the height of the slide.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import DamagedSlideError
from wsi_detect.slides import jpeg
from wsi_detect.slides.jpeg import JpegFaultError
from wsi_detect.slides.planes import plane_of
from wsi_detect.slides.reader import SlideReader
from wsi_detect.slides.resample import read_at_mpp
from wsi_detect.slides.tiles import TileLevel, tiles_of
from wsi_detect.tiling.blank import BlankTiles

_Image = NDArray[np.uint8]
_WHITE = 255


@dataclass(frozen=True, slots=True, eq=False)
class SweptPatch:
    """One patch.

    Attributes:
        rgb: (patch_px, patch_px, 3) uint8; white where there is nothing.
        no_data: fraction of the part on the slide which the scanner left out.
        unreadable: fraction of that part which could not be decoded.
        skipped: fraction of that part painted in the colour of clean glass instead of decoded.
        plane: focal plane it was read from.
    """

    rgb: _Image
    no_data: float = 0.0
    unreadable: float = 0.0
    skipped: float = 0.0
    plane: int = 0


@dataclass(frozen=True, slots=True)
class PatchSize:
    """Side of every patch, as the slide has it and as it is rendered."""

    slide_px: int
    patch_px: int

    @property
    def step(self) -> int:
        """Slide px per patch px, where that is a whole number."""
        return self.slide_px // self.patch_px


class TileSweep:
    """The patches of a slide, to be read in order; not safe to share between threads."""

    def __init__(
        self,
        slide: SlideReader,
        origins: NDArray[np.int64],
        size: PatchSize,
        *,
        level: int | None = None,
        plane: int | Literal["middle", "sharpest"] = "middle",
        blank: BlankTiles | None = None,
    ) -> None:
        """Prepare to read.

        Args:
            slide: the open slide.
            origins: (N, 2) top-left corners of the patches as x, y, slide px, in the order they will be read.
            size: of every patch.
            level: of the slide whose px are the px of the patches, one to one; None resamples.
            plane: focal plane, or how to choose it.
            blank: tiles that need not be decoded.
        """
        self._slide, self._origins, self._size, self._choice = slide, origins, size, plane
        tiles = tiles_of(slide)
        table = None if tiles is None or level is None else tiles.levels[level]
        self._tiles = None
        if level is not None and table is not None and slide.info.focal_planes == 1:
            self._tiles = _TileCache(slide, level, origins // size.step, size, blank)

    def __len__(self) -> int:
        return len(self._origins)

    def read(self, i: int, out: _Image | None = None) -> SweptPatch:
        """Read a patch; each once, in order, costs least.

        Args:
            i: place of the patch in `origins`.
            out: contiguous (patch_px, patch_px, 3) uint8 to read into.
        """
        if self._tiles is not None:
            return self._tiles.read(i, out)
        x, y = (int(value) for value in self._origins[i])
        plane = plane_of(self._slide, self._choice, x, y, self._size.slide_px)
        region = read_at_mpp(self._slide, x, y, self._size.slide_px, self._size.patch_px, plane=plane)
        if out is not None:
            out[...] = region.rgb
        return SweptPatch(region.rgb if out is None else out, region.no_data, region.unreadable, 0.0, plane)


class _TileCache:
    """Patches put together from decoded tiles."""

    def __init__(
        self, slide: SlideReader, level: int, origins: NDArray[np.int64], size: PatchSize, blank: BlankTiles | None
    ) -> None:
        """Prepare; `origins` in px of the level."""
        tiles = tiles_of(slide)
        table = None if tiles is None else tiles.levels[level]
        if tiles is None or table is None:
            raise ValueError("the slide has no tiles at this level")
        self._slide, self._source, self._level, self._table, self._blank = slide, tiles, level, table, blank
        self._origins, self._side, self._step = origins, size.patch_px, size.step
        self._kept: dict[tuple[int, int], _Image | str] = {}
        self._free: list[_Image] = []
        #: The place of the patch that needs a tile last.
        self._last = np.full(table.shape, -1, dtype=np.int64)
        for i, (x, y) in enumerate(origins.tolist()):
            down, across = needed(table, x, y, self._side)
            self._last[down.start : down.stop, across.start : across.stop] = i

    def read(self, i: int, out: _Image | None) -> SweptPatch:
        """Put a patch together."""
        x, y = (int(value) for value in self._origins[i])
        side, table = self._side, self._table
        rgb = np.empty((side, side, 3), dtype=np.uint8) if out is None else out
        wide, high = min(side, table.width - x), min(side, table.height - y)
        rgb[high:] = _WHITE
        rgb[:, wide:] = _WHITE
        lost = {"no_data": 0, "unreadable": 0, "skipped": 0}
        down, across = needed(table, x, y, side)
        for r in down:
            top = r * table.tile_height
            b, d = max(top, y), min(top + table.tile_height, y + high)
            for c in across:
                left = c * table.tile_width
                a, e = max(left, x), min(left + table.tile_width, x + wide)
                pixels = self._tile(i, r, c)
                target = rgb[b - y : d - y, a - x : e - x]
                if isinstance(pixels, str):
                    lost[pixels] += (d - b) * (e - a)
                    target[...] = self._row_of_colour(r, c, e - a) if pixels == "skipped" else _WHITE
                else:
                    target[...] = pixels[b - top : d - top, a - left : e - left]
        inside = max(wide * high, 1)
        return SweptPatch(rgb, lost["no_data"] / inside, lost["unreadable"] / inside, lost["skipped"] / inside)

    def _tile(self, i: int, r: int, c: int) -> "_Image | str":
        """Pixels of a tile, or why there are none."""
        key = (r, c)
        found = self._kept.get(key)
        if found is None:
            found = self._decode(r, c)
            if self._last[key] > i:
                self._kept[key] = found
            elif not isinstance(found, str):
                self._free.append(found)
        elif self._last[key] <= i:
            del self._kept[key]
            if not isinstance(found, str):
                self._free.append(found)
        return found

    def _decode(self, r: int, c: int) -> "_Image | str":
        if self._blank is not None and self._blank.tiles[r, c]:
            return "skipped"
        table = self._table
        buffer = self._free.pop() if self._free else jpeg.buffer((table.tile_height, table.tile_width, 3))
        try:
            pixels = self._source.decode(self._level, r, c, out=buffer)
        except JpegFaultError:
            return self._second_opinion(r, c)
        if pixels is None:
            # On coarser levels a reader may know how to fill the hole from a finer one.
            return self._second_opinion(r, c) if self._level else "no_data"
        if pixels.shape != buffer.shape:
            buffer[: pixels.shape[0], : pixels.shape[1]] = pixels
        return buffer

    def _second_opinion(self, r: int, c: int) -> "_Image | str":
        """Ask the slide's reader, which may know another way to the pixels."""
        table = self._table
        x, y = c * table.tile_width, r * table.tile_height
        try:
            rgb, valid = self._slide.read_region(
                x * self._step, y * self._step, self._level, table.tile_width, table.tile_height
            )
        except DamagedSlideError:
            return "unreadable"
        return "no_data" if valid is not None and not valid.any() else rgb

    def _row_of_colour(self, r: int, c: int, width: int) -> NDArray[np.uint8] | int:
        """Return (width, 3) in a blank tile's colour: numpy lays a row 50 times faster than a single px."""
        return _WHITE if self._blank is None else np.tile(self._blank.colours[r, c], (width, 1))


def needed(table: TileLevel, x: int, y: int, side: int) -> tuple[range, range]:
    """Rows and columns of the tiles that hold a square of a level (level px); only those on the level."""
    down = range(max(y, 0) // table.tile_height, -(-min(y + side, table.height) // table.tile_height))
    across = range(max(x, 0) // table.tile_width, -(-min(x + side, table.width) // table.tile_width))
    return down, across
