"""Where the cells are: whatever absorbs light on a thumbnail, and for a liquid-based preparation the deposit circle.

The mask only saves work, so every choice leans to the side of keeping: one pale cell on clean ground must be in it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect.config import Config
from wsi_detect.errors import DamagedSlideError
from wsi_detect.geometry import Box
from wsi_detect.slides.reader import Pixels, SlideReader
from wsi_detect.slides.resample import thumbnail

Mask = NDArray[np.bool_]
Preparation = Literal["auto", "lbc", "smear", "none"]

#: Deposits of the liquid-based systems are 13 mm (SurePath) and 20 mm (ThinPrep) across; scanners and filters vary.
_DEPOSIT_MM = (10.0, 25.0)
#: Side of the blocks the geometry of a deposit is judged on, µm.
_BLOCK_UM = 250.0
_TINY = 1e-7


class MaskConfig(Config):
    """How to find the cells.

    Attributes:
        preparation: `lbc` and `auto` look for a deposit circle, `smear` does not, `none` keeps the whole slide.
        um_per_px: resolution of the thumbnail, µm per px; a nucleus should be at least two of them wide.
        max_px: longest side of the thumbnail whatever the slide's size.
        stain_threshold: optical density above the clean ground that counts as stain, in any colour channel.
            0.02 is 5 % of the light; pale cytoplasm takes 10 % and more, a nucleus a third.
        margin_um: how far the mask is grown around every stained pixel, µm.
        circle_margin: how far the deposit circle is grown before stain outside it is left out, fraction of its radius.
    """

    preparation: Preparation = "auto"
    um_per_px: float = Field(default=4.0, gt=0)
    max_px: int = Field(default=8192, ge=64)
    stain_threshold: float = Field(default=0.02, gt=0, lt=1)
    margin_um: float = Field(default=20.0, ge=0)
    circle_margin: float = Field(default=0.1, ge=0)


@dataclass(frozen=True, slots=True)
class Circle:
    """A deposit circle, slide px."""

    x_px: float
    y_px: float
    radius_px: float


@dataclass(frozen=True, slots=True, eq=False)
class CellMask:
    """Which parts of a slide hold cells.

    Attributes:
        mask: (h, w) bool, one entry per `downsample` x `downsample` slide px.
        downsample: slide px per mask px.
        circle: the deposit circle outside which stain was left out, if one was found.
        left_out: stained area left out, slide px², by reason.
        ground: colour of the clean glass, RGB.
    """

    mask: Mask
    downsample: float
    circle: Circle | None = None
    left_out: Mapping[str, float] = field(default_factory=dict)
    ground: tuple[float, float, float] = (255.0, 255.0, 255.0)
    _sums: NDArray[np.uint32] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sums", _integral(self.mask))

    def area_px(self) -> float:
        """Area of the mask, slide px²."""
        return float(self.mask.sum()) * self.downsample**2

    @property
    def left_out_px(self) -> float:
        """Stained area left out for whatever reason, slide px²."""
        return sum(self.left_out.values())

    def coverage(self, boxes: NDArray[np.floating]) -> NDArray[np.float32]:
        """Fraction of each box inside the mask: boxes (N, 4) xyxy slide px → (N,) float32 in [0, 1]."""
        b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) / self.downsample
        x0, y0, x1, y1 = b.T
        covered = self._sum_to(x1, y1) - self._sum_to(x0, y1) - self._sum_to(x1, y0) + self._sum_to(x0, y0)
        area = (x1 - x0) * (y1 - y0)
        fraction = np.divide(covered, area, out=np.zeros_like(covered), where=area > 0)
        # What is left of a difference of large sums is not a touch.
        fraction[fraction < _TINY] = 0.0
        return np.asarray(np.minimum(fraction, 1.0), dtype=np.float32)

    def _sum_to(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mask area between the origin and points in mask px; linear between pixel edges, so exact."""
        height, width = self.mask.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        column = np.minimum(x.astype(np.int64), width - 1)
        row = np.minimum(y.astype(np.int64), height - 1)
        fx, fy = x - column, y - row
        upper = self._sums[row, column] * (1 - fx) + self._sums[row, column + 1] * fx
        lower = self._sums[row + 1, column] * (1 - fx) + self._sums[row + 1, column + 1] * fx
        return np.asarray(upper * (1 - fy) + lower * fy)


