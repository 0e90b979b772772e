"""Pyramidal, tiled JPEG TIFFs as scanners write them, and the faults such files come with.

The description is Aperio's, so that OpenSlide takes levels, resolution and missing tiles the way it does for scans.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_detect.geometry import Box

TILE_PX = 256
STEP = 4
#: Objectives; the one whose usual resolution is nearest goes into the description.
_POWERS = (5, 10, 20, 40, 60)

Pixels = NDArray[np.uint8]
#: Rows (y0, y1) of a slide → (y1 - y0, width, 3).
Rows = Callable[[int, int], Pixels]


def write_pyramid(
    path: Path, rows: Rows, *, width: int, height: int, mpp: float | None, quality: int = 90, note: str = "painted"
) -> Path:
    """Write a slide band by band: level 0, then one level a factor of 4 until a level fits into four tiles.

    Args:
        path: the file, `.svs` or `.tif`.
        rows: gives the pixels of a band of rows of level 0; asked once for each band, top to bottom.
        width: of level 0, px.
        height: of level 0, px.
        mpp: µm per px written into the description; None writes none.
        quality: JPEG quality; colour is never subsampled (4:4:4).
        note: what the file is, for its description.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        level = 0
        while True:
            # The next level is filled while this one streams, so that a slide never lies in memory whole.
            reduced = np.zeros((-(-height // STEP), -(-width // STEP), 3), np.uint8)
            tiff.write(
                data=_tiles(rows, width, height, reduced),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                subsampling=(1, 1),
                compression="jpeg",
                compressionargs={"level": quality},
                subfiletype=1 if level else 0,
                description=_description(width, height, mpp, quality, note) if level == 0 else None,
                metadata=None,
            )
            if max(width, height) <= 2 * TILE_PX:
                return path
            rows, width, height, level = _rows_of(reduced), reduced.shape[1], reduced.shape[0], level + 1


def drop_area(path: Path, box: Box) -> int:
    """Take the data of an area out of a slide: tiles of every level that lie wholly in it get a byte count of 0.

    Scanners write such files for glass they did not scan. Tiles of a coarser level that reach beyond the area stay.

    Args:
        path: a slide of `write_pyramid`, changed in place.
        box: the area, slide px.

    Returns:
        The number of tiles dropped from level 0.
    """
    dropped = 0
    with tifffile.TiffFile(path, mode="r+") as tiff:
        pages = [page.aspage() for page in tiff.pages]
        for page in pages:
            scale = pages[0].imagewidth / page.imagewidth
            counts = list(page.databytecounts)
            for number in range(len(counts)):
                tile = _tile_box(page, number, scale)
                limit = (pages[0].imagewidth, pages[0].imagelength)
                if _holds(box, tile, limit):
                    counts[number] = 0
                    dropped += page is pages[0]
            page.tags["TileByteCounts"].overwrite(counts)
    return dropped


def damage_tile(path: Path, column: int, row: int, level: int = 0) -> Box:
    """Overwrite the bytes of one tile with zeros, as a bad disk or a broken copy does.

    Args:
        path: a slide of `write_pyramid`, changed in place.
        column: of the tile in its level.
        row: of the tile in its level.
        level: index of the level.

    Returns:
        The area that cannot be decoded any more, slide px.
    """
    with tifffile.TiffFile(path) as tiff:
        first, page = tiff.pages.first, tiff.pages[level].aspage()
        scale = first.imagewidth / page.imagewidth
        number = row * -(-page.imagewidth // page.tilewidth) + column
        offset, size = page.dataoffsets[number], page.databytecounts[number]
        box = _tile_box(page, number, scale)
        limit = (first.imagewidth, first.imagelength)
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(bytes(size))
    return Box(box.x0, box.y0, min(box.x1, limit[0]), min(box.y1, limit[1]))


def _tiles(rows: Rows, width: int, height: int, reduced: Pixels) -> Iterator[Pixels]:
    for y in range(0, height, TILE_PX):
        band = rows(y, min(y + TILE_PX, height))
        small = _reduce(band)
        reduced[y // STEP : y // STEP + len(small)] = small
        # What a tile holds beyond the slide is its last row and column again, so that no edge rings in the JPEG.
        padded = np.pad(band, ((0, TILE_PX - len(band)), (0, -width % TILE_PX), (0, 0)), mode="edge")
        for x in range(0, width, TILE_PX):
            yield np.ascontiguousarray(padded[:, x : x + TILE_PX])


def _reduce(band: Pixels) -> Pixels:
    """Mean over 4 x 4 px; an incomplete block at the edge repeats its last row or column."""
    padded = np.pad(band, ((0, -len(band) % STEP), (0, -band.shape[1] % STEP), (0, 0)), mode="edge")
    blocks = padded.reshape(len(padded) // STEP, STEP, padded.shape[1] // STEP, STEP, 3)
    return np.asarray(blocks.sum(axis=(1, 3), dtype=np.uint32) // STEP**2, dtype=np.uint8)


def _rows_of(pixels: Pixels) -> Rows:
    return lambda y0, y1: pixels[y0:y1]


def _description(width: int, height: int, mpp: float | None, quality: int, note: str) -> str:
    size = f"{width}x{height} [0,0 {width}x{height}] ({TILE_PX}x{TILE_PX}) JPEG/RGB Q={quality}"
    if mpp is None:
        return f"Aperio Image Library ({note})\r\n{size}"
    power = min(_POWERS, key=lambda power: abs(power - 10 / mpp))
    return f"Aperio Image Library ({note})\r\n{size}|AppMag = {power}|MPP = {mpp:.6f}"


def _tile_box(page: tifffile.TiffPage, number: int, scale: float) -> Box:
    across = -(-page.imagewidth // page.tilewidth)
    row, column = divmod(number, across)
    x, y = column * page.tilewidth * scale, row * page.tilelength * scale
    return Box(x, y, x + page.tilewidth * scale, y + page.tilelength * scale)


def _holds(area: Box, tile: Box, limit: tuple[int, int]) -> bool:
    return (
        area.x0 <= tile.x0
        and area.y0 <= tile.y0
        and min(tile.x1, limit[0]) <= area.x1
        and min(tile.y1, limit[1]) <= area.y1
    )
