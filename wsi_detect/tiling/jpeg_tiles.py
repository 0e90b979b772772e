"""A patch as the slide's own JPEG tiles, untouched: the bytes of one chunk, and the pixels they mean.

A chunk decodes by itself, wherever it lies: 36 bytes of header, a u32 length for each tile (0: the slide has no such
tile), the tables its tiles share, the tiles, all little-endian and without gaps. Whatever a header claims is checked
before memory is asked for.
"""

import itertools
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import DamagedArtifactError
from wsi_detect.slides import jpeg
from wsi_detect.slides.jpeg import Colour, JpegFaultError

MAGIC = b"WJT1"
#: Side up to which a tile may be larger than the patch, px; a row of tiles lies in memory while it is decoded.
LARGEST_SMALL_TILE = 512

_HEADER = struct.Struct("<4sB3s4H2i3I")
_COLOURS: tuple[Colour, ...] = ("ycbcr", "rgb", "grey")
_WHITE = 255
#: Segments tables may be made of: Huffman and quantisation tables, and the restart interval. A frame there could
#: declare another size than the tile's own.
_TABLES = frozenset({0xC4, 0xDB, 0xDD})

Window = tuple[int, int, int, int]
_Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Mosaic:
    """A chunk taken apart; nothing is decoded yet.

    Attributes:
        content: the chunk, without its checksum.
        colour: of all tiles, as the slide declares it.
        shape: rows and columns of tiles.
        tile: height and width of a tile, px.
        origin: y, x of the patch's corner in the mosaic of tiles, px; within the first tile.
        inside: height and width of the part of the patch that lies on the slide, px.
        tables: JPEG tables the tiles share, or nothing.
        edges: where each tile begins in `content`, row by row, and where the last one ends.
    """

    content: bytes
    colour: Colour
    shape: tuple[int, int]
    tile: tuple[int, int]
    origin: tuple[int, int]
    inside: tuple[int, int]
    tables: bytes
    edges: tuple[int, ...]

    def stream(self, row: int, column: int) -> bytes:
        """Return a tile as the slide has it; nothing where it has none."""
        place = row * self.shape[1] + column
        return self.content[self.edges[place] : self.edges[place + 1]]


class _Span(NamedTuple):
    """What is wanted of one row or column of tiles: its number, its px from `low` to `high`, and where they go."""

    number: int
    low: int
    high: int
    start: int


def pack_tiles(
    tiles: Sequence[bytes],
    *,
    shape: tuple[int, int],
    tile: tuple[int, int],
    origin: tuple[int, int],
    inside: tuple[int, int],
    colour: Colour,
    tables: bytes = b"",
) -> bytes:
    """Join the tiles of a patch to a chunk, without checksum.

    Args:
        tiles: streams, row by row; empty where the slide has none. Checked by whoever read them.
        shape: rows and columns.
        tile: height and width of a tile, px.
        origin: y, x of the patch's corner in the mosaic, px; within the first tile.
        inside: height and width of the part of the patch that lies on the slide, px; the mosaic must cover it.
        colour: as the slide declares it.
        tables: JPEG tables the tiles share (SOI … EOI), or nothing.

    Raises:
        ValueError: the numbers do not fit together.
    """
    if len(tiles) != shape[0] * shape[1]:
        raise ValueError(f"{len(tiles)} tiles for {shape[0]} rows of {shape[1]}")
    fault = _fault(shape, tile, origin, inside)
    if fault:
        raise ValueError(f"not a patch of tiles: {fault}")
    header = _HEADER.pack(MAGIC, _COLOURS.index(colour), bytes(3), *shape, *tile, *origin, *inside, len(tables))
    lengths = struct.pack(f"<{len(tiles)}I", *map(len, tiles))
    return b"".join([header, lengths, tables, *tiles])


