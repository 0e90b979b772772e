"""KFB, the file of KFBio's scanners: a header, JPEG tiles, and behind them a table that says where each one lies.

Experimental: the layout is known from descriptions, no real file was tried. What is not known for certain is checked
against the rest of the file and, in doubt, not used. Macro, label and preview pictures are never read.
"""

import logging
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import DamagedSlideError, UnsupportedSlideError
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.slides.tile_file import (
    EXPERIMENTAL,
    MAX_LEVELS,
    MAX_TILES,
    OBJECTIVES,
    TileFileReader,
    check_sizes,
    largest_stream,
    lose,
    with_stated_colour,
)
from wsi_detect.slides.tiles import TileLevel

_MAGIC, _KIND, _TILE_MARK = b"\xf1\x01\xee\xee", b"KFB", b"\xf1\x04\xee\xee"
_FLUORESCENCE = b"F"
#: Magic, kind, tile count, height, width, objective, codec, place of the table, µm per px, tile side.
_HEAD = struct.Struct("<4s4s8x4i8s28xQf8xi")
_RECORD = np.dtype(
    {
        "names": ["mark", "x", "y", "w", "h", "magnification", "length", "offset"],
        "formats": ["S4", "<i4", "<i4", "<i4", "<i4", "<f4", "<i4", "<i8"],
        "offsets": [0, 4, 8, 12, 16, 20, 32, 36],
        "itemsize": 64,
    }
)
#: How far from a power of two a magnification may lie, in powers.
_NEAR = 0.01
#: A reading of the coordinates wins over the other if that fits at most this share of the tiles it fits.
_CLEARLY = 0.75

_log = logging.getLogger(__name__)

_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Head:
    count: int
    height: int
    width: int
    objective: int
    table: int
    mpp: float
    tile: int


def accepts(path: Path) -> bool:
    """Whether the file begins like a KFB."""
    with path.open("rb") as stream:
        start = stream.read(7)
    return start == _MAGIC + _KIND


def open(path: Path, slide_id: str) -> TileFileReader:  # noqa: A001 - the name every format has
    """Open a slide.

    Raises:
        UnsupportedSlideError: a fluorescence slide, or tiles that are not JPEG.
        DamagedSlideError: the file is cut, or header and tile table contradict each other.
    """
    file_size = path.stat().st_size
    head = _read_head(path, file_size)
    # One more than there are: a tile's mark behind the last says that the count is wrong.
    records = np.fromfile(path, _RECORD, head.count + 1, offset=head.table)
    if len(records) < head.count or (records["mark"][head.count :] == _TILE_MARK).any():
        raise DamagedSlideError(
            f"{path}: its tile table has not the {head.count} records it should; copy the file again"
        )
    records = records[: head.count]
    found = _levels(path, head, records, file_size)
    _log.warning(EXPERIMENTAL, slide_id, "KFB")
    info = SlideInfo(
        slide_id=slide_id,
        path=path,
        width_px=head.width,
        height_px=head.height,
        mpp=head.mpp or None,
        mpp_source="file" if head.mpp else "missing",
        level_downsamples=tuple(float(1 << number) for number in found),
        objective_power=float(head.objective),
        vendor="KFBio (experimental)",
        native_tile_px=(head.tile, head.tile),
        stated_mpp=(head.mpp, head.mpp) if head.mpp else None,
        mpp_key="kfb header" if head.mpp else None,
    )
    return TileFileReader(info, with_stated_colour(path, list(found.values())))


def _read_head(path: Path, file_size: int) -> _Head:
    with path.open("rb") as stream:
        content = stream.read(_HEAD.size)
    if len(content) < _HEAD.size:
        raise DamagedSlideError(f"{path}: its KFB header is cut off; copy the file again")
    _, kind, count, height, width, objective, codec, table, mpp, tile = _HEAD.unpack(content)
    if kind[3:] == _FLUORESCENCE:
        raise UnsupportedSlideError(f"{path}: a fluorescence slide (KFBF); only bright field is read")
    if codec[:2] != b"JP":
        raise UnsupportedSlideError(
            f"{path}: its tiles are coded as {codec!r}, only JPEG is read; convert it to a pyramidal TIFF or SVS"
        )
    check_sizes(path, (width, height), (tile, tile))
    if objective not in OBJECTIVES:
        raise DamagedSlideError(f"{path}: its header says an objective of {objective}x; copy the file again")
    room = (file_size - table) // _RECORD.itemsize
    if not 1 <= count <= MAX_TILES or table < _HEAD.size or room < count:
        raise DamagedSlideError(
            f"{path}: its table of {count} tiles at byte {table} is not in the file of {file_size} bytes; "
            "copy the file again"
        )
    return _Head(count, height, width, objective, table, mpp, tile)


