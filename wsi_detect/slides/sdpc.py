"""SDPC, the file of TEKSQRAY's scanners: a chain of records, of which one a level holds the lengths of its JPEG tiles.

Experimental: the layout is known from descriptions, no real file was tried. The patient's record is stepped over: of
it only the tag and the pointer to the next record are read. Colours are those of the JPEG tiles; the correction the
maker's own viewer applies is not.
"""

import logging
import os
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

_TAG, _PATIENT, _MACRO, _LEVEL = 0x5153, 0x4950, 0x494D, 0x4649
#: Where each kind of record has its pointer to the next.
_NEXT = {_PATIENT: 6536, _MACRO: 43, _LEVEL: 30}
#: Head size, file size, levels, width, height, tile width and height, level ratio, µm per px, objective, places of the
#: extra record and of the cell pictures, tile codec.
_HEAD = struct.Struct("<2x16xIQ8x5I8x2x4xfdIQQB")
#: Tiles in all, across and down, width, height.
_RECORD = struct.Struct("<10x5I")
_RECORD_BYTES = 122
_JPEG = 0
_CODECS = {1: "BMP", 2: "PNG", 3: "TIFF", 4: "HEVC"}
#: Records other than levels a chain may have.
_OTHERS = 16
_RATIOS = (1.1, 16.0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Head:
    size: int
    file_size: int
    levels: int
    width: int
    height: int
    tile_width: int
    tile_height: int
    ratio: float
    mpp: float
    objective: int
    extra: int
    pictures: int
    codec: int


@dataclass(frozen=True, slots=True)
class _Record:
    """A level as the file has it; `place` and `end` are the bytes where its record begins and its streams end."""

    place: int
    total: int
    across: int
    down: int
    width: int
    height: int
    end: int


class _File:
    """The file, read in small known pieces only."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle
        self.size = os.fstat(handle).st_size

    def read(self, place: int, count: int) -> bytes:
        if place + count > self.size:
            raise DamagedSlideError(f"{self.path}: a record reaches beyond the end of the file; copy the file again")
        return os.pread(self._handle, count, place)

    def number(self, place: int, count: int) -> int:
        return int.from_bytes(self.read(place, count), "little")


def accepts(path: Path) -> bool:
    """Whether the file begins like an SDPC: its tag, and a head size that is one."""
    with path.open("rb") as stream:
        start = stream.read(_HEAD.size)
    if len(start) < _HEAD.size or int.from_bytes(start[:2], "little") != _TAG:
        return False
    return bool(_HEAD.size <= _HEAD.unpack(start)[0] < path.stat().st_size)


def open(path: Path, slide_id: str) -> TileFileReader:  # noqa: A001 - the name every format has
    """Open a slide.

    Raises:
        UnsupportedSlideError: its tiles are not JPEG.
        DamagedSlideError: the file is cut, or its records contradict each other.
    """
    with path.open("rb") as stream:
        file = _File(path, stream.fileno())
        head = _read_head(file)
        steps, levels = _levels(file, head)
    _log.warning(EXPERIMENTAL, slide_id, "SDPC")
    info = SlideInfo(
        slide_id=slide_id,
        path=path,
        width_px=head.width,
        height_px=head.height,
        mpp=head.mpp or None,
        mpp_source="file" if head.mpp else "missing",
        level_downsamples=tuple(steps),
        objective_power=float(head.objective) if head.objective in OBJECTIVES else None,
        vendor="TEKSQRAY (experimental, colours of the raw JPEG)",
        native_tile_px=(head.tile_width, head.tile_height),
        stated_mpp=(head.mpp, head.mpp) if head.mpp else None,
        mpp_key="sdpc ruler" if head.mpp else None,
    )
    return TileFileReader(info, with_stated_colour(path, levels))


def _read_head(file: _File) -> _Head:
    head = _Head(*_HEAD.unpack(file.read(0, _HEAD.size)))
    if head.codec != _JPEG:
        name = _CODECS.get(head.codec, f"number {head.codec}")
        raise UnsupportedSlideError(
            f"{file.path}: its tiles are coded as {name}, only JPEG is read; convert it with the maker's software "
            "to SVS or a pyramidal TIFF, or scan with JPEG compression"
        )
    if head.file_size > file.size:
        raise DamagedSlideError(
            f"{file.path}: has {file.size} bytes, its header says {head.file_size}; copy the file again"
        )
    check_sizes(file.path, (head.width, head.height), (head.tile_width, head.tile_height))
    if not 1 <= head.levels <= MAX_LEVELS:
        raise DamagedSlideError(f"{file.path}: its header says {head.levels} levels; copy the file again")
    return head


def _levels(file: _File, head: _Head) -> tuple[list[float], list[TileLevel]]:
    """Downsample and tiles of each level, finest first."""
    steps: list[float] = []
    levels: list[TileLevel] = []
    for number, record in enumerate(_records(file, head)):
        step = _step(head, record, number)
        if step is None or (steps and step <= steps[-1]):
            raise DamagedSlideError(
                f"{file.path}: level {number} says {record.width} x {record.height} px, which does not go with a slide "
                f"of {head.width} x {head.height}; copy the file again"
            )
        steps.append(step)
        levels.append(_level(file, head, record, step))
    return steps, levels


def _records(file: _File, head: _Head) -> list[_Record]:
    """Follow the chain of records to those of the levels."""
    place, seen, found = head.size, set[int](), list[int]()
    while len(found) < head.levels + 1:
        tag = file.number(place, 2)
        if tag not in _NEXT or place in seen or len(seen) > MAX_LEVELS + _OTHERS:
            raise DamagedSlideError(f"{file.path}: its chain of records breaks at byte {place}; copy the file again")
        seen.add(place)
        if tag == _LEVEL:
            found.append(place)
        place = file.number(place + _NEXT[tag], 8)
    marks = {*seen, place, head.extra, head.pictures, head.file_size, file.size}
    # The first is the thumbnail.
    return [_record(file, start, min(mark for mark in marks if start < mark <= file.size)) for start in found[1:]]


def _record(file: _File, place: int, end: int) -> _Record:
    total, across, down, width, height = _RECORD.unpack(file.read(place, _RECORD.size))
    return _Record(place, total, across, down, width, height, end)


def _step(head: _Head, record: _Record, number: int) -> float | None:
    """Slide px per px of a level: the power of the stated ratio if its size agrees, else what its size says."""
    ratio = 1 / head.ratio if 0 < head.ratio < 1 else head.ratio
    if number == 0 or _RATIOS[0] <= ratio <= _RATIOS[1]:
        step = float(ratio**number)
        if _sides(head, record, step):
            return step
    if number == 0 or record.width == 0:
        return None
    step = head.width / record.width
    return step if abs(head.height / step - record.height) <= 1 and _sides(head, record, step) else None


def _sides(head: _Head, record: _Record, step: float) -> tuple[int, int] | None:
    """Width and height of a level, px, if its record agrees with this step; some writers state whole tiles."""
    found = []
    for full, stated, tiles, tile in (
        (head.width, record.width, record.across, head.tile_width),
        (head.height, record.height, record.down, head.tile_height),
    ):
        low, high = max(int(full / step), 1), int(np.ceil(full / step))
        side = stated if low <= stated <= high else high
        if -(-side // tile) != tiles or stated not in (side, tiles * tile):
            return None
        found.append(side)
    return found[0], found[1]


def _level(file: _File, head: _Head, record: _Record, step: float) -> TileLevel:
    sides = _sides(head, record, step)
    total, shape = record.total, (record.down, record.across)
    if sides is None or not total == record.across * record.down <= MAX_TILES:
        raise DamagedSlideError(
            f"{file.path}: {total} tiles in a grid of {record.across} x {record.down}; copy the file again"
        )
    table = record.place + _RECORD_BYTES
    stated = np.frombuffer(file.read(table, 4 * total), "<i4").astype(np.int64).reshape(shape)
    offsets, lengths = _streams(head, stated, table + 4 * total, record.end, file.size)
    return TileLevel(*sides, head.tile_width, head.tile_height, offsets, lengths, "ycbcr")


def _streams(
    head: _Head, stated: NDArray[np.int64], start: int, end: int, file_size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places and lengths of streams that lie back to back; those that cannot be are made unreadable.

    Length 0 is a tile that was never there only if all others fill the room up to the next record. Else some length is
    wrong, and behind the first that is none at all a tile could be taken for its neighbour.
    """
    lengths = np.clip(stated, 0, None)
    ends = start + np.cumsum(lengths).reshape(stated.shape)
    wild = (stated < 0) | (stated > largest_stream((head.tile_width, head.tile_height)))
    lost = wild | (ends > end)
    if int(ends.flat[-1]) != end:
        lost |= np.logical_or.accumulate((wild | (stated == 0)).ravel()).reshape(stated.shape)
    offsets = ends - lengths
    lose(offsets, lengths, lost, file_size)
    return offsets, lengths
