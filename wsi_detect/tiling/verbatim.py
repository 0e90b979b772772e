"""A patch as the slide's own JPEG tiles, copied without decoding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.slides import jpeg
from wsi_detect.slides.jpeg import JpegFaultError
from wsi_detect.slides.tiles import JpegTiles
from wsi_detect.tiling.jpeg_tiles import pack_tiles
from wsi_detect.tiling.sweep import needed


@dataclass(frozen=True, slots=True)
class TilePatch:
    """One patch.

    Attributes:
        chunk: its tiles as `jpeg_tiles` packs them.
        no_data: fraction of the part on the slide for which the file has no tile.
        unreadable: fraction of that part whose tiles are damaged; they are left out.
    """

    chunk: bytes
    no_data: float
    unreadable: float


class TileCopier:
    """Copies patches of one level, px of which are the px of the patches."""

    def __init__(self, tiles: JpegTiles, level: int, side: int, *, check: bool = False) -> None:
        """Prepare.

        Args:
            tiles: of the slide.
            level: of the slide.
            side: of a patch, px of the level.
            check: decode every tile to see whether it can be, instead of those alone that look damaged.
        """
        table = tiles.levels[level]
        if table is None:
            raise ValueError(f"level {level} is not made of baseline JPEG tiles")
        self._tiles, self._level, self._side, self._table, self._check = tiles, level, side, table, check

    def read(self, x: int, y: int) -> TilePatch:
        """Copy the patch at a corner, px of the level."""
        table = self._table
        down, across = needed(table, x, y, self._side)
        high, wide = min(self._side, table.height - y), min(self._side, table.width - x)
        streams, missing, damaged = [], 0, 0
        for r in down:
            for c in across:
                stream = self._stream(r, c)
                streams.append(stream or b"")
                if not stream:
                    top, left = r * table.tile_height, c * table.tile_width
                    area = (min(top + table.tile_height, y + high) - max(top, y)) * (
                        min(left + table.tile_width, x + wide) - max(left, x)
                    )
                    missing += area if stream is None else 0
                    damaged += area if stream is not None else 0
        chunk = pack_tiles(
            streams,
            shape=(len(down), len(across)),
            tile=(table.tile_height, table.tile_width),
            origin=(y - down.start * table.tile_height, x - across.start * table.tile_width),
            inside=(high, wide),
            colour=table.colour,
            tables=table.tables,
        )
        return TilePatch(chunk, missing / (high * wide), damaged / (high * wide))

    def read_window(self, x: int, y: int, side: int) -> NDArray[np.uint8] | None:
        """Decode a square of the level, (side, side, 3); None if a tile of it is damaged."""
        try:
            return self._tiles.read(self._level, x, y, side, side)[0]
        except JpegFaultError:
            return None

    def _stream(self, r: int, c: int) -> bytes | None:
        """Return a tile's stream; nothing if it is damaged, None if the file has none."""
        try:
            tile = self._tiles.tile(self._level, r, c)
            if tile is None:
                return None
            if self._check or jpeg.looks_damaged(tile.stream, tile.frame):
                # As small as can be: whether the data end early shows at any size.
                self._tiles.decode(self._level, r, c, reduce=jpeg.REDUCTIONS[-1])
        except JpegFaultError:
            return b""
        return tile.stream