def unpack(content: bytes, side: int) -> Mosaic:
    """Take a chunk apart and check all it says.

    Args:
        content: the chunk, without its checksum.
        side: of the patch, px.

    Raises:
        DamagedArtifactError: the header makes no sense for a patch of that side, or the lengths do not add up.
    """
    if len(content) < _HEADER.size or content[:4] != MAGIC:
        raise DamagedArtifactError("is no chunk of JPEG tiles")
    _, colour, zeros, *numbers, table_bytes = _HEADER.unpack_from(content)
    shape, tile, origin, inside = (tuple(numbers[k : k + 2]) for k in range(0, 8, 2))
    fault = _fault(shape, tile, origin, inside)
    if colour >= len(_COLOURS) or zeros != bytes(3):
        fault = "another version of the format"
    elif not fault and not _bounded(shape, tile, inside, side):
        fault = f"{shape[0]} x {shape[1]} tiles of {tile[1]} x {tile[0]} px for a patch of {side} px"
    count = shape[0] * shape[1]
    start = _HEADER.size + 4 * count
    if fault or start + table_bytes > len(content):
        raise DamagedArtifactError(f"has a damaged header: {fault or 'more tiles than bytes'}")
    tables = content[start : start + table_bytes]
    lengths = struct.unpack_from(f"<{count}I", content, _HEADER.size)
    edges = tuple(itertools.accumulate(lengths, initial=start + table_bytes))
    if edges[-1] != len(content):
        raise DamagedArtifactError("has a damaged header: the lengths of its tiles do not add up")
    if not _only_tables(tables):
        raise DamagedArtifactError("has damaged JPEG tables")
    return Mosaic(content, _COLOURS[colour], shape, tile, origin, inside, tables, edges)


def decode_tiles(
    content: bytes, side: int, window: Window | None = None, out: _Image | None = None
) -> tuple[_Image, int]:
    """Decode a patch, or a window of it, from its tiles; those the window does not touch are left alone.

    Args:
        content: the chunk, without its checksum.
        side: of the patch, px.
        window: x0, y0, x1, y1 within the patch, px; None for all of it.
        out: contiguous (height, width, 3) uint8 to decode into.

    Returns:
        (height, width, 3) uint8, white where the slide has nothing; and how many px of it on the slide are white
        because the decoder refuses their tile.

    Raises:
        DamagedArtifactError: see `unpack`.
        ValueError: the window leaves the patch, or `out` does not fit it.
    """
    x0, y0, x1, y1 = window or (0, 0, side, side)
    mosaic = unpack(content, side)
    out = canvas((x0, y0, x1, y1), side, out)
    height, width = max(min(mosaic.inside[0], y1) - y0, 0), max(min(mosaic.inside[1], x1) - x0, 0)
    out[height:] = _WHITE
    out[:, width:] = _WHITE
    columns = list(_spans(x0 + mosaic.origin[1], width, mosaic.tile[1]))
    lost = sum(_decode_band(mosaic, row, columns, out) for row in _spans(y0 + mosaic.origin[0], height, mosaic.tile[0]))
    return out, lost


def single_jpeg(content: bytes, side: int) -> bytes | None:
    """Return a patch as one JPEG file that any program shows in the right colours; None unless it is a single tile.

    Args:
        content: the chunk, without its checksum.
        side: of the patch, px.

    Raises:
        DamagedArtifactError: see `unpack`.
    """
    mosaic = unpack(content, side)
    square = (side, side)
    stream = mosaic.stream(0, 0)
    if not stream or mosaic.shape != (1, 1) or not mosaic.tile == mosaic.inside == square:
        return None
    try:
        frame = jpeg.read_frame(stream)
        whole = (frame.height, frame.width) == square
        return jpeg.complete(stream, frame, mosaic.tables, mosaic.colour) if whole else None
    except JpegFaultError:
        return None


def canvas(window: Window, side: int, out: _Image | None) -> _Image:
    """Return what a window of a patch is decoded into: `out`, or new memory.

    Raises:
        ValueError: the window leaves the patch, or `out` is not a contiguous (height, width, 3) uint8.
    """
    x0, y0, x1, y1 = window
    if not (0 <= x0 < x1 <= side and 0 <= y0 < y1 <= side):
        raise ValueError(f"window {window} is not within a patch of {side} px")
    shape = (y1 - y0, x1 - x0, 3)
    if out is None:
        return np.empty(shape, dtype=np.uint8)
    if out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be a contiguous {shape} of uint8, got {out.shape} of {out.dtype}")
    return out


