"""Who may found a cell: which patch owns a detection, and which detections a patch edge has cut."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import StaleArtifactError
from wsi_detect.geometry import Boxes
from wsi_detect.tiling.grid import TileGrid

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Views:
    """Detections as their patches saw them; arrays have one entry a detection, lengths are slide px.

    Attributes:
        sides: (4, N) x0, y0, x1, y1, cut to the window of their patch.
        patch: (N,) row-major index of the patch in the grid.
        owned: (N,) the centre lies in the patch's core, grown by a margin; only such a view may found a cell.
        edges: (N,) uint8, which edges of its patch, beyond which the slide goes on, the box touches: bit k for
            side k. Such a box may be a part of a cell.
        alone: (N,) no other patch shows any of the box.
        windows: (P, 4) xyxy, the part of the slide that each patch of the grid shows.
    """

    sides: Boxes
    patch: Index
    owned: NDArray[np.bool_]
    edges: NDArray[np.uint8]
    alone: NDArray[np.bool_]
    windows: Boxes

    @property
    def cut(self) -> NDArray[np.bool_]:
        """Whether an edge may have cut the box: (N,)."""
        return self.edges > 0

    def take(self, index: Index) -> "Views":
        """Return some of the views."""
        return Views(
            self.sides.take(index, axis=1),
            self.patch[index],
            self.owned[index],
            self.edges[index],
            self.alone[index],
            self.windows,
        )

    @classmethod
    def join(cls, parts: Sequence["Views"]) -> "Views":
        """Put views of one slide behind each other."""
        return cls(
            np.concatenate([part.sides for part in parts], axis=1),
            np.concatenate([part.patch for part in parts]),
            np.concatenate([part.owned for part in parts]),
            np.concatenate([part.edges for part in parts]),
            np.concatenate([part.alone for part in parts]),
            parts[0].windows,
        )


def view(boxes: Boxes, patch: Index, grid: TileGrid, *, core_margin_px: float, cut_margin_px: float) -> Views:
    """Say of each detection whether its patch owns it, and whether an edge has cut it.

    Cores partition the slide. A hard core loses a cell that each of two patches, a pixel apart in their opinion of
    its centre, believes to be the other's; hence the margin.

    Args:
        boxes: (N, 4) xyxy in slide px.
        patch: (N,) row-major index of the patch that saw the box.
        grid: the grid of the slide.
        core_margin_px: how far cores grow, slide px.
        cut_margin_px: a box this close to an inner edge is cut, slide px.

    Raises:
        StaleArtifactError: a patch is not in the grid, or a box lies outside its patch.
    """
    check_patches(patch, grid)
    number = len(patch)
    sides = np.empty((4, number))
    owned, alone, inside = (np.ones(number, dtype=bool) for _ in range(3))
    edges = np.zeros(number, dtype=np.uint8)
    # Patches lie in rows and columns, so what bounds a box is known from its column along x and its row along y.
    row, column = np.divmod(patch, grid.shape[1])
    for axis, index in ((0, column), (1, row)):
        bounds = _bounds(grid, axis, core_margin_px)
        low, high = boxes[:, axis], boxes[:, axis + 2]
        corner = bounds.start[index]
        inside &= (low <= corner + grid.patch + 1) & (high >= corner - 1)
        window = bounds.low[index], bounds.high[index]
        low, high = (np.minimum(np.maximum(side, window[0]), window[1]) + 0.0 for side in (low, high))
        sides[axis], sides[axis + 2] = low, high
        edges |= (low - bounds.inner_low[index] <= cut_margin_px).view(np.uint8) << np.uint8(axis)
        edges |= (bounds.inner_high[index] - high <= cut_margin_px).view(np.uint8) << np.uint8(axis + 2)
        centre = (low + high) / 2
        owned &= (centre >= bounds.core_low[index]) & (centre <= bounds.core_high[index])
        alone &= (low >= bounds.before[index]) & (high <= bounds.after[index])
    _check_inside(inside, boxes, patch)
    # A box of no area shows nothing: it founds no cell and joins none.
    empty = (sides[2] - sides[0]) * (sides[3] - sides[1]) <= 0
    return Views(sides, patch, owned & ~empty, edges, alone | empty, _windows(grid))


@dataclass(frozen=True, slots=True)
class _Bounds:
    """What bounds boxes along one axis, an entry for each column (or row) of patches, slide px.

    Attributes:
        start: origin of the patches.
        low, high: their window.
        inner_low, inner_high: the same, infinitely far off where the slide ends.
        core_low, core_high: the grown core; infinitely far off where the slide ends, for there is no neighbour to
            leave a cell to.
        before, after: how far the windows of neighbours reach.
    """

    start: Boxes
    low: Boxes
    high: Boxes
    inner_low: Boxes
    inner_high: Boxes
    core_low: Boxes
    core_high: Boxes
    before: Boxes
    after: Boxes


@lru_cache(maxsize=8)
def _bounds(grid: TileGrid, axis: int, margin: float) -> _Bounds:
    """Return the bounds along an axis; asked for by every band of a slide."""
    step = slice(None, grid.shape[1]) if axis == 0 else slice(None, None, grid.shape[1])
    start = grid.origins()[step, axis].astype(np.float64)
    windows, cores = _windows(grid)[step], grid.cores()[step]
    low, high = windows[:, axis], windows[:, axis + 2]
    first, last = low <= 0, high >= (grid.width, grid.height)[axis]
    return _Bounds(
        start=start,
        low=low.copy(),
        high=high.copy(),
        inner_low=np.where(first, -np.inf, low),
        inner_high=np.where(last, np.inf, high),
        core_low=np.where(first, -np.inf, cores[:, axis] - margin),
        core_high=np.where(last, np.inf, cores[:, axis + 2] + margin),
        before=np.append(-np.inf, start[:-1] + grid.patch),
        after=np.append(start[1:], np.inf),
    )


@lru_cache(maxsize=4)
def _windows(grid: TileGrid) -> Boxes:
    return grid.boxes()


def check_patches(patch: Index, grid: TileGrid) -> None:
    """Refuse patches that are not in the grid."""
    foreign = (patch < 0) | (patch >= len(grid))
    if foreign.any():
        raise StaleArtifactError(
            f"patch {patch[foreign][0]} is not in the grid of {len(grid)} patches; "
            "these detections come from another tiling: run detect again"
        )


def _check_inside(inside: NDArray[np.bool_], boxes: Boxes, patch: Index) -> None:
    if inside.all():
        return
    worst = int(np.argmin(inside))
    raise StaleArtifactError(
        f"patch {patch[worst]} holds a box {boxes[worst].tolist()} that lies outside it; "
        "these detections come from another tiling: run detect again"
    )
