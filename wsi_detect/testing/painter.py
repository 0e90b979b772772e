"""Paints slides with known cells: a bright-field look, and the arrangements that make stitching hard.

Cells stand alone, lie on the borders and corners of the patches one would cut, and lie in clumps whose members overlap
up to an IoU of 0.6. Everything follows from the seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect.geometry import Box, box_intersection, box_iou
from wsi_detect.testing.pyramid import write_pyramid
from wsi_detect.tiling.grid import TileGrid

#: Patch and overlap, slide px, of the grids whose borders cells are laid on.
GRIDS = ((256, 96), (512, 96), (1000, 128))
SMALLEST_PX = 20.0
LARGEST_PX = 80.0
LARGEST_IOU = 0.6
_GROUND = np.array([236.0, 234.0, 238.0], np.float32)
_TRIES = 200


@dataclass(frozen=True, slots=True)
class PaintedCell:
    """One cell of a painted slide; `box` in slide px, a multiple of a quarter px."""

    label: str
    box: Box


@dataclass(frozen=True, slots=True)
class PaintedSlide:
    """A painted slide and what is on it, cells from top to bottom."""

    path: Path
    cells: tuple[PaintedCell, ...]
    width: int
    height: int
    mpp: float | None

    def boxes(self) -> NDArray[np.float64]:
        """Boxes of the cells (N, 4) float64 xyxy, slide px."""
        return boxes_of(self.cells)


@dataclass(frozen=True, slots=True)
class _Look:
    """Absorbance of cytoplasm and nucleus (red, green, blue), and the nucleus' share of the cell's diameter."""

    cytoplasm: tuple[float, float, float]
    nucleus: tuple[float, float, float]
    share: float


#: How the classes are told apart on a painted slide. The graver the class, the larger and darker the nucleus.
_LOOKS = {
    "NILM": _Look((0.06, 0.30, 0.16), (1.1, 1.2, 0.6), 0.28),
    "LSIL": _Look((0.30, 0.14, 0.06), (1.3, 1.3, 0.7), 0.45),
    "HSIL": _Look((0.42, 0.28, 0.10), (1.7, 1.6, 0.9), 0.68),
    "SCC": _Look((0.05, 0.45, 0.80), (2.0, 1.9, 1.2), 0.55),
}
LABELS = tuple(_LOOKS)


def paint_slide(
    path: Path,
    *,
    width: int = 2048,
    height: int = 2048,
    mpp: float | None = 0.25,
    cells: Sequence[PaintedCell] | None = None,
    n_cells: int = 80,
    seed: int = 0,
) -> PaintedSlide:
    """Paint a slide and write it as a pyramidal tiled JPEG TIFF that OpenSlide opens.

    Args:
        path: the file, `.svs` or `.tif`.
        width: slide px.
        height: slide px.
        mpp: µm per px as the file states it; None leaves it out.
        cells: what to paint; None lays `n_cells` cells with `lay_cells`.
        n_cells: how many cells to lay when none are given.
        seed: of the arrangement and of the grain of the ground.

    Raises:
        ValueError: the cells do not fit, or one has a class that cannot be painted.
    """
    laid = tuple(lay_cells(width, height, n_cells, seed) if cells is None else sorted(cells, key=_order))
    canvas = _Canvas(laid, width, seed)
    write_pyramid(path, canvas.rows, width=width, height=height, mpp=mpp)
    return PaintedSlide(path, laid, width, height, mpp)


def paint_dark_slide(
    path: Path, *, width: int = 1024, height: int = 1024, mpp: float | None = 0.25, seed: int = 0
) -> PaintedSlide:
    """Paint the negative of a slide: bright cells on dark ground, as fluorescence and dark-field scans look."""
    laid = tuple(lay_cells(width, height, 20, seed))
    canvas = _Canvas(laid, width, seed)
    write_pyramid(path, lambda y0, y1: 255 - canvas.rows(y0, y1), width=width, height=height, mpp=mpp)
    return PaintedSlide(path, laid, width, height, mpp)


def paint_region(cells: Sequence[PaintedCell], *, width: int, height: int, seed: int = 0) -> NDArray[np.uint8]:
    """Paint cells straight into an array (height, width, 3), without a file and without JPEG."""
    return _Canvas(tuple(sorted(cells, key=_order)), width, seed).rows(0, height)


def lay_cells(
    width: int,
    height: int,
    n_cells: int,
    seed: int,
    *,
    bordering: float = 0.3,
    clumped: float = 0.3,
    grids: Sequence[tuple[int, int]] = GRIDS,
) -> list[PaintedCell]:
    """Lay cells of 20 to 80 px on a slide.

    Args:
        width: slide px.
        height: slide px.
        n_cells: how many.
        seed: same seed, same cells.
        bordering: share of cells centred within 3 px of a patch border or patch corner of `grids`.
        clumped: share of cells in clumps of 2 to 5; within a clump the IoU of pairs reaches up to 0.6, and the first
            pair has between 0.5 and 0.6. Cells of different groups touch but do not overlap.
        grids: patch and overlap, slide px.

    Returns:
        The cells from top to bottom.

    Raises:
        ValueError: the slide is too small for them.
    """
    rng = np.random.default_rng(seed)
    table = _Table(width, height)
    clump_cells = round(n_cells * clumped)
    while clump_cells >= 2:
        size = min(int(rng.integers(2, 6)), clump_cells)
        size += clump_cells - size == 1
        table.place(lambda: _clump(rng, table, size))  # noqa: B023  (called before the next turn)
        clump_cells -= size
    lines = _borders(width, height, grids)
    for number in range(n_cells - len(table.boxes)):
        if number < round(n_cells * bordering):
            table.place(lambda: _box_near(rng, lines)[None])
        else:
            table.place(lambda: _box_at(rng, rng.random(2) * [width, height])[None])
    labels = rng.integers(0, len(LABELS), len(table.boxes))
    cells = [PaintedCell(LABELS[k], Box(*map(float, box))) for k, box in zip(labels.tolist(), table.boxes, strict=True)]
    return sorted(cells, key=_order)


def boxes_of(cells: Sequence[PaintedCell]) -> NDArray[np.float64]:
    """Boxes (N, 4) float64 xyxy of painted cells, slide px."""
    return np.array([cell.box for cell in cells], dtype=np.float64).reshape(-1, 4)


class _Table:
    """The cells laid so far; a new group must lie on the slide and clear of every other."""

    def __init__(self, width: int, height: int) -> None:
        self.size = (width, height)
        self.boxes: NDArray[np.float64] = np.zeros((0, 4))

    def place(self, propose: Callable[[], NDArray[np.float64]]) -> None:
        for _ in range(_TRIES):
            boxes = propose()
            inside = (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= self.size).all()
            if inside and not box_intersection(boxes, self.boxes).any():
                self.boxes = np.vstack([self.boxes, boxes])
                return
        raise ValueError(f"no room for another cell among {len(self.boxes)} on {self.size[0]} x {self.size[1]} px")


class _Canvas:
    """Renders any band of rows; the same pixel is the same whatever band it is asked in."""

    def __init__(self, cells: tuple[PaintedCell, ...], width: int, seed: int) -> None:
        unknown = sorted({cell.label for cell in cells} - set(_LOOKS))
        if unknown:
            raise ValueError(f"cannot paint {', '.join(unknown)}; known: {', '.join(LABELS)}")
        self.cells = cells
        self.boxes = boxes_of(cells)
        self.width = width
        grain = np.random.default_rng(seed + 1).normal(0, 1.5, (256, 256, 1)).astype(np.float32)
        # Blurred along both axes: chromatin and glass have structure, not the white noise of a sensor.
        self.grain = grain + np.roll(grain, 1, axis=0) + np.roll(grain, 1, axis=1)
        self.ground = _GROUND + grain

    def rows(self, y0: int, y1: int) -> NDArray[np.uint8]:
        lines = np.arange(y0, y1) % 256
        band = np.tile(self.ground[lines], (1, -(-self.width // 256), 1))[:, : self.width]
        touching = (self.boxes[:, 1] < y1) & (self.boxes[:, 3] > y0)
        for k in np.flatnonzero(touching):
            _stain(band, self.cells[k], y0, self.grain)
        return np.clip(np.rint(band), 0, 255).astype(np.uint8)


def _stain(band: NDArray[np.float32], cell: PaintedCell, y0: int, grain: NDArray[np.float32]) -> None:
    """Darken what the cell covers; overlapping cells absorb together, so that the order does not matter."""
    box, look = cell.box, _LOOKS[cell.label]
    left, right = max(int(box.x0), 0), min(int(np.ceil(box.x1)), band.shape[1])
    top, bottom = max(int(box.y0), y0), min(int(np.ceil(box.y1)), y0 + len(band))
    dx = (np.arange(left, right, dtype=np.float32) + 0.5 - (box.x0 + box.x1) / 2) / (box.width / 2)
    dy = (np.arange(top, bottom, dtype=np.float32) + 0.5 - (box.y0 + box.y1) / 2) / (box.height / 2)
    radius = np.hypot(dx[None], dy[:, None])
    half = min(box.width, box.height) / 2
    absorbed = _disc(radius, 1.0, half) * np.array(look.cytoplasm, np.float32)
    absorbed += _disc(radius, look.share, half) * np.array(look.nucleus, np.float32)
    absorbed *= 1 + 0.04 * grain[np.arange(top, bottom)[:, None] % 256, np.arange(left, right) % 256]
    band[top - y0 : bottom - y0, left:right] *= np.exp(-absorbed)


def _disc(radius: NDArray[np.float32], edge: float, half: float) -> NDArray[np.float32]:
    """1 inside, 0 outside, one px wide slope between: (H, W, 1)."""
    slope = np.clip((edge - radius) * half + 0.5, 0, 1)
    return np.asarray(slope[..., None], dtype=np.float32)


def _box_at(rng: np.random.Generator, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    size = rng.uniform(SMALLEST_PX, LARGEST_PX) * np.clip(rng.normal(1, 0.1, 2), 0.8, 1.25)
    size = np.clip(size, SMALLEST_PX, LARGEST_PX)
    return _box_of(centre, size)


def _box_of(centre: NDArray[np.float64], size: NDArray[np.float64]) -> NDArray[np.float64]:
    """On the quarter px, so that sums of coordinates are exact; never larger than asked."""
    low = np.rint((centre - size / 2) * 4) / 4
    return np.concatenate([low, low + np.floor(size * 4) / 4])


def _borders(width: int, height: int, grids: Sequence[tuple[int, int]]) -> list[NDArray[np.float64]]:
    """Inner patch edges and core seams along x and along y."""
    lines: list[set[float]] = [set(), set()]
    for patch, overlap in grids:
        grid = TileGrid(width, height, patch, overlap)
        for edges in (grid.boxes(), grid.cores()):
            lines[0].update(edges[:, [0, 2]].ravel().tolist())
            lines[1].update(edges[:, [1, 3]].ravel().tolist())
    sides = (width, height)
    inner = [sorted(v for v in found if 0 < v < side) for found, side in zip(lines, sides, strict=True)]
    # A slide of one patch has no inner border; its middle does as well.
    return [np.array(values or [side / 2]) for values, side in zip(inner, sides, strict=True)]


def _box_near(rng: np.random.Generator, lines: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return a cell on a vertical border, a horizontal one, or where two cross."""
    on = (rng.choice(lines[0]), rng.choice(lines[1]))
    free = (rng.uniform(0, lines[0].max() + LARGEST_PX), rng.uniform(0, lines[1].max() + LARGEST_PX))
    kind = rng.integers(0, 3)
    centre = np.array([free[0] if kind == 1 else on[0], free[1] if kind == 0 else on[1]])
    return _box_at(rng, centre + rng.uniform(-3, 3, 2))


def _clump(rng: np.random.Generator, table: _Table, size: int) -> NDArray[np.float64]:
    boxes = _box_at(rng, rng.random(2) * table.size)[None]
    wanted = (0.5, LARGEST_IOU)
    for _ in range(_TRIES):
        if len(boxes) == size:
            return boxes
        near = boxes[rng.integers(0, len(boxes))]
        extent = near[2:] - near[:2]
        centre = (near[:2] + near[2:]) / 2 + extent * rng.uniform(-0.9, 0.9, 2)
        grown = np.clip(extent * rng.uniform(0.75, 1.3, 2), SMALLEST_PX, LARGEST_PX)
        box = _box_of(centre, grown)
        closest = box_iou(box[None], boxes).max()
        if wanted[0] <= closest <= wanted[1]:
            boxes = np.vstack([boxes, box])
            wanted = (0.1, LARGEST_IOU)
    # Off the slide: the table refuses it and asks again.
    return boxes - 2 * (table.size[0] + table.size[1])


def _order(cell: PaintedCell) -> tuple[float, float, float, float, str]:
    box = cell.box
    return box.y0, box.x0, box.y1, box.x1, cell.label