def _fault(shape: Sequence[int], tile: Sequence[int], origin: Sequence[int], inside: Sequence[int]) -> str:
    """What is wrong with the numbers of a header; nothing if they fit together."""
    if min(tile) < 1:
        return f"tiles of {tile[1]} x {tile[0]} px"
    if min(inside) < 1 or any(not 0 <= start < size for start, size in zip(origin, tile, strict=True)):
        return f"origin {origin} and {inside} px inside"
    # A row or column of tiles too few would leave white what the slide has; one too many is nobody's.
    needed = [-(-(start + length) // size) for start, length, size in zip(origin, inside, tile, strict=True)]
    return "" if list(shape) == needed else f"{shape[0]} x {shape[1]} tiles where {needed[0]} x {needed[1]} are needed"


def _bounded(shape: Sequence[int], tile: Sequence[int], inside: Sequence[int], side: int) -> bool:
    most = [side // size + 2 for size in tile]
    return (
        max(tile) <= max(side, LARGEST_SMALL_TILE)
        and max(inside) <= side
        and all(count <= limit for count, limit in zip(shape, most, strict=True))
    )


def _only_tables(tables: bytes) -> bool:
    """Whether a stream holds segments of `_TABLES` and remarks, and nothing else."""
    if not tables:
        return True
    place = 2
    while place + 4 <= len(tables):
        marker = tables[place + 1]
        if tables[place] != 0xFF or not (marker in _TABLES or 0xE0 <= marker <= 0xEF or marker == 0xFE):
            return False
        place += 2 + int.from_bytes(tables[place + 2 : place + 4])
    return tables[:2] == jpeg.SOI and tables[place:] == jpeg.EOI


def _spans(start: int, length: int, tile: int) -> Iterator[_Span]:
    """Cut `length` px of a mosaic where its tiles meet."""
    end = start + length
    for number in range(start // tile, -(-end // tile) if length else 0):
        edge = number * tile
        low, high = max(start - edge, 0), min(end - edge, tile)
        yield _Span(number, low, high, edge + low - start)


def _decode_band(mosaic: Mosaic, row: _Span, columns: Sequence[_Span], out: _Image) -> int:
    """Decode what is wanted of a row of tiles; returns how many px of it the decoder refuses.

    The tiles go into memory side by side, and from there into `out` in one go, row by row of px.
    """
    th, tw = mosaic.tile
    down = slice(row.start, row.start + row.high - row.low)
    if len(columns) == 1 and out[down].shape == (th, tw, 3):
        return _decode_tile(mosaic, row, columns[0], out[down])
    band = scratch((len(columns) * th, tw, 3)).reshape(-1, th, tw, 3)
    lost = sum(_decode_tile(mosaic, row, column, slot) for column, slot in zip(columns, band, strict=True))
    whole = [k for k, column in enumerate(columns) if column.high - column.low == tw]
    if whole:
        first = columns[whole[0]].start
        target = out[down, first : first + len(whole) * tw].reshape(-1, len(whole), tw, 3)
        target[...] = band[whole[0] : whole[-1] + 1, row.low : row.high].transpose(1, 0, 2, 3)
    for column, slot in zip(columns, band, strict=True):
        if column.high - column.low < tw:
            across = slice(column.start, column.start + column.high - column.low)
            out[down, across] = slot[row.low : row.high, column.low : column.high]
    return lost


def _decode_tile(mosaic: Mosaic, row: _Span, column: _Span, target: _Image) -> int:
    """Decode a tile into memory of its size, white where there is none; returns how many wanted px are refused."""
    stream = mosaic.stream(row.number, column.number)
    if not stream:
        target[...] = _WHITE
        return 0
    try:
        frame = jpeg.read_frame(stream)
        # The last tiles of a level may be cut to the level.
        if not (row.high <= frame.height <= mosaic.tile[0] and column.high <= frame.width <= mosaic.tile[1]):
            raise JpegFaultError(f"declares {frame.width} x {frame.height} px")
        stream = jpeg.complete(stream, frame, mosaic.tables, mosaic.colour)
        part = target[: frame.height, : frame.width]
        if part.flags.c_contiguous:
            jpeg.decode(stream, out=part)
        else:
            part[...] = jpeg.decode(stream, out=np.empty(part.shape, dtype=np.uint8))
    except JpegFaultError:
        target[...] = _WHITE
        return (row.high - row.low) * (column.high - column.low)
    return 0


def scratch(shape: tuple[int, int, int]) -> _Image:
    """Return memory of this thread for (H, W, 3) uint8, good until the next call.

    Fresh pages would cost a tenth of the decoding.
    """
    size = shape[0] * shape[1] * shape[2]
    memory: _Image | None = getattr(_memory, "bytes", None)
    if memory is None or len(memory) < size:
        memory = _memory.bytes = jpeg.buffer((size,))
    return memory[:size].reshape(shape)


_memory = threading.local()
