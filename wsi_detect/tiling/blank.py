"""Tiles of clean glass, which need not be decoded: few bytes, and nothing stained on the low resolution.

Either sign alone can be wrong: a pale cell adds little to a JPEG, and a small one may be averaged away on a thumbnail.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.slides.reader import SlideReader
from wsi_detect.slides.resample import overview
from wsi_detect.slides.tiles import TileLevel
from wsi_detect.tiling.mask import CellMask

#: A tile of glass has about as many bytes as half of those without stain; more is texture of some kind.
_MOST_BYTES = 1.25
#: Thumbnail px along a tile, for its colour.
_PX = 4
_LONGEST = 4096


@dataclass(frozen=True, slots=True, eq=False)
class BlankTiles:
    """Which tiles of a level are clean glass.

    Attributes:
        tiles: (rows, columns) bool.
        colours: (rows, columns, 3) uint8, the colour of each on the thumbnail.
    """

    tiles: NDArray[np.bool_]
    colours: NDArray[np.uint8]


def find_blank(slide: SlideReader, table: TileLevel, step: int, cells: CellMask) -> BlankTiles:
    """Find the tiles of clean glass of a level.

    Args:
        slide: read once at low resolution.
        table: the level's tiles.
        step: slide px per px of the level.
        cells: the slide's mask, grown around every stain.
    """
    rows, columns = table.shape
    y, x = np.mgrid[:rows, :columns].reshape(2, -1) * np.array([[table.tile_height], [table.tile_width]]) * step
    ends = (
        np.minimum(x + table.tile_width * step, slide.info.width_px),
        np.minimum(y + table.tile_height * step, slide.info.height_px),
    )
    unstained = (cells.coverage(np.column_stack([x, y, *ends])) == 0).reshape(rows, columns)
    present = unstained & (table.lengths > 0)
    if not present.any():
        return BlankTiles(np.zeros((rows, columns), dtype=np.bool_), np.zeros((rows, columns, 3), dtype=np.uint8))
    few = table.lengths <= _MOST_BYTES * np.median(table.lengths[present])
    view = overview(slide, min(_PX * max(rows, columns), _LONGEST))
    down, across = (
        np.minimum(((np.arange(count) + 0.5) * side * step / view.downsample).astype(np.int64), limit - 1)
        for count, side, limit in (
            (rows, table.tile_height, view.rgb.shape[0]),
            (columns, table.tile_width, view.rgb.shape[1]),
        )
    )
    known = view.has_data[np.ix_(down, across)]
    return BlankTiles(present & few & known, view.rgb[np.ix_(down, across)])
