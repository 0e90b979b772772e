"""A slide as what it is on disk: a grid of JPEG tiles a level, in one file.

Every format of that kind (TIFF, KFB, SDPC, DICOM) only has to say where its tiles lie; reading, checking, decoding and
putting together are here. The tiler copies from here too, tile by tile, without decoding.
"""

import functools
import itertools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import DamagedSlideError
from wsi_detect.slides import jpeg
from wsi_detect.slides.jpeg import Colour, JpegFaultError
from wsi_detect.slides.reader import Pixels

_Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class TileLevel:
    """Where the tiles of one level lie.

    Attributes:
        width: of the level, px; its last column of tiles may reach beyond.
        height: of the level, px.
        tile_width: px.
        tile_height: px.
        offsets: (rows, columns) int64, byte in the file at which each tile's stream begins.
        lengths: (rows, columns) int64, bytes of each stream; 0 where the file has no such tile.
        colour: as the file declares it.
        tables: JPEG tables all tiles share (SOI … EOI), or nothing.
        header: for files that cut one large JPEG at its restart markers: what makes a stream of each part, put before
            it; the restart marker that ends the part gives way to an end marker.
        whole: tiles at the right and bottom edge are as large as the others; else they may end with the level.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    colour: Colour
    tables: bytes = b""
    header: bytes = b""
    whole: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        rows, columns = self.offsets.shape
        return rows, columns


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile as it lies in the file, headers checked: `stream` untouched, `frame` what it says of itself."""

    stream: bytes
    frame: jpeg.Frame


