"""Who may found a cell: which patch owns a detection, and which detections a patch edge has cut."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import StaleArtifactError
from wsi_detect.geometry import Boxes, box_area
from wsi_detect.tiling.grid import TileGrid


@dataclass(frozen=True, slots=True)
class Views:
    """Detections as their patches saw them; every array has one entry a detection, lengths are slide px.

    Attributes:
        boxes: (N, 4) xyxy, cut to the window of their patch.
        windows: (N, 4) xyxy, the part of the slide the patch shows.
        patch: (N,) row-major index of the patch in the grid.
        owned: (N,) the centre lies in the patch's core, grown by a margin; only such a view may found a cell.
        cut: (N,) the box touches an edge beyond which the slide goes on: it may be a part of a cell.
        alone: (N,) no other patch shows any of the box.
    """

    boxes: Boxes
    windows: Boxes
    patch: NDArray[np.int64]
    owned: NDArray[np.bool_]
    cut: NDArray[np.bool_]
    alone: NDArray[np.bool_]


def view(
    boxes: Boxes, patch: NDArray[np.int64], grid: TileGrid, *, core_margin_px: float, cut_margin_px: float
) -> Views:
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
    _check(boxes, patch, grid)
    windows = grid.boxes()[patch]
    limit = np.array([grid.width, grid.height, grid.width, grid.height], dtype=np.float64)
    seen = np.clip(boxes, windows[:, [0, 1, 0, 1]], windows[:, [2, 3, 2, 3]]) + 0.0
    inner = np.column_stack([windows[:, :2] > 0, windows[:, 2:] < limit[2:]])
    # A box of no area shows nothing: it founds no cell and joins none.
    empty = box_area(seen) == 0
    return Views(
        boxes=seen,
        windows=windows,
        patch=patch,
        owned=_owned(seen, grid.cores()[patch], inner, core_margin_px) & ~empty,
        cut=np.asarray((inner & (np.abs(seen - windows) <= cut_margin_px)).any(axis=1)),
        alone=_alone(seen, patch, grid) | empty,
    )


def _owned(boxes: Boxes, cores: Boxes, inner: NDArray[np.bool_], margin: float) -> NDArray[np.bool_]:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    # At the rim of the slide there is no neighbour to leave the cell to.
    low = np.where(inner[:, :2], cores[:, :2] - margin, -np.inf)
    high = np.where(inner[:, 2:], cores[:, 2:] + margin, np.inf)
    return np.asarray(((centres >= low) & (centres <= high)).all(axis=1))


def _alone(boxes: Boxes, patch: NDArray[np.int64], grid: TileGrid) -> NDArray[np.bool_]:
    """Whether a box touches no window but its own: windows of neighbours reach furthest along each axis."""
    columns = grid.shape[1]
    origins = grid.origins()
    result = np.ones(len(patch), dtype=bool)
    for axis, index in ((0, patch % columns), (1, patch // columns)):
        starts = np.unique(origins[:, axis]).astype(np.float64)
        before = np.concatenate([[-np.inf], starts[:-1] + grid.patch])
        after = np.concatenate([starts[1:], [np.inf]])
        result &= (boxes[:, axis] >= before[index]) & (boxes[:, axis + 2] <= after[index])
    return result


def _check(boxes: Boxes, patch: NDArray[np.int64], grid: TileGrid) -> None:
    foreign = (patch < 0) | (patch >= len(grid))
    if foreign.any():
        raise StaleArtifactError(
            f"patch {patch[foreign][0]} is not in the grid of {len(grid)} patches; "
            "these detections come from another tiling: run detect again"
        )
    corner = grid.origins()[patch].astype(np.float64)
    outside = (boxes[:, :2] > corner + grid.patch + 1) | (boxes[:, 2:] < corner - 1)
    if outside.any():
        worst = int(np.flatnonzero(outside.any(axis=1))[0])
        raise StaleArtifactError(
            f"patch {patch[worst]} holds a box {boxes[worst].tolist()} that lies outside it; "
            "these detections come from another tiling: run detect again"
        )
