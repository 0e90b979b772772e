"""Where the cells are: whatever absorbs light on a thumbnail, less what is known to be no cell.

The mask only saves work, so every choice leans to the side of keeping: one pale cell on clean ground must be in it.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from wsi_detect.config import Config
from wsi_detect.errors import DamagedSlideError
from wsi_detect.geometry import Box
from wsi_detect.slides.reader import Pixels, SlideReader
from wsi_detect.slides.resample import thumbnail
from wsi_detect.slides.tiles import tiles_of
from wsi_detect.tiling.blocks import Blocks, Mask, grow
from wsi_detect.tiling.deposit import Circle, deposit_circle, disc
from wsi_detect.tiling.glass_edges import EdgeConfig, find_coverslip, find_label
from wsi_detect.tiling.ink import InkConfig, find_ink

Preparation = Literal["auto", "lbc", "smear", "none"]
Artefact = Literal["pen", "label", "coverslip"]
Colour = tuple[float, float, float]

_TINY = 1e-7
#: The ground is looked for on no more px than about this.
_GROUND_PX = 2**18


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
        leave_out: what is looked for and left out: pen marks, label or frosted end, edges of the coverslip.
        ink: what counts as a pen mark.
        edges: what counts as a label or as an edge of the coverslip.
    """

    preparation: Preparation = "auto"
    um_per_px: float = Field(default=4.0, gt=0)
    max_px: int = Field(default=8192, ge=64)
    stain_threshold: float = Field(default=0.02, gt=0, lt=1)
    margin_um: float = Field(default=20.0, ge=0)
    circle_margin: float = Field(default=0.1, ge=0)
    leave_out: tuple[Artefact, ...] = ("pen", "label", "coverslip")
    ink: InkConfig = InkConfig()
    edges: EdgeConfig = EdgeConfig()


@dataclass(frozen=True, slots=True, eq=False)
class CellMask:
    """Which parts of a slide hold cells.

    Attributes:
        mask: (h, w) bool, one entry per `downsample` x `downsample` slide px.
        downsample: slide px per mask px.
        circle: the deposit circle outside which stain was left out, if one was found.
        left_out: stained area left out, slide px², by reason: pen, label, coverslip, outside_deposit. A reason that
            took nothing is not there.
        ground: colour of the clean glass, RGB.
    """

    mask: Mask
    downsample: float
    circle: Circle | None = None
    left_out: Mapping[str, float] = field(default_factory=dict)
    ground: Colour = (255.0, 255.0, 255.0)
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
    um = downsample * mpp
    ground = clean_ground(rgb)
    stained = stain_mask(rgb, ground, config.stain_threshold)
    left_out: dict[str, float] = {}
    for reason, found in _artefacts(rgb, stained, ground, um, config):
        left_out[reason] = _remove(found, stained) * downsample**2
    circle = None if config.preparation == "smear" else deposit_circle(stained, um)
    if circle is not None:
        left_out["outside_deposit"] = (
            _remove(~disc(stained.shape, circle, 1 + config.circle_margin), stained) * downsample**2
        )
        circle = Circle(circle.x_px * downsample, circle.y_px * downsample, circle.radius_px * downsample)
    mask = grow(stained, math.ceil(config.margin_um / um))
    for x0, y0, x1, y1 in watch.leaves():
        rows = slice(max(0, math.floor(y0 / downsample)), max(0, math.ceil(y1 / downsample)))
        mask[rows, max(0, math.floor(x0 / downsample)) : max(0, math.ceil(x1 / downsample))] = True
    return CellMask(mask, downsample, circle, {name: area for name, area in left_out.items() if area > 0}, ground)


def _artefacts(
    rgb: NDArray[np.uint8], stained: Mask, ground: Colour, um: float, config: MaskConfig
) -> Iterator[tuple[str, Mask]]:
    """Masks (h, w) of what is stained and no cell, with the reason; `stained` shrinks between one and the next."""
    if not config.leave_out or not stained.any():
        return
    blocks = Blocks.of(rgb, um)
    if "label" in config.leave_out and (label := find_label(blocks, ground, config.edges)) is not None:
        yield "label", blocks.to_px(label)
    if "pen" in config.leave_out and (ink := find_ink(rgb, blocks, ground, config.ink)) is not None:
        yield "pen", blocks.to_px(ink)
    if "coverslip" in config.leave_out:
        line = find_coverslip(stained, blocks, ground, config.edges)
        if line is not None:
            yield "coverslip", line


def _remove(found: Mask, stained: Mask) -> int:
    """Take what was found out of the stained px; returns how many those were."""
    before = int(np.count_nonzero(stained))
    stained &= ~found
    return before - int(np.count_nonzero(stained))


class _Watch:
    """A reader that remembers what could not be decoded: it is white on a thumbnail, but not known to be clean.

    The full resolution may be sound where the pyramid is not, so such areas belong to the mask.
    """

    def __init__(self, reader: SlideReader) -> None:
        self._reader = reader
        self.info = reader.info
        # What the slide's own tiles can tell is not asked of the reader, which may be a thousand times slower.
        self.tiles = tiles_of(reader)
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


def clean_ground(rgb: NDArray[np.uint8]) -> Colour:
    """Colour of the clean glass of a thumbnail: the commonest value near the bright end of what is not pure white.

    Not the bright end itself: around dark cells a thumbnail's JPEG overshoots, and glass would pass for stain. Areas
    without data are white and say nothing about it; where all is white, so is the ground. Where a slide shows no clean
    ground at all, its brightest cytoplasm is taken for it, and nuclei still stand out.
    """
    step = max(1, math.isqrt(rgb.shape[0] * rgb.shape[1] // _GROUND_PX))
    few = np.ascontiguousarray(rgb[::step, ::step])
    known = _below(few, (255.0, 255.0, 255.0))
    if not known.any():
        return (255.0, 255.0, 255.0)
    # The thumbnail of a large smear has tens of millions of pixels: a histogram sorts none of them.
    counts = Image.fromarray(few).histogram(mask=Image.fromarray(known.view(np.uint8) * np.uint8(255)))
    red, green, blue = (_bright_peak(channel) for channel in np.reshape(counts, (3, 256)))
    return (red, green, blue)


def _bright_peak(counts: NDArray[np.int64]) -> float:
    sums = np.cumsum(counts)
    top = int(np.searchsorted(sums, 0.99 * sums[-1]))
    # Pale cytoplasm takes 10 % of the light and more.
    low = math.ceil(0.93 * top)
    return float(low + counts[low : top + 1].argmax())


def stain_mask(rgb: NDArray[np.uint8], ground: Colour, threshold: float) -> Mask:
    """Pixels darker than the ground by an optical density of `threshold` in any channel: (h, w, 3) → (h, w)."""
    # OD > t is the same as value < ground * 10^-t, without a logarithm per pixel.
    red, green, blue = (level * 10.0**-threshold for level in ground)
    return _below(rgb, (red, green, blue))


def _below(rgb: NDArray[np.uint8], limit: Colour) -> Mask:
    # One channel at a time and in bytes: a comparison along the last axis takes ten times as long.
    red, green, blue = (rgb[..., k] < np.uint8(math.ceil(limit[k])) for k in range(3))
    return np.asarray(red | green | blue)


def _integral(mask: Mask) -> NDArray[np.uint32]:
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.uint32)
    np.cumsum(mask, axis=1, out=sums[1:, 1:])
    # Row on row stays in the cache; a cumulative sum down the columns does not.
    for above, row in itertools.pairwise(sums):
        row += above
    return sums
