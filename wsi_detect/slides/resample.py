"""Pixels at a wanted resolution: the only place that chooses a level and rescales."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_detect.errors import DamagedSlideError
from wsi_detect.slides.jpeg import REDUCTIONS, JpegFaultError
from wsi_detect.slides.reader import Pixels, SlideReader
from wsi_detect.slides.tiles import JpegTiles, tiles_of

#: Cubic with a support that grows with the reduction, so that nothing aliases.
_FILTER = Image.Resampling.BICUBIC
_SUPPORT = 2
#: Longest side of what is read at once, level px: a slide without a pyramid must not lie in memory whole.
_MOST_READ = 4096
#: Side of the blocks an undecodable region is saved by when the file's own tiles are no use for it, level px.
_BLOCK = 256
_USEFUL_TILE = range(64, 2049)
#: A level this much too coarse is still taken: stored downsamples are rounded (a nominal 4 reads 4.0005).
_LEVEL_TOLERANCE = 1.01
_EXACT = 1e-6

_Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class RegionPixels:
    """A square of a slide, rendered.

    Attributes:
        rgb: (H, W, 3) uint8; white where there is nothing.
        no_data: fraction of the part that lies on the slide which the scanner left out.
        unreadable: fraction of that part which could not be decoded.
        lost: (H, W) bool, px into which something went that could not be decoded; None where there is none, or where
            `unreadable` alone is known.
    """

    rgb: NDArray[np.uint8]
    no_data: float
    unreadable: float
    lost: _Mask | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Overview:
    """A whole slide, rendered small.

    Attributes:
        rgb: (H, W, 3) uint8; white where there is nothing.
        has_data: (H, W) bool, where the slide was scanned and can be decoded.
        downsample: slide px per px of it.
        no_data: fraction of the slide's area that the scanner left out, as its pyramid tells.
        unreadable: fraction of the slide's area that could not be decoded.
    """

    rgb: NDArray[np.uint8]
    has_data: _Mask
    downsample: float
    no_data: float
    unreadable: float


@dataclass(frozen=True, slots=True)
class _Area:
    """A rectangle in slide px, and how many px it is rendered as."""

    x: float
    y: float
    width: float
    height: float
    out_width: int
    out_height: int

    def parts(self, step: float) -> "Iterator[tuple[tuple[slice, slice], _Area]]":
        """Cut into areas of which none needs more than `_MOST_READ` px of a level along a side."""
        across, down = self.width / self.out_width, self.height / self.out_height
        most_x, most_y = (max(1, int(_MOST_READ * step / scale)) for scale in (across, down))
        for y in range(0, self.out_height, most_y):
            for x in range(0, self.out_width, most_x):
                w, h = min(most_x, self.out_width - x), min(most_y, self.out_height - y)
                part = _Area(self.x + x * across, self.y + y * down, w * across, h * down, w, h)
                yield (slice(y, y + h), slice(x, x + w)), part


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """Where px come from.

    Attributes:
        reader: the slide.
        level: of its pyramid.
        plane: of its focal planes.
        tiles: its JPEG tiles, if px of this level and plane may come from there.
        reduce: factor the decoder of the tiles shrinks the level by.
    """

    reader: SlideReader
    level: int
    plane: int
    tiles: JpegTiles | None = None
    reduce: int = 1

    @property
    def step(self) -> float:
        """Slide px per px."""
        return self.reader.info.level_downsamples[self.level] * self.reduce


@dataclass(slots=True, eq=False)
class _Canvas:
    """What is rendered so far. Areas are in slide px²."""

    rgb: NDArray[np.uint8]
    has_data: _Mask
    no_data: float = 0.0
    unreadable: float = 0.0
    lost: _Mask | None = None


def read_at_mpp(
    reader: SlideReader, x_px: int, y_px: int, size_px: int, out_px: int, *, plane: int = 0
) -> RegionPixels:
    """Read a square and render it at another size.

    A region that cannot be decoded is tried once more (the reader has opened the file anew), then tile by tile; what
    still fails is white and counted. What lies beyond the slide is white, and counted nowhere.

    Args:
        reader: the slide.
        x_px: left edge, slide px; the square may reach beyond the slide.
        y_px: top edge, slide px.
        size_px: side, slide px.
        out_px: side of the result, px.
        plane: focal plane.

    Raises:
        ValueError: a size below 1, or no such plane.
    """
    if size_px < 1 or out_px < 1:
        raise ValueError(f"a square has at least one pixel, got {size_px} slide px as {out_px} px")
    canvas = _render(reader, _Area(x_px, y_px, size_px, size_px, out_px, out_px), plane)
    across = min(x_px + size_px, reader.info.width_px) - max(x_px, 0)
    down = min(y_px + size_px, reader.info.height_px) - max(y_px, 0)
    # A slide smaller than a patch is its patch's whole content: if all of it is lost, nothing was examined.
    inside = max(float(across), 1.0) * max(float(down), 1.0)
    shares = min(canvas.no_data / inside, 1.0), min(canvas.unreadable / inside, 1.0)
    return RegionPixels(canvas.rgb, *shares, canvas.lost)


def overview(reader: SlideReader, max_px: int) -> Overview:
    """Render the whole slide from its pyramid, never from a label or macro picture; of a z-stack the middle plane.

    Args:
        reader: the slide.
        max_px: longest side of the result; a smaller slide is not enlarged.
    """
    info = reader.info
    downsample = max(1.0, max(info.width_px, info.height_px) / max_px)
    width, height = (max(1, math.ceil(side / downsample - _EXACT)) for side in (info.width_px, info.height_px))
    canvas = _render(
        reader, _Area(0, 0, width * downsample, height * downsample, width, height), info.focal_planes // 2
    )
    whole = float(info.width_px) * info.height_px
    return Overview(canvas.rgb, canvas.has_data, downsample, canvas.no_data / whole, canvas.unreadable / whole)


def thumbnail(reader: SlideReader, max_px: int) -> tuple[NDArray[np.uint8], float]:
    """Render the whole slide small: (H, W, 3) uint8 RGB, and slide px per px of it; see `overview`."""
    view = overview(reader, max_px)
    return view.rgb, view.downsample


def _render(reader: SlideReader, area: _Area, plane: int) -> _Canvas:
    source = _source_for(reader, area.width / area.out_width, plane)
    shape = (area.out_height, area.out_width)
    canvas = _Canvas(np.full((*shape, 3), 255, dtype=np.uint8), np.zeros(shape, dtype=np.bool_))
    for window, part in area.parts(source.step):
        beyond = part.x >= reader.info.width_px or part.y >= reader.info.height_px
        if not beyond and part.x + part.width > 0 and part.y + part.height > 0:
            _render_part(source, part, window, canvas)
    return canvas


def _source_for(reader: SlideReader, downsample: float, plane: int) -> _Source:
    """Choose the level, and how much of the remaining reduction the JPEG decoder can do, which is faster by far."""
    level = _level_for(reader, downsample)
    tiles = tiles_of(reader) if plane == 0 else None
    table = None if tiles is None else tiles.levels[level]
    if table is None:
        return _Source(reader, level, plane)
    left = downsample / reader.info.level_downsamples[level] * _LEVEL_TOLERANCE
    sides = math.gcd(table.tile_width, table.tile_height)
    reduce = max(factor for factor in REDUCTIONS if factor == 1 or (factor <= left and sides % factor == 0))
    return _Source(reader, level, plane, tiles, reduce)


def _render_part(source: _Source, area: _Area, window: tuple[slice, slice], canvas: _Canvas) -> None:
    """Read one area with a rim for the filter, so that neighbouring areas agree where they meet, and rescale it."""
    step = source.step
    scale_x, scale_y = area.width / area.out_width / step, area.height / area.out_height / step
    x0, x1, y0, y1 = (v / step for v in (area.x, area.x + area.width, area.y, area.y + area.height))
    plain = all(abs(v - round(v)) < _EXACT for v in (x0, y0)) and max(abs(scale_x - 1), abs(scale_y - 1)) < _EXACT
    rim = 0 if plain else math.ceil(_SUPPORT * max(scale_x, scale_y, 1.0)) + 1
    left, top = float(math.floor(x0 + _EXACT) - rim), float(math.floor(y0 + _EXACT) - rim)
    if source.tiles is None:
        # A reader is asked by slide px, which may lie between two px of its level.
        left, top = round(left * step) / step, round(top * step) / step
    width, height = math.ceil(x1 - left - _EXACT) + rim, math.ceil(y1 - top - _EXACT) + rim
    if source.tiles is None:
        (rgb, valid), broken = _read(source, round(left * step), round(top * step), (width, height))
    else:
        pixels = _decode(source, source.tiles, (int(left), int(top), width, height))
        if pixels is None:
            _render_part(replace(source, tiles=None, reduce=1), area, window, canvas)
            return
        (rgb, valid), broken = pixels, None
    if not plain:
        box = (x0 - left, y0 - top, x1 - left, y1 - top)
        rgb = np.array(Image.fromarray(rgb).resize((area.out_width, area.out_height), _FILTER, box=box))
    canvas.rgb[window] = rgb
    canvas.has_data[window] = True
    if valid is not None or broken is not None:
        _account(source, area, (left * step, top * step), (valid, broken), window, canvas)


def _decode(source: _Source, tiles: JpegTiles, place: tuple[int, int, int, int]) -> Pixels | None:
    """Read a rectangle of the reduced level from the tiles; None where only the reader knows what is there."""
    factor = source.reduce
    # What a file leaves out of a coarse level, its reader may take from a finer one.
    if tiles.lacks(source.level, *(side * factor for side in place)):
        return None
    try:
        rgb, valid = tiles.read(source.level, *place, reduce=factor)
    except JpegFaultError:
        return None
    return _without_finest(source, tiles, place, rgb, valid) if source.level else (rgb, valid)


def _without_finest(
    source: _Source, tiles: JpegTiles, place: tuple[int, int, int, int], rgb: NDArray[np.uint8], valid: _Mask | None
) -> Pixels | None:
    """Blank what the finest level leaves out, whatever a coarser one shows there; None where that is not known."""
    finest = tiles.levels[0]
    if finest is None:
        return None
    down, across = (
        np.clip((start + np.arange(count) + 0.5) * source.step // side, 0, tiles_along - 1).astype(np.int64)
        for start, count, side, tiles_along in (
            (place[1], place[3], finest.tile_height, finest.shape[0]),
            (place[0], place[2], finest.tile_width, finest.shape[1]),
        )
    )
    present = finest.lengths[down[0] : down[-1] + 1, across[0] : across[-1] + 1] > 0
    if bool(present.all()):
        return rgb, valid
    there = present[down - down[0]][:, across - across[0]]
    rgb[~there] = 255
    return rgb, there if valid is None else there & valid


def _account(
    source: _Source,
    area: _Area,
    origin: tuple[float, float],
    masks: tuple[_Mask | None, _Mask | None],
    window: tuple[slice, slice],
    canvas: _Canvas,
) -> None:
    """Enter what an area lacks: `masks` say where it is valid and where broken, px of the source from `origin`."""
    valid, broken = masks
    shape = next(mask.shape for mask in masks if mask is not None)
    bad = np.zeros(shape, dtype=np.bool_) if broken is None else broken
    step, info = source.step, source.reader.info
    grid = step, info.level_downsamples[source.level]
    across = _shares(origin[0], grid, shape[1], (area.x, area.x + area.width), info.width_px)
    down = _shares(origin[1], grid, shape[0], (area.y, area.y + area.height), info.height_px)
    missing = np.zeros(shape, dtype=np.bool_) if valid is None else ~valid & ~bad
    canvas.no_data += float(down @ missing @ across)
    canvas.unreadable += float(down @ bad @ across)
    x, y = (
        np.clip((start + (np.arange(n) + 0.5) * size / n - first) // step, 0, count - 1).astype(np.int64)
        for start, size, n, first, count in (
            (area.x, area.width, area.out_width, origin[0], shape[1]),
            (area.y, area.height, area.out_height, origin[1], shape[0]),
        )
    )
    canvas.has_data[window] = ~(missing | bad)[np.ix_(y, x)]
    if bad.any():
        canvas.lost = np.zeros(canvas.has_data.shape, dtype=np.bool_) if canvas.lost is None else canvas.lost
        canvas.lost[window] = _touched(bad, area, origin, step)


def _touched(bad: _Mask, area: _Area, origin: tuple[float, float], step: float) -> _Mask:
    """Px of an area that a bad px of its source went into: the filter looks further than the px itself."""
    spans = []
    for start, size, n, first, count in (
        (area.y, area.height, area.out_height, origin[1], bad.shape[0]),
        (area.x, area.width, area.out_width, origin[0], bad.shape[1]),
    ):
        offset, scale = (start - first) / step, size / n / step
        # Without a rim nothing was rescaled.
        reach = _SUPPORT * max(scale, 1.0) if offset > _EXACT else 0.5
        middles = offset + (np.arange(n) + 0.5) * scale
        low, high = (np.floor(edge + 0.5 + _EXACT).astype(np.int64) for edge in (middles - reach, middles + reach))
        spans.append((np.clip(low, 0, count), np.clip(high, 0, count)))
    (top, bottom), (left, right) = spans
    total = np.zeros((bad.shape[0] + 1, bad.shape[1] + 1), dtype=np.int32)
    np.cumsum(np.cumsum(bad, axis=0, dtype=np.int32), axis=1, out=total[1:, 1:])
    until_right, until_left = (total[bottom][:, side] - total[top][:, side] for side in (right, left))
    return np.asarray(until_right > until_left)


def _shares(
    origin: float, grid: tuple[float, float], count: int, span: tuple[float, float], length: int
) -> NDArray[np.float64]:
    """Length of each of `count` px that lies in a span and on the slide, slide px: (count,).

    The last px of a coarse level lies on the slide only in part, and some writers drop it: it counts for nothing.
    `grid` is the step from px to px, and that of the level they were made from, slide px.
    """
    step, coarse = grid
    edges = origin + np.arange(count + 1) * step
    low, high = max(span[0], 0.0), min(span[1], length)
    shares = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, None)
    if coarse > 1:
        end = (math.floor(length / coarse + _EXACT) - 1) * coarse
        shares[(edges[:-1] < -_EXACT) | (edges[1:] > end + _EXACT)] = 0.0
    return np.asarray(shares)


def _level_for(reader: SlideReader, downsample: float) -> int:
    """Return the coarsest level that is still as fine as asked; the finest, if none is."""
    steps = reader.info.level_downsamples
    fine = [level for level, step in enumerate(steps) if step <= downsample * _LEVEL_TOLERANCE]
    return max(fine, key=lambda level: steps[level], default=0)


def _read(source: _Source, x_px: int, y_px: int, size: tuple[int, int]) -> tuple[Pixels, _Mask | None]:
    """Pixels and validity of a rectangle, and where it could not be decoded (height, width; None: all was)."""
    for _ in range(2):
        try:
            return source.reader.read_region(x_px, y_px, source.level, *size, plane=source.plane), None
        except DamagedSlideError:
            continue
    return _salvage(source, x_px, y_px, size)


def _salvage(source: _Source, x_px: int, y_px: int, size: tuple[int, int]) -> tuple[Pixels, _Mask]:
    """Read a rectangle tile by tile, leaving white what fails."""
    width, height = size
    step, tile = source.step, _tile_of(source)
    rgb = np.full((height, width, 3), 255, dtype=np.uint8)
    valid = np.zeros((height, width), dtype=np.bool_)
    broken = np.zeros((height, width), dtype=np.bool_)
    for y0, y1 in _cuts(y_px / step, height, tile[1]):
        for x0, x1 in _cuts(x_px / step, width, tile[0]):
            window = (slice(y0, y1), slice(x0, x1))
            corner = (x_px + round(x0 * step), y_px + round(y0 * step))
            try:
                rgb[window], part = source.reader.read_region(
                    *corner, source.level, x1 - x0, y1 - y0, plane=source.plane
                )
            except DamagedSlideError:
                broken[window] = True
                continue
            valid[window] = True if part is None else part
    return (rgb, valid), broken


def _tile_of(source: _Source) -> tuple[int, int]:
    """Width and height of the blocks to save a region by, px of the level."""
    tiles = tiles_of(source.reader)
    table = None if tiles is None else tiles.levels[source.level]
    if table is not None:
        return table.tile_width, table.tile_height
    width, height = source.reader.info.native_tile_px or (_BLOCK, _BLOCK)
    return width if width in _USEFUL_TILE else _BLOCK, height if height in _USEFUL_TILE else _BLOCK


def _cuts(start: float, length: int, side: int) -> list[tuple[int, int]]:
    """Cut `length` level px that begin at `start` where the file's tiles meet, so that a bad tile costs only itself.

    Where a seam falls between two px, the px around it are cut out: they need both tiles.
    """
    edges = {0, length}
    for seam in range(math.floor(start / side) * side, math.ceil(start + length) + side, side):
        place = seam - start
        whole = abs(place - round(place)) < _EXACT
        edges |= {round(place)} if whole else {math.floor(place) - 1, math.ceil(place) + 1}
    return list(itertools.pairwise(sorted(edge for edge in edges if 0 <= edge <= length)))