def find_cells(reader: SlideReader, config: MaskConfig | None = None) -> CellMask:
    """Find where the cells of a slide are.

    Args:
        reader: an open slide with a known resolution.
        config: thresholds and preparation.

    Returns:
        The mask; empty for a blank slide, everything when `preparation` is `none`.

    Raises:
        MissingResolutionError: nobody knows the size of a pixel.
    """
    config = config or MaskConfig()
    info = reader.info
    longest = max(info.width_px, info.height_px)
    if config.preparation == "none":
        return CellMask(np.ones((1, 1), dtype=np.bool_), float(longest))
    mpp = info.resolution()
    side = min(config.max_px, max(64, math.ceil(longest * mpp / config.um_per_px)), longest)
    watch = _Watch(reader)
    rgb, downsample = thumbnail(watch, side)
    ground = clean_ground(rgb)
    stained = stain_mask(rgb, ground, config.stain_threshold)
    um = downsample * mpp
    circle = None if config.preparation == "smear" else deposit_circle(stained, um)
    left_out = {}
    if circle is not None:
        outside = stained & ~_disc(stained.shape, circle, 1 + config.circle_margin)
        left_out["outside_deposit"] = float(outside.sum()) * downsample**2
        stained &= ~outside
        circle = Circle(circle.x_px * downsample, circle.y_px * downsample, circle.radius_px * downsample)
    mask = grow(stained, math.ceil(config.margin_um / um))
    for x0, y0, x1, y1 in watch.leaves():
        rows = slice(max(0, math.floor(y0 / downsample)), max(0, math.ceil(y1 / downsample)))
        mask[rows, max(0, math.floor(x0 / downsample)) : max(0, math.ceil(x1 / downsample))] = True
    return CellMask(mask, downsample, circle, left_out, ground)


class _Watch:
    """A reader that remembers what could not be decoded: it is white on a thumbnail, but not known to be clean.

    The full resolution may be sound where the pyramid is not, so such areas belong to the mask.
    """

    def __init__(self, reader: SlideReader) -> None:
        self._reader = reader
        self.info = reader.info
        self._failed: list[Box] = []

    def read_region(self, x_px: int, y_px: int, level: int, width: int, height: int, *, plane: int = 0) -> Pixels:
        """Read a rectangle, and note it if that fails."""
        try:
            return self._reader.read_region(x_px, y_px, level, width, height, plane=plane)
        except DamagedSlideError:
            step = self.info.level_downsamples[level]
            self._failed.append(Box(x_px, y_px, x_px + width * step, y_px + height * step))
            raise

    def close(self) -> None:
        """Leave the slide open: it belongs to somebody else."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def leaves(self) -> list[Box]:
        """Return the failed rectangles, slide px, without those of which a smaller part was tried and failed."""
        failed = sorted(set(self._failed))
        return [box for box in failed if not any(other != box and _holds(box, other) for other in failed)]


def _holds(outer: Box, inner: Box) -> bool:
    # Half a pixel of the level is lost when a block's corner is rounded to slide px.
    slack = 0.01 * outer.width
    return (
        outer.x0 - slack <= inner.x0
        and outer.y0 - slack <= inner.y0
        and inner.x1 <= outer.x1 + slack
        and inner.y1 <= outer.y1 + slack
        and inner.width * inner.height < outer.width * outer.height
    )


def clean_ground(rgb: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Colour of the clean glass of a thumbnail: the commonest value near the bright end of what is not pure white.

    Not the bright end itself: around dark cells a thumbnail's JPEG overshoots, and glass would pass for stain. Areas
    without data are white and say nothing about it; where all is white, so is the ground. Where a slide shows no clean
    ground at all, its brightest cytoplasm is taken for it, and nuclei still stand out.
    """
    known = (rgb < 255).any(axis=2)
    if not known.any():
        return (255.0, 255.0, 255.0)
    red, green, blue = (float(_bright_peak(rgb[..., channel][known])) for channel in range(3))
    return (red, green, blue)