class JpegTiles:
    """The tiles of a slide file; safe to use from several threads.

    Attributes:
        levels: one entry a level of the slide, None where a level is not made of baseline JPEG tiles.
    """

    def __init__(self, path: Path, levels: Sequence[TileLevel | None]) -> None:
        """Open the file.

        Raises:
            FileNotFoundError: it has gone.
        """
        self.levels = tuple(levels)
        self._path = path
        self._file = os.open(path, os.O_RDONLY)
        self._local = threading.local()

    def tile(self, level: int, row: int, column: int) -> Tile | None:
        """Return a tile that may be decoded or copied; None where the file has none.

        Raises:
            JpegFaultError: it is cut off, is no baseline JPEG, or declares another size than the slide does.
        """
        table = self._table(level)
        length = int(table.lengths[row, column])
        if length == 0:
            return None
        offset = int(table.offsets[row, column])
        if table.header:
            number = row * table.shape[1] + column
            stream = table.header + _restarted(self._bytes(offset - 2, length + 2), number, table.offsets.size)
        else:
            stream = self._bytes(offset, length)
        frame = jpeg.read_frame(stream)
        if not _fits(table, row, column, frame):
            raise JpegFaultError(f"declares {frame.width} x {frame.height} px")
        if frame.components != (1 if table.colour == "grey" else 3):
            raise JpegFaultError(f"has {frame.components} components, the slide is {table.colour}")
        return Tile(stream, frame)

    def decode(self, level: int, row: int, column: int, *, reduce: int = 1, out: _Image | None = None) -> _Image | None:
        """Decode a tile to (h, w, 3) RGB; None where the file has none.

        Args:
            level: of the slide.
            row: of the tile.
            column: of the tile.
            reduce: shrink by this while decoding, one of `jpeg.REDUCTIONS`.
            out: contiguous (h, w, 3) of the tile's full size to decode into.

        Raises:
            JpegFaultError: see `tile`, or the decoder refuses.
        """
        tile = self.tile(level, row, column)
        if tile is None:
            return None
        table = self._table(level)
        stream = jpeg.complete(tile.stream, tile.frame, table.tables, table.colour)
        shape = (tile.frame.height, tile.frame.width)
        fits = out is not None and out.shape[:2] == shape and reduce == 1
        return jpeg.decode(stream, reduce=reduce, shape=shape, out=out if fits else None)

    def read(self, level: int, x: int, y: int, width: int, height: int, *, reduce: int = 1) -> Pixels:
        """Read a rectangle of a level.

        Args:
            level: of the slide; one of which `levels` is not None.
            x: left edge, px of the level shrunk by `reduce`; may lie outside.
            y: top edge, likewise.
            width: px of the shrunk level.
            height: px of the shrunk level.
            reduce: one of `jpeg.REDUCTIONS`, all of which must divide the tile's sides.

        Returns:
            As `SlideReader.read_region`.

        Raises:
            JpegFaultError: a tile it needs is damaged; the text says which.
        """
        table = self._table(level)
        tw, th = table.tile_width // reduce, table.tile_height // reduce
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + width, -(-table.width // reduce)), min(y + height, -(-table.height // reduce))
        rows = range(y0 // th, -(-y1 // th) if x1 > x0 else 0)
        columns = range(x0 // tw, -(-x1 // tw) if y1 > y0 else 0)
        complete = (x0, y0, x1, y1) == (x, y, x + width, y + height) and _all_present(table, rows, columns)
        # White is laid only where something may be missing: a patch is 3 MB, and writing it twice shows.
        rgb = np.empty((height, width, 3), np.uint8) if complete else np.full((height, width, 3), 255, np.uint8)
        valid = None if complete else np.zeros((height, width), dtype=np.bool_)
        for row, column in itertools.product(rows, columns):
            pixels = self._part(level, row, column, reduce)
            if pixels is None:
                continue
            left, top = column * tw, row * th
            a, b, c, d = max(left, x0), max(top, y0), min(left + tw, x1), min(top + th, y1)
            rgb[b - y : d - y, a - x : c - x] = pixels[b - top : d - top, a - left : c - left]
            if valid is not None:
                valid[b - y : d - y, a - x : c - x] = True
        return rgb, valid

    def lacks(self, level: int, x: int, y: int, width: int, height: int) -> bool:
        """Whether a level leaves out a tile under a rectangle although a finer level has data there; level px.

        What belongs into such a gap only the reader knows.
        """
        cover = self._covers[level]
        return bool((cover.some & ~cover.present)[self._under(level, x, y, width, height)].any())

    def certain(self, level: int, x: int, y: int, width: int, height: int) -> bool:
        """Whether each tile under a rectangle has data on this and all finer levels, or on none of them; level px.

        Some readers take a place out of all levels if the finest leaves it out, whatever the others hold.
        """
        cover = self._covers[level]
        return bool((cover.full | ~cover.some)[self._under(level, x, y, width, height)].all())

    def _under(self, level: int, x: int, y: int, width: int, height: int) -> tuple[slice, slice]:
        """The tiles a rectangle touches."""
        table = self._table(level)
        return (
            slice(max(y, 0) // table.tile_height, max(-(-(y + height) // table.tile_height), 0)),
            slice(max(x, 0) // table.tile_width, max(-(-(x + width) // table.tile_width), 0)),
        )

    @functools.cached_property
    def _covers(self) -> list["_Cover"]:
        covers: list[_Cover] = []
        for number, table in enumerate(self.levels):
            if table is None:
                nothing = np.zeros((0, 0), np.bool_)
                covers.append(_Cover(nothing, nothing, nothing))
                continue
            present = table.lengths > 0
            finer = self.levels[number - 1] if number else None
            if number == 0:
                covers.append(_Cover(present, present, present))
            elif finer is None:
                covers.append(_Cover(present, np.zeros_like(present), np.ones_like(present)))
            else:
                below = covers[-1]
                full = present & ~_any_below(table, finer, ~below.full)
                covers.append(_Cover(present, full, present | _any_below(table, finer, below.some)))
        return covers

    def close(self) -> None:
        """Give the file back; closing twice is allowed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _part(self, level: int, row: int, column: int, reduce: int) -> _Image | None:
        """A decoded tile, full size in this thread's buffer; a fault says which tile it is."""
        buffer = self._buffer(self._table(level)) if reduce == 1 else None
        try:
            return self.decode(level, row, column, reduce=reduce, out=buffer)
        except JpegFaultError as error:
            raise JpegFaultError(f"tile {column}, {row} of level {level} {error}") from error

    def _bytes(self, offset: int, length: int) -> bytes:
        try:
            stream = os.pread(self._file, length, offset)
        # An offset no file can have, or a share that does not answer.
        except (OSError, OverflowError, MemoryError) as error:
            raise JpegFaultError(f"cannot be read: {error}") from error
        if len(stream) < length:
            raise JpegFaultError("reaches beyond the end of the file")
        return stream

    def _table(self, level: int) -> TileLevel:
        table = self.levels[level]
        if table is None:
            raise ValueError(f"level {level} is not made of baseline JPEG tiles")
        if self._file < 0:
            raise ValueError("the slide is closed")
        return table

    def _buffer(self, table: TileLevel) -> _Image:
        """A tile's worth of memory for this thread: fresh pages would cost a tenth of the decoding."""
        shape = (table.tile_height, table.tile_width, 3)
        buffer: _Image | None = getattr(self._local, "buffer", None)
        if buffer is None or buffer.shape != shape:
            buffer = self._local.buffer = jpeg.buffer(shape)
        return buffer


def _fits(table: TileLevel, row: int, column: int, frame: jpeg.Frame) -> bool:
    """Whether a frame has the size of its tile; at the right and bottom edge it may end with the level."""
    width, height = table.tile_width, table.tile_height
    if (frame.width, frame.height) == (width, height) or table.whole:
        return (frame.width, frame.height) == (width, height)
    # Never larger than a tile: a stream that claims the rest of the slide would have it decoded whole.
    wide, high = min(width, table.width - column * width), min(height, table.height - row * height)
    return frame.width in (width, wide) and frame.height in (height, high)


def _restarted(part: bytes, number: int, count: int) -> bytes:
    """What lies between two restart markers, ended like a stream; `part` begins with the marker before it.

    Restart markers count the parts, so an index that points astray is noticed.
    """
    if number > 0 and part[:2] != _restart(number - 1):
        raise JpegFaultError("does not begin at its restart marker")
    if number == count - 1:
        return part[2:]
    if part[-2:] != _restart(number):
        raise JpegFaultError("does not end at its restart marker")
    return part[2:-2] + jpeg.EOI


def _restart(number: int) -> bytes:
    return bytes([0xFF, 0xD0 + number % 8])


@dataclass(frozen=True, slots=True, eq=False)
class _Cover:
    """For each tile of a level, (rows, columns): is it there, it and all finer ones it overlaps, it or any of those."""

    present: NDArray[np.bool_]
    full: NDArray[np.bool_]
    some: NDArray[np.bool_]


def _any_below(table: TileLevel, finer: TileLevel, data: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """For each tile, (rows, columns): `data` holds for some tile of the finer level that it overlaps."""
    sums = np.pad(data.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    y0, y1 = _span(table.shape[0], table.tile_height * finer.height / table.height / finer.tile_height, data.shape[0])
    x0, x1 = _span(table.shape[1], table.tile_width * finer.width / table.width / finer.tile_width, data.shape[1])
    return np.asarray(sums[np.ix_(y1, x1)] - sums[np.ix_(y0, x1)] - sums[np.ix_(y1, x0)] + sums[np.ix_(y0, x0)] > 0)


def _span(count: int, ratio: float, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and past-the-last finer tile that each of `count` tiles overlaps, each as long as `ratio` finer ones."""
    edges = np.arange(count + 1) * ratio
    first, last = np.floor(edges[:-1] + 1e-9), np.ceil(edges[1:] - 1e-9)
    return np.minimum(first, limit).astype(np.int64), np.minimum(last, limit).astype(np.int64)


def _all_present(table: TileLevel, rows: range, columns: range) -> bool:
    lengths = table.lengths[rows.start : rows.stop, columns.start : columns.stop]
    return bool(lengths.all())


@runtime_checkable
class TiledReader(Protocol):
    """A `SlideReader` whose file is made of JPEG tiles.

    Attributes:
        tiles: of the open slide, its levels those of `info`; None if none of its levels is.
    """

    tiles: JpegTiles | None


def tiles_of(reader: object) -> JpegTiles | None:
    """Return the JPEG tiles of an open slide, if that is what it is made of."""
    return reader.tiles if isinstance(reader, TiledReader) else None


def damaged(slide_id: str, error: JpegFaultError) -> DamagedSlideError:
    """Return the slide's error for a tile's."""
    return DamagedSlideError(f"slide {slide_id}: {error}")
