"""Where the px of an evidence map lie, which patch owns which of them, and the windows a model must see for that.

A px belongs to the patch whose core its centre lies in. Cores partition the slide, so owned blocks partition the map.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.tiling.grid import TileGrid

#: Rounding of a float product must not push a px over an edge it lies on.
_EXACT = 1e-6
#: Less than this part of a px at the slide's edge gets none of its own.
_SLIVER = 0.01


@dataclass(frozen=True, slots=True)
class MapGrid:
    """The px of a map over the patches of a slide.

    Attributes:
        grid: of the patches, slide px.
        px: side of a px of the map, slide px; the first begins at the top left corner of the slide.
    """

    grid: TileGrid
    px: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; the last of each may reach beyond the slide."""
        return self._count(self.grid.height), self._count(self.grid.width)

    def blocks(self) -> NDArray[np.int64]:
        """Px each patch owns: (N, 4) first column, first row, and those behind the last, for every patch of the grid.

        Blocks are disjoint and cover the map. One is empty where px are wider than cores.
        """
        cores = self.grid.cores()
        x0, x1 = self._owned(cores[:, 0], cores[:, 2], self.grid.width)
        y0, y1 = self._owned(cores[:, 1], cores[:, 3], self.grid.height)
        return np.column_stack([x0, y0, x1, y1])

    def extents(self, blocks: NDArray[np.int64]) -> NDArray[np.float64]:
        """Blocks (N, 4) of px → the part of the slide they cover, (N, 4) xyxy, slide px."""
        limit = [self.grid.width, self.grid.height] * 2
        return np.asarray(np.minimum(blocks * self.px, np.array(limit, dtype=np.float64)))

    def _count(self, side: int) -> int:
        return max(1, math.ceil(side / self.px - _SLIVER))

    def _owned(
        self, low: NDArray[np.float64], high: NDArray[np.float64], side: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First px whose centre is not before `low`, and the first not before `high`; the slide's edge has the rest."""
        count = self._count(side)
        first, behind = (np.ceil(edge / self.px - 0.5 - _EXACT).astype(np.int64) for edge in (low, high))
        return np.clip(first, 0, count), np.where(high >= side, count, np.clip(behind, 0, count))


@dataclass(frozen=True, slots=True)
class Windows:
    """The square a model is shown for each patch: its block, a margin around it, on the model's own lattice.

    All windows are equally large and lie on the slide, but for less than a stride at its right and lower edge, or where
    the slide is smaller than a window. Their corners are multiples of the stride from the slide's corner, so a network
    that reduces its input meets the same px in the same places in every window.

    Attributes:
        scale: slide px per px of the model.
        side: of every window, px of the model.
        corners: (N, 2) x, y, px of the model, from the corner of the slide.
        needed: (N, 4) xyxy, the part of the slide the values of the block may look at, px of the model.
    """

    scale: float
    side: int
    corners: NDArray[np.int64]
    needed: NDArray[np.float64]


def lay_windows(map_grid: MapGrid, blocks: NDArray[np.int64], scale: float, margin_px: int, stride_px: int) -> Windows:
    """Lay a window around each block.

    Args:
        map_grid: of the map.
        blocks: (N, 4), see `MapGrid.blocks`.
        scale: slide px per px of the model.
        margin_px: px of the model around a block.
        stride_px: of the model's lattice, px of the model.
    """
    slide = np.array([map_grid.grid.width, map_grid.grid.height], dtype=np.float64) / scale
    extents = map_grid.extents(blocks) / scale
    low = np.maximum(extents[:, :2] - margin_px, 0.0)
    high = np.minimum(extents[:, 2:] + margin_px, slide)
    corners = np.floor(low / stride_px + _EXACT).astype(np.int64) * stride_px
    longest = float((high - corners).max(initial=1.0))
    side = math.ceil(longest / stride_px - _EXACT) * stride_px
    last = np.ceil(np.maximum(slide - side, 0.0) / stride_px - _EXACT).astype(np.int64) * stride_px
    return Windows(scale, side, np.minimum(corners, last), np.column_stack([low, high]))


def area_means(
    values: NDArray[np.floating] | NDArray[np.uint8], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Means over spans of the first axis, each px weighing as much as it lies in the span: (N, …) → (M, …).

    Made of running sums, which take the same additions whatever the machine has of threads.

    Args:
        values: (N, …) one value a px.
        low: (M,) where spans begin, px, within [0, N).
        high: (M,) where they end, px, above `low`, within (0, N].
    """
    count = len(values)
    total = np.zeros((count + 1, *values.shape[1:]), np.float64)
    np.cumsum(values, axis=0, dtype=np.float64, out=total[1:])
    wide = (slice(None), *([None] * (values.ndim - 1)))

    def until(place: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = np.minimum(np.floor(place + _EXACT).astype(np.int64), count - 1)
        # A span that ends a rounding error beyond a px has nothing of the next.
        rest = np.where(np.abs(place - np.rint(place)) < _EXACT, np.rint(place), place) - whole
        return np.asarray(total[whole] + rest[wide] * values[whole])

    return np.asarray((until(high) - until(low)) / (high - low)[wide])


def grown(mask: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Px no farther than `margin` rows and columns from a px of a mask: (H, W) → (H, W)."""
    for _ in range(2):
        count = len(mask)
        total = np.zeros((count + 1, mask.shape[1]), np.int64)
        np.cumsum(mask, axis=0, out=total[1:])
        place = np.arange(count)
        mask = (total[np.minimum(place + margin + 1, count)] > total[np.maximum(place - margin, 0)]).T
    return mask
