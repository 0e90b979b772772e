"""Pixels at a wanted resolution: the only place that chooses a level and rescales."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_detect.errors import DamagedSlideError
from wsi_detect.slides.reader import Pixels, SlideReader

#: Side of the blocks an undecodable region is saved by, px of its level: the usual tile.
_BLOCK = 256


@dataclass(frozen=True, slots=True, eq=False)
class RegionPixels:
    """A square of a slide, rendered.

    Attributes:
        rgb: (H, W, 3) uint8; white where there is nothing.
        no_data: fraction of the square inside the slide that the scanner left out.
        unreadable: fraction of the square that could not be decoded.
    """

    rgb: NDArray[np.uint8]
    no_data: float
    unreadable: float


def read_at_mpp(reader: SlideReader, x_px: int, y_px: int, size_px: int, out_px: int) -> RegionPixels:
    """Read a square and render it at another size.

    Args:
        reader: the slide.
        x_px: left edge, slide px; the square may reach beyond the slide, where it is white.
        y_px: top edge, slide px.
        size_px: side, slide px.
        out_px: side of the result.

    A region that cannot be decoded is tried once more (the reader has re-opened the file), then block by block; what
    still fails is white and counted.
    """
    level = _level_for(reader, size_px / out_px)
    side = max(1, round(size_px / reader.info.level_downsamples[level]))
    (rgb, valid), broken = _read(reader, x_px, y_px, level, side)
    inside = _inside(reader, x_px, y_px, size_px, side)
    missing = np.zeros((side, side), dtype=np.bool_) if valid is None else inside & ~valid & ~broken
    if side != out_px:
        rgb = np.asarray(
            Image.fromarray(rgb).resize(
                (out_px, out_px), Image.Resampling.BOX if side > out_px else Image.Resampling.BICUBIC
            )
        )
    return RegionPixels(np.ascontiguousarray(rgb), float(missing.mean()), float((broken & inside).mean()))


def thumbnail(reader: SlideReader, max_px: int) -> tuple[NDArray[np.uint8], float]:
    """Render the whole slide from its pyramid, never from a label or macro picture.

    Args:
        reader: the slide.
        max_px: longest side of the result.

    Returns:
        (H, W, 3) uint8 RGB, and slide px per px of it.
    """
    info = reader.info
    downsample = max(1.0, max(info.width_px, info.height_px) / max_px)
    width, height = max(1, round(info.width_px / downsample)), max(1, round(info.height_px / downsample))
    level = _level_for(reader, downsample)
    step = info.level_downsamples[level]
    canvas = np.full(
        (max(1, round(info.height_px / step)), max(1, round(info.width_px / step)), 3), 255, dtype=np.uint8
    )
    block = 2048
    for y in range(0, canvas.shape[0], block):
        for x in range(0, canvas.shape[1], block):
            h, w = min(block, canvas.shape[0] - y), min(block, canvas.shape[1] - x)
            (rgb, _), _ = _read_rectangle(reader, round(x * step), round(y * step), level, w, h)
            canvas[y : y + h, x : x + w] = rgb
    picture = Image.fromarray(canvas).resize((width, height), Image.Resampling.BOX)
    return np.array(picture), downsample


def _level_for(reader: SlideReader, downsample: float) -> int:
    """The coarsest level that is still at least as fine as asked; rounding of stored downsamples is forgiven."""
    fine = [k for k, step in enumerate(reader.info.level_downsamples) if step <= downsample * 1.005]
    return max(fine, key=lambda k: reader.info.level_downsamples[k]) if fine else 0


def _read(reader: SlideReader, x_px: int, y_px: int, level: int, side: int) -> tuple[Pixels, NDArray[np.bool_]]:
    return _read_rectangle(reader, x_px, y_px, level, side, side)


def _read_rectangle(
    reader: SlideReader, x_px: int, y_px: int, level: int, width: int, height: int
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Pixels and validity, and where they could not be decoded (height, width)."""
    sound = np.zeros((height, width), dtype=np.bool_)
    for _ in range(2):
        try:
            return reader.read_region(x_px, y_px, level, width, height), sound
        except DamagedSlideError:
            continue
    return _salvage(reader, x_px, y_px, level, (width, height))


def _salvage(
    reader: SlideReader, x_px: int, y_px: int, level: int, size: tuple[int, int]
) -> tuple[Pixels, NDArray[np.bool_]]:
    width, height = size
    step = reader.info.level_downsamples[level]
    rgb = np.full((height, width, 3), 255, dtype=np.uint8)
    valid = np.zeros((height, width), dtype=np.bool_)
    broken = np.zeros((height, width), dtype=np.bool_)
    # Blocks on the level's own tile lattice, so that one bad tile costs one block and not four.
    for y0, y1 in _cuts(round(y_px / step), height):
        for x0, x1 in _cuts(round(x_px / step), width):
            window = (slice(y0, y1), slice(x0, x1))
            try:
                part, part_valid = reader.read_region(
                    x_px + round(x0 * step), y_px + round(y0 * step), level, x1 - x0, y1 - y0
                )
            except DamagedSlideError:
                broken[window] = True
                continue
            rgb[window] = part
            valid[window] = True if part_valid is None else part_valid
    return (rgb, valid), broken


def _cuts(start: int, length: int) -> list[tuple[int, int]]:
    edges = [0, *range(_BLOCK - start % _BLOCK, length, _BLOCK), length]
    return [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if b > a]


def _inside(reader: SlideReader, x_px: int, y_px: int, size_px: int, side: int) -> NDArray[np.bool_]:
    centres = (np.arange(side) + 0.5) * size_px / side
    x, y = x_px + centres, y_px + centres
    across = (x >= 0) & (x < reader.info.width_px)
    down = (y >= 0) & (y < reader.info.height_px)
    return np.asarray(down[:, None] & across[None])
