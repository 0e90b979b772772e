"""Painted cells, and what overlapping patches report of them: what the benchmark of the stitcher works on.

A detector that sees every cell, and every piece of a cell that a patch shows, reports boxes whose four sides are off
by up to ±jitter px (evenly distributed, independent in every patch). One setting; real detectors err in other ways.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsi_detect.geometry import box_area, box_intersection
from wsi_detect.schema import BOX_COLUMNS, DETECTIONS
from wsi_detect.testing.painter import boxes_of, lay_cells
from wsi_detect.tiling.grid import TileGrid

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

CLASSES = ("NILM", "LSIL", "HSIL", "SCC")
#: Lowest and highest score of a cell that a patch edge cuts, by name; a whole cell has 0.3 to 0.9.
CUT_SCORES = {"low": (0.1, 0.25), "alike": (0.3, 0.9), "high": (0.95, 0.95)}
#: Slide of the scenes of quality; its cells are at most as large as the overlap.
SIDE, PATCH, OVERLAP = 12_000, 512, 80
#: Share of the detections that is the cells themselves, where patches overlap by a fifth.
_CELLS_PER_DETECTION = 0.61


@dataclass(frozen=True)
class Scene:
    """What patches report, in their order: boxes (N, 4) slide px, patch, truth (row of the cell), score, label (N,)."""

    grid: TileGrid
    cells: Floats
    boxes: Floats
    patch: Index
    truth: Index
    score: Floats
    label: Index

    def table(self) -> pa.Table:
        """Return it as rows of `schema.DETECTIONS`, class scores included."""
        rest = np.repeat((1 - self.score[:, None]) / len(CLASSES), len(CLASSES), axis=1)
        rest[np.arange(len(rest)), self.label] = self.score
        offsets = np.arange(len(rest) + 1, dtype=np.int32) * len(CLASSES)
        names = pa.DictionaryArray.from_arrays(self.label.astype(np.int32), pa.array(CLASSES))
        columns = {
            "slide_id": pa.repeat("painted", len(rest)),
            "patch_id": self.patch,
            **{name: self.boxes[:, k] for k, name in enumerate(BOX_COLUMNS)},
            "label": names.dictionary_decode(),
            "score": self.score.astype(np.float32),
            "class_scores": pa.ListArray.from_arrays(offsets, rest.astype(np.float32).ravel()),
        }
        return pa.table(columns, schema=DETECTIONS)


def see(
    cells: Floats, grid: TileGrid, rng: np.random.Generator, *, jitter: float, cut: str, least: float = 0.0
) -> Scene:
    """Report what each patch shows of the cells.

    Args:
        cells: boxes (M, 4) slide px.
        grid: the patches.
        rng: of jitter, scores and classes.
        jitter: by how much each side of a box may be off, px.
        cut: how pieces score, a name of `CUT_SCORES`.
        least: a piece that is a smaller share of its cell is not reported.
    """
    (columns, left), (rows, top) = (_shown_by(cells[:, [k, k + 2]], grid, k) for k in (0, 1))
    number = columns * rows
    truth = np.repeat(np.arange(len(cells)), number)
    nth = np.arange(len(truth)) - np.repeat(np.cumsum(number) - number, number)
    patch = (top[truth] + nth // columns[truth]) * grid.shape[1] + left[truth] + nth % columns[truth]
    window, whole = grid.boxes()[patch], cells[truth]
    low, high = window[:, [0, 1, 0, 1]], window[:, [2, 3, 2, 3]]
    piece = np.clip(whole, low, high)
    is_cut = (piece != whole).any(axis=1)
    boxes = np.clip(piece + rng.uniform(-jitter, jitter, piece.shape), low, high)
    score = rng.uniform(*CUT_SCORES["alike"], len(truth))
    score[is_cut] = rng.uniform(*CUT_SCORES[cut], int(is_cut.sum()))
    label = rng.integers(0, len(CLASSES), len(cells))[truth]
    kept = (boxes[:, :2] < boxes[:, 2:]).all(axis=1) & (box_area(piece) >= least * box_area(whole))
    # As a detector gives them: patch by patch.
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(patch[rows], kind="stable")]
    return Scene(grid, cells, boxes[rows], patch[rows], truth[rows], score[rows], label[rows])


def scene_of_size(kind: str, detections: int) -> Scene:
    """Return about that many detections on patches of 1024 px that overlap by a fifth, the same ones at every call.

    Args:
        kind: `uniform`, 30 cells of 20 to 80 px in a field of 1024 px; or `crowded`, ten times as many, four in ten
            of them beside another with an IoU of 0.3 to 0.6.
        detections: how many.
    """
    rng = np.random.default_rng(0)
    number = round(detections * _CELLS_PER_DETECTION)
    density, clumped = {"uniform": (30, 0.0), "crowded": (300, 0.4)}[kind]
    side = round(1024 * (number / density) ** 0.5)
    cells = _strew(number, side, clumped, rng)
    return see(cells, TileGrid(side, side, 1024, 205), rng, jitter=1, cut="alike", least=0.25)


@cache
def truth_of(kind: str, seed: int, number: int) -> Floats:
    """Cells (M, 4) of a slide of `SIDE` px by name.

    Args:
        kind: the painter's cells `alone`, or in `clumps` of 2 to 5 with an IoU up to 0.6; `large` objects of 100 to
            220 px, larger than the overlap; or `mixed`, such objects among the painter's cells, three in ten clumped.
        seed: same seed, same cells.
        number: how many of the painter's cells; of large objects as many as fit between them.
    """
    clumped = {"alone": 0.0, "clumps": 1.0, "mixed": 0.3}.get(kind)
    cells = np.zeros((0, 4))
    if clumped is not None:
        cells = boxes_of(lay_cells(SIDE, SIDE, number, seed, clumped=clumped, grids=((PATCH, OVERLAP),)))
    if kind in ("large", "mixed"):
        objects = _objects(np.random.default_rng(seed))
        free = ~(box_intersection(objects, cells) > 0).any(axis=1)
        cells = np.vstack([cells, objects[free]])
    return cells


def never_whole(scene: Scene) -> NDArray[np.bool_]:
    """Which cells (M,) no patch shows whole."""
    windows = scene.grid.boxes()[scene.patch]
    cells = scene.cells[scene.truth]
    held = (cells[:, :2] >= windows[:, :2]).all(axis=1) & (cells[:, 2:] <= windows[:, 2:]).all(axis=1)
    result = np.ones(len(scene.cells), dtype=bool)
    result[scene.truth[held]] = False
    return result


def _strew(number: int, side: int, clumped: float, rng: np.random.Generator) -> Floats:
    """Cells at random places, a share of them beside another one."""
    single = number - round(number * clumped)
    size = rng.uniform(20, 80, (single, 2))
    corner = rng.uniform(0, 1, (single, 2)) * (side - size)
    boxes = np.hstack([corner, corner + size])
    host = boxes[rng.choice(single, number - single, replace=False)]
    iou = rng.uniform(0.3, 0.6, len(host))
    # Two equal boxes shifted by a fraction d of the side along one axis have IoU (1 - d) / (1 + d).
    shift = (1 - iou) / (1 + iou) * rng.choice([-1, 1], len(host))
    step = np.zeros((len(host), 2))
    along, rows = rng.integers(0, 2, len(host)), np.arange(len(host))
    step[rows, along] = shift * (host[:, 2:] - host[:, :2])[rows, along]
    moved = host + np.hstack([step, step])
    fits = (moved >= 0).all(axis=1) & (moved <= side).all(axis=1)
    return np.vstack([boxes, moved[fits]])


def _objects(rng: np.random.Generator) -> Floats:
    """Objects that do not touch, one in each square of 300 px, at random in it."""
    squares = np.stack(np.meshgrid(*[np.arange(0, SIDE, 300)] * 2), axis=-1).reshape(-1, 2)
    size = rng.uniform(100, 220, squares.shape)
    corner = squares + rng.uniform(0, 1, squares.shape) * (290 - size)
    return np.hstack([corner, corner + size])


def _shown_by(spans: Floats, grid: TileGrid, axis: int) -> tuple[Index, Index]:
    """Along one axis: how many rows or columns of patches show a span (M, 2), and which is the first."""
    starts = np.unique(grid.origins()[:, axis])
    first = np.searchsorted(starts + grid.patch, spans[:, 0], side="right")
    return np.searchsorted(starts, spans[:, 1], side="left") - first, first