def _levels(path: Path, head: _Head, records: NDArray[np.void], file_size: int) -> dict[int, TileLevel]:
    """Levels by their power of two, finest first.

    A record that is broken may have been any tile's. So every place without a tile is then one that cannot be read,
    rather than bare glass.
    """
    numbers = _numbers(head, records)
    offsets, lengths = _streams(head, records, file_size)
    found: dict[int, TileLevel] = {}
    present = set(numbers.tolist())
    # Each level is half the one before; what lies beyond a gap was another level's once.
    gap = next((number for number in range(MAX_LEVELS) if number not in present), None)
    astray = int(((numbers < 0) | (gap is not None and numbers > gap)).sum())
    for number in range(MAX_LEVELS if gap is None else gap):
        mine = numbers == number
        cells, homeless = _cells(head, records[mine], number)
        astray += homeless
        # Beyond a level of one tile there is nothing worth having.
        if cells is not None and not (found and found[max(found)].lengths.size == 1):
            found[number] = _level(head, records[mine], number, cells, (offsets[mine], lengths[mine]), file_size)
    holes = sum(int((level.lengths == 0).sum()) for level in found.values())
    if 0 not in found or 2 * astray > len(records) or astray > holes:
        raise DamagedSlideError(
            f"{path}: {astray} of {len(records)} records of its tile table name no tile of a slide of "
            f"{head.width} x {head.height} px in tiles of {head.tile}; copy the file again, or convert it"
        )
    if astray:
        for level in found.values():
            lose(level.offsets, level.lengths, level.lengths == 0, file_size)
    return found


def _numbers(head: _Head, records: NDArray[np.void]) -> _Ints:
    """(N,) level of each record, -1 where it cannot be told; the last one sensible is that of a single px."""
    magnification = records["magnification"].astype(np.float64)
    told = (records["mark"] == _TILE_MARK) & np.isfinite(magnification) & (magnification > 0)
    power = np.log2(head.objective / np.where(told, magnification, 1.0))
    number = np.rint(power)
    told &= (np.abs(power - number) < _NEAR) & (number >= 0) & (number <= max(head.width, head.height).bit_length())
    return np.asarray(np.where(told, number, -1), dtype=np.int64)


def _streams(head: _Head, records: NDArray[np.void], file_size: int) -> tuple[_Ints, _Ints]:
    """(N,) byte in the file and (N,) length of each record's stream; one that cannot be is made unreadable."""
    offset, length = records["offset"].astype(np.int64), records["length"].astype(np.int64)
    # Compared before they are added: a wild offset would overflow.
    sound = (length > 0) & (length <= largest_stream((head.tile, head.tile)))
    sound &= (offset >= _HEAD.size - head.table) & (offset <= file_size - head.table - length)
    start = np.where(sound, offset, 0) + head.table
    lose(start, length, ~sound, file_size)
    return start, length


def _shape(head: _Head, number: int) -> tuple[int, int]:
    """Rows and columns of tiles of a level."""
    rows, columns = (-(-_halved(side, number) // head.tile) for side in (head.height, head.width))
    return rows, columns


def _halved(side: int, number: int) -> int:
    """A side halved so many times, rounded up."""
    return -(-side >> number)


def _cells(head: _Head, records: NDArray[np.void], number: int) -> tuple[_Ints | None, int]:
    """(N,) place of each record of a level in its grid, row by row, -1 where it has none; None if they are in doubt.

    Also how many records there are for no tile, or for one that another claims too.

    Writers differ in whether x and y count px of the level or of the full resolution. Of tiles that fill a level only
    one reading lies on the grid and inside; if few tiles leave both open, the level is not used.
    """
    own, full = (_on_grid(records, unit, _shape(head, number)) for unit in (head.tile, head.tile << number))
    fits_own, fits_full = (len(np.unique(cells[cells >= 0])) for cells in (own, full))
    homeless = len(records) - max(fits_own, fits_full)
    if min(fits_own, fits_full) > _CLEARLY * max(fits_own, fits_full) and not np.array_equal(own, full):
        return None, homeless
    return own if fits_own >= fits_full else full, homeless


def _on_grid(records: NDArray[np.void], unit: int, shape: tuple[int, int]) -> _Ints:
    column, beside = np.divmod(records["x"].astype(np.int64), unit)
    row, below = np.divmod(records["y"].astype(np.int64), unit)
    on = (beside == 0) & (below == 0) & (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
    return np.where(on, row * shape[1] + column, -1)


def _level(
    head: _Head,
    records: NDArray[np.void],
    number: int,
    cells: _Ints,
    streams: tuple[_Ints, _Ints],
    file_size: int,
) -> TileLevel:
    """A level; a tile that two records claim is lost, whosever it is."""
    shape = _shape(head, number)
    offsets, lengths = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    on = cells >= 0
    offsets.flat[cells[on]], lengths.flat[cells[on]] = streams[0][on], streams[1][on]
    claims = np.bincount(cells[on], minlength=offsets.size).reshape(shape)
    lose(offsets, lengths, claims > 1, file_size)
    row, column = np.divmod(cells, shape[1])
    width = _side(head.width, number, head.tile, records["w"][on & (column == shape[1] - 1)])
    height = _side(head.height, number, head.tile, records["h"][on & (row == shape[0] - 1)])
    return TileLevel(width, height, head.tile, head.tile, offsets, lengths, "ycbcr")


def _side(side: int, number: int, tile: int, last: NDArray[np.int32]) -> int:
    """Side of a level, px: halved up or down at each step, as the tiles of the last column or row tell."""
    low, high = side >> number, _halved(side, number)
    if len(last) == 0:
        return high
    told = (-(-high // tile) - 1) * tile + int(np.median(last))
    return told if max(low, 1) <= told <= high else high
