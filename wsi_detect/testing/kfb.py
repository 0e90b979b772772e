"""A small KFB file from a picture, as far as the format is known; for tests of its reader."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect.testing.tile_cuts import CANARY, CutLevel, Missing, cut_pyramid

OBJECTIVE = 20
HEAD_BYTES = 92
RECORD_BYTES = 64


@dataclass(frozen=True, slots=True)
class _Layout:
    tile: int
    table: int
    full_px: bool
    whole: bool


def write_kfb(
    path: Path,
    pixels: NDArray[np.uint8],
    *,
    tile: int = 256,
    mpp: float = 0.25,
    full_px: bool = False,
    whole: bool = False,
    missing: Missing = frozenset(),
) -> Path:
    """Write a picture as KFB: header, a label picture that names a patient, tiles, table.

    Args:
        path: the file.
        pixels: (H, W, 3) RGB.
        tile: side, px.
        mpp: µm per px.
        full_px: x and y of coarse levels count px of the full resolution, else of the level.
        whole: tiles at the edge are filled up to full size.
        missing: (level, row, column) of tiles the file does not have.
    """
    levels = cut_pyramid(pixels, (tile, tile), 2, whole=whole, missing=missing)
    label = b"\xf1\x03\xee\xee" + struct.pack("<4x2i4xi", 10, 10, len(CANARY)) + bytes(28) + CANARY
    place, body, entries = HEAD_BYTES + len(label), b"", []
    for number, level in enumerate(levels):
        for cell, stream in enumerate(level.streams):
            if stream:
                entries.append((number, level, cell, len(stream), place + len(body)))
                body += stream
    table = place + len(body)
    layout = _Layout(tile, table, full_px, whole)
    records = b"".join(_record(layout, *entry) for entry in entries)
    size = pixels.shape[:2]
    head = struct.pack(
        "<4s4s8x4i8s12x3i4xQf8xi",
        *(b"\xf1\x01\xee\xee", b"KFB\0", len(entries), *size, OBJECTIVE, b"JPEG"),
        *(0, HEAD_BYTES, 0, table, mpp, tile),
    )
    path.write_bytes(head + label + body + records)
    return path


def _record(layout: _Layout, number: int, level: CutLevel, cell: int, length: int, place: int) -> bytes:
    row, column = divmod(cell, level.columns)
    x, y = column * layout.tile, row * layout.tile
    whole = (layout.tile, layout.tile)
    w, h = whole if layout.whole else (min(whole[0], level.width - x), min(whole[1], level.height - y))
    unit = 1 << number if layout.full_px else 1
    return struct.pack(
        "<4s4if8xiq20x",
        *(b"\xf1\x04\xee\xee", x * unit, y * unit, w, h),
        *(OBJECTIVE / 2**number, length, place - layout.table),
    )
