"""A thumbnail in small blocks, for what is larger than a cell; and masks grown and shrunk."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

#: Side of a block, µm: two nuclei, so that a cell makes its block uneven.
BLOCK_UM = 16.0


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """The darkest and the brightest green of each block of a thumbnail; blocks at the end repeat the last px.

    Attributes:
        low: (rows, columns) uint8.
        high: (rows, columns) uint8.
        side: of a block, px.
        um: side of a block, µm.
        shape: of the thumbnail, px.
    """

    low: NDArray[np.uint8]
    high: NDArray[np.uint8]
    side: int
    um: float
    shape: tuple[int, int]

    @classmethod
    def of(cls, rgb: NDArray[np.uint8], um_per_px: float) -> Self:
        """Cut a thumbnail (h, w, 3) into blocks."""
        side = max(1, round(BLOCK_UM / um_per_px))
        height, width = rgb.shape[:2]
        green = np.ascontiguousarray(rgb[..., 1])
        if height % side or width % side:
            green = np.pad(green, ((0, -height % side), (0, -width % side)), mode="edge")
        rows = green.reshape(-1, side, green.shape[1])
        low, high = rows[:, 0], rows[:, 0]
        for k in range(1, side):
            low, high = np.minimum(low, rows[:, k]), np.maximum(high, rows[:, k])
        least, most = low[:, ::side], high[:, ::side]
        for k in range(1, side):
            least, most = np.minimum(least, low[:, k::side]), np.maximum(most, high[:, k::side])
        return cls(least, most, side, side * um_per_px, (height, width))

    def flat(self, grey: float, share: float) -> Mask:
        """Blocks whose green, neighbours included, varies by no more than `grey` + `share` of the brightest."""
        low, high = self.low, self.high
        for axis in (0, 1):
            low, high = _neighbours(low, np.minimum, axis), _neighbours(high, np.maximum, axis)
        return np.asarray(high.astype(np.int16) - low <= grey + share * high.astype(np.float32))

    def number(self, um: float) -> int:
        """How many blocks a length is, at least one."""
        return max(1, math.ceil(um / self.um))

    def to_px(self, blocks: Mask) -> Mask:
        """Spread a mask of blocks over the px of the thumbnail."""
        height, width = self.shape
        return np.repeat(np.repeat(blocks, self.side, axis=1)[:, :width], self.side, axis=0)[:height]


def grow(mask: Mask, radius: int) -> Mask:
    """Dilate a mask by a square of side 2 * radius + 1, shift by shift, each as far as what is there reaches."""
    grown = mask
    for axis in (0, 1):
        reached = 0
        while reached < radius:
            step = min(2 * reached + 1, radius - reached)
            last = np.moveaxis(grown, axis, 0)
            grown = grown.copy()
            now = np.moveaxis(grown, axis, 0)
            now[step:] |= last[:-step]
            now[:-step] |= last[step:]
            reached += step
    return grown


def shrink(mask: Mask, radius: int) -> Mask:
    """Erode a mask by a square of side 2 * radius + 1; nothing is lost at the thumbnail's own border."""
    return ~grow(~mask, radius)


def _neighbours(values: NDArray[np.uint8], choose: np.ufunc, axis: int) -> NDArray[np.uint8]:
    """The least, or the most, of each value and the two beside it."""
    chosen = values.copy()
    old, new = np.moveaxis(values, axis, 0), np.moveaxis(chosen, axis, 0)
    choose(new[1:], old[:-1], out=new[1:])
    choose(new[:-1], old[1:], out=new[:-1])
    return chosen
