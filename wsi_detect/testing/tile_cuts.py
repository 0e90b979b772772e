"""A picture as the pyramid of JPEG tiles a scanner stores; the writers of vendors' files lay them out."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_QUALITY = 90

#: What the writers put wherever a real file names a patient; it must appear nowhere else.
CANARY = b"CANARY-NAME-OF-A-PATIENT"

#: (level, row, column) of tiles a file does not have.
Missing = frozenset[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class CutLevel:
    """One level: its size, px, and its streams, row by row; an empty one is a tile that is not there."""

    width: int
    height: int
    rows: int
    columns: int
    streams: list[bytes]


def cut_pyramid(
    pixels: NDArray[np.uint8],
    tile: tuple[int, int],
    step: int,
    *,
    whole: bool,
    missing: frozenset[tuple[int, int, int]],
) -> list[CutLevel]:
    """Cut a picture and its reductions into tiles, down to the level that is one tile.

    Args:
        pixels: (H, W, 3) RGB.
        tile: width and height, px.
        step: reduction from level to level.
        whole: tiles at the right and bottom edge are filled up to full size, or end with the level.
        missing: (level, row, column) of tiles to leave out.
    """
    levels: list[CutLevel] = []
    while True:
        height, width = pixels.shape[:2]
        rows, columns = -(-height // tile[1]), -(-width // tile[0])
        streams = [
            b"" if (len(levels), row, column) in missing else _stream(pixels, tile, row, column, whole=whole)
            for row in range(rows)
            for column in range(columns)
        ]
        levels.append(CutLevel(width, height, rows, columns, streams))
        if rows * columns == 1:
            return levels
        pixels = _reduced(pixels, step)


def jpeg_stream(pixels: NDArray[np.uint8]) -> bytes:
    """A baseline JPEG without chroma subsampling."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()


def _stream(pixels: NDArray[np.uint8], tile: tuple[int, int], row: int, column: int, *, whole: bool) -> bytes:
    part = pixels[row * tile[1] : (row + 1) * tile[1], column * tile[0] : (column + 1) * tile[0]]
    if whole:
        part = np.pad(part, ((0, tile[1] - part.shape[0]), (0, tile[0] - part.shape[1]), (0, 0)), mode="edge")
    return jpeg_stream(np.ascontiguousarray(part))


def _reduced(pixels: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Mean over step x step px; what is incomplete at the edge repeats its last row or column."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % step), (0, -width % step), (0, 0)), mode="edge")
    blocks = padded.reshape(len(padded) // step, step, padded.shape[1] // step, step, 3)
    return np.asarray(blocks.mean(axis=(1, 3)).round(), dtype=np.uint8)
