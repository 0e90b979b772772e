"""Where the JPEG tiles of a TIFF slide lie: each level OpenSlide serves, matched with the directory it comes from.

Only what is certain is matched. A level of which anything is unusual stays with OpenSlide, which is slower and right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_detect.slides import jpeg
from wsi_detect.slides.jpeg import Colour, JpegFaultError
from wsi_detect.slides.tiff_tags import JPEG, TiledPage
from wsi_detect.slides.tiles import JpegTiles, TileLevel

#: (Photometric, samples a px) → how the samples are meant. OpenSlide goes by this tag alone, and so do we.
_COLOURS: dict[tuple[int, int], Colour] = {(6, 3): "ycbcr", (2, 3): "rgb", (1, 1): "grey"}
#: Largest side of a tile, px; a decoder's memory for one thread is three times its square.
_LARGEST_TILE = 4096


@dataclass(frozen=True, slots=True)
class LevelSize:
    """A level as OpenSlide serves it, px; tile sides 0 if it does not say."""

    width: int
    height: int
    tile_width: int
    tile_height: int


def jpeg_tiles_of(path: Path, pages: Sequence[TiledPage], vendor: str, levels: Sequence[LevelSize]) -> JpegTiles | None:
    """Return the tiles of a slide, None if no level is made of tiles that can be read here.

    Args:
        path: the slide.
        pages: its tiled directories, in the file's order.
        vendor: as OpenSlide recognised it.
        levels: as OpenSlide serves them.
    """
    match = _MATCHES.get(vendor)
    if match is None:
        return None
    matched = match(pages, levels)
    found = [None if page is None else _level(page, size) for page, size in zip(matched, levels, strict=True)]
    if not any(found):
        return None
    tiles = JpegTiles(path, found)
    tiles.levels = tuple(level if _probed(tiles, k) else None for k, level in enumerate(tiles.levels))
    if any(tiles.levels):
        return tiles
    tiles.close()
    return None


def _by_size(pages: Sequence[TiledPage], levels: Sequence[LevelSize]) -> list[TiledPage | None]:
    """Match by width and height; a size that occurs twice matches nothing."""
    sizes = [(page.width, page.height) for page in pages]
    wanted = [(level.width, level.height) for level in levels]
    return [pages[sizes.index(size)] if sizes.count(size) == 1 == wanted.count(size) else None for size in wanted]


def _in_focus(pages: Sequence[TiledPage], levels: Sequence[LevelSize]) -> list[TiledPage | None]:
    """Match by size the directories of the middle focal plane, the one OpenSlide serves."""
    return _by_size([page for page in pages if page.focus == 0 and page.header], levels)


def _in_order(pages: Sequence[TiledPage], levels: Sequence[LevelSize]) -> list[TiledPage | None]:
    """Match one by one: Philips pads its levels to whole tiles, and OpenSlide says how much of them is slide."""
    if len(pages) != len(levels) or (pages[0].width, pages[0].height) != (levels[0].width, levels[0].height):
        return [None] * len(levels)
    return [
        page if page.width >= level.width and page.height >= level.height else None
        for page, level in zip(pages, levels, strict=True)
    ]


_Match = Callable[[Sequence[TiledPage], Sequence[LevelSize]], list[TiledPage | None]]
#: Vendor, as OpenSlide calls it → how its levels lie in the file.
_MATCHES: dict[str, _Match] = {
    "aperio": _by_size,
    "generic-tiff": _by_size,
    "hamamatsu": _in_focus,
    "philips": _in_order,
}


def _level(page: TiledPage, size: LevelSize) -> TileLevel | None:
    """Return a level's tiles, None if anything about them is unusual."""
    colour = _COLOURS.get((page.photometric, page.samples))
    if colour is None or page.compression != JPEG or page.bits != 8 or not page.usual:
        return None
    tile = (page.tile_width, page.tile_height)
    if tile != (size.tile_width, size.tile_height) or not all(8 <= side <= _LARGEST_TILE for side in tile):
        return None
    shape = -(-page.height // page.tile_height), -(-page.width // page.tile_width)
    if not page.offsets.size == page.lengths.size == shape[0] * shape[1] or bool((page.lengths < 0).any()):
        return None
    return TileLevel(
        size.width,
        size.height,
        page.tile_width,
        page.tile_height,
        page.offsets.reshape(shape),
        page.lengths.reshape(shape),
        colour,
        page.tables,
        page.header,
        whole=True,
    )


def _probed(tiles: JpegTiles, level: int) -> bool:
    """Whether at least one of three tiles is what the directory says: the level may be progressive throughout."""
    table = tiles.levels[level]
    if table is None:
        return False
    present = np.argwhere(table.lengths)
    for place in {0, len(present) // 2, len(present) - 1} if len(present) else ():
        row, column = (int(index) for index in present[place])
        try:
            tile = tiles.tile(level, row, column)
        except JpegFaultError:
            continue
        # OpenSlide leaves the colours of a JPEG that is cut at restart markers to the decoder, not to the tag.
        return tile is not None and (not table.header or jpeg.tells(tile.frame, table.colour))
    return False