def stain_mask(rgb: NDArray[np.uint8], ground: tuple[float, float, float], threshold: float) -> Mask:
    """Pixels darker than the ground by an optical density of `threshold` in any channel: (h, w, 3) → (h, w)."""
    # OD > t is the same as value < ground * 10^-t, without a logarithm per pixel.
    limit = np.array(ground) * 10.0**-threshold
    return np.asarray((rgb < limit).any(axis=2) & (rgb < 255).any(axis=2))


def deposit_circle(stained: Mask, um_per_px: float) -> Circle | None:
    """Find the round deposit of a liquid-based preparation, in px of the mask, or None where there is none.

    The moments of a filled disc give centre and radius (median of squared distances = R² / 2); it is believed only
    if it is as large as such deposits are, evenly filled, and surrounded by clean glass.
    """
    block = max(1, round(_BLOCK_UM / um_per_px))
    occupied = _blocks(stained, block)
    rows, columns = np.nonzero(occupied)
    if not len(rows):
        return None
    x, y = float(np.median(columns)) + 0.5, float(np.median(rows)) + 0.5
    distances = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    radius = math.sqrt(2.0 * float(np.median(distances**2)))
    diameter_mm = 2 * radius * block * um_per_px / 1000
    inside = float((distances <= 1.05 * radius).mean())
    filled = float((distances <= radius).sum()) / (math.pi * max(radius, 1.0) ** 2)
    ring = int(((distances > 1.05 * radius) & (distances <= 1.25 * radius)).sum())
    ring_share = ring / (math.pi * (1.25**2 - 1.05**2) * max(radius, 1.0) ** 2)
    low, high = _DEPOSIT_MM
    if low <= diameter_mm <= high and inside >= 0.95 and filled >= 0.6 and ring_share <= 0.1:
        return Circle(x * block, y * block, radius * block)
    return None


def grow(mask: Mask, radius: int) -> Mask:
    """Dilate a mask by a square of side 2 * radius + 1, through window sums."""
    if radius < 1:
        return mask
    height, width = mask.shape
    sums = _integral(mask)
    top, bottom = np.clip(np.arange(height) - radius, 0, height), np.clip(np.arange(height) + radius + 1, 0, height)
    left, right = np.clip(np.arange(width) - radius, 0, width), np.clip(np.arange(width) + radius + 1, 0, width)
    bands = sums[bottom] - sums[top]
    return np.asarray(bands[:, right] - bands[:, left] > 0)


def _bright_peak(values: NDArray[np.uint8]) -> int:
    # By histogram: the thumbnail of a large smear has tens of millions of pixels.
    counts = np.bincount(values, minlength=256)
    sums = np.cumsum(counts)
    top = int(np.searchsorted(sums, 0.99 * sums[-1]))
    # Pale cytoplasm takes 10 % of the light and more.
    low = math.ceil(0.93 * top)
    return low + int(counts[low : top + 1].argmax())


def _integral(mask: Mask) -> NDArray[np.uint32]:
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.uint32)
    np.cumsum(mask, axis=0, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    return sums


def _blocks(stained: Mask, block: int) -> Mask:
    """Blocks of which at least 2 % is stained: dust on clean glass is not a deposit."""
    sums = _integral(stained)
    y = np.arange(0, stained.shape[0] + block, block).clip(max=stained.shape[0])
    x = np.arange(0, stained.shape[1] + block, block).clip(max=stained.shape[1])
    counts = np.diff(np.diff(sums[np.ix_(y, x)], axis=0), axis=1)
    return np.asarray(counts >= 0.02 * block * block)


def _disc(shape: tuple[int, ...], circle: Circle, factor: float) -> Mask:
    y, x = np.ogrid[: shape[0], : shape[1]]
    reach = circle.radius_px * factor
    return np.asarray((x + 0.5 - circle.x_px) ** 2 + (y + 0.5 - circle.y_px) ** 2 <= reach**2)
