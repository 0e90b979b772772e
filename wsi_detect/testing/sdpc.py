"""A small SDPC file from a picture, as far as the format is known; for tests of its reader."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect.testing.tile_cuts import CANARY, CutLevel, Missing, cut_pyramid, jpeg_stream

HEAD_BYTES = 153
PATIENT_BYTES = 6808
RATIO = 4


def write_sdpc(
    path: Path,
    pixels: NDArray[np.uint8],
    *,
    tile: tuple[int, int] = (288, 288),
    mpp: float = 0.25,
    whole: bool = True,
    missing: Missing = frozenset(),
    codec: int = 0,
) -> Path:
    """Write a picture as SDPC: head, a patient, two macro pictures, a thumbnail, levels.

    Args:
        path: the file.
        pixels: (H, W, 3) RGB.
        tile: width and height, px.
        mpp: µm per px.
        whole: tiles at the edge are filled up to full size.
        missing: (level, row, column) of tiles the file does not have.
        codec: what the head says of the tiles; 0 is JPEG, which they are.
    """
    levels = cut_pyramid(pixels, tile, RATIO, whole=whole, missing=missing)
    content = bytes(HEAD_BYTES)
    patient = (CANARY * (6534 // len(CANARY) + 1))[:6534]
    following = HEAD_BYTES + PATIENT_BYTES
    content += b"PI" + patient + struct.pack("<Q", following) + (CANARY * 12)[: PATIENT_BYTES - 6544]
    for _ in range(2):
        picture = jpeg_stream(np.zeros((8, 8, 3), np.uint8)) + CANARY
        following = len(content) + 123 + len(picture)
        content += struct.pack("<H32xQxQ72x", 0x494D, len(picture), following) + picture
    content += _level(CutLevel(10, 10, 1, 1, [b"BM" + CANARY]), len(content), 0.0, last=False)
    for number, level in enumerate(levels):
        content += _level(level, len(content), mpp * RATIO**number, last=level is levels[-1])
    height, width = pixels.shape[:2]
    head = struct.pack(
        "<H16sIQ9IBB4sfdIQQB48x",
        *(0x5153, b"1.0.0", HEAD_BYTES, len(content), 2, 1, len(levels), width, height, *tile, 10, 10),
        *(24, 90, b"", float(RATIO), mpp, 20, 0, 0, codec),
    )
    path.write_bytes(head + content[HEAD_BYTES:])
    return path


def _level(level: CutLevel, place: int, mpp: float, *, last: bool) -> bytes:
    lengths = struct.pack(f"<{len(level.streams)}i", *map(len, level.streams))
    body = lengths + b"".join(level.streams)
    record = struct.pack(
        "<H8x5IQfd72x",
        *(0x4649, len(level.streams), level.columns, level.rows, level.width, level.height),
        *(0 if last else place + 122 + len(body), 1.0, mpp),
    )
    return record + body
