"""All images of an evaluation as long columns, and every overlap that can matter: looked for once, used by all metrics.

Boxes that meet are found by the stitcher's sweep, over many images at a time: a field in a Python loop would cost more
than its boxes, and a full matrix of overlaps of a slide more than there is memory.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth, paired
from wsi_detect.geometry import Boxes
from wsi_detect.stitching.pairs import overlapping

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Label of an area to ignore, which is of any class.
ANY = -1
#: Boxes looked at together; bounds the memory of their pairs.
_BLOCK = 100_000


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Pairs of boxes, `first[k]` with `second[k]`, and how much they overlap, (M,) each."""

    first: Index
    second: Index
    overlap: NDArray[np.float64]

    def take(self, rows: Index | Mask) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(self.first[rows], self.second[rows], self.overlap[rows])


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Detections of all images, by image, within an image as they came.

    Attributes:
        boxes: (D, 4) xyxy, image px.
        scores: (D,).
        label: (D,) code of the class, see `Columns.names`.
        image: (D,) index of the image.
        order: (D,) the detections from the highest score down; equal ones by image, then as they came.
        place: (D,) where each stands in `order`.
    """

    boxes: Boxes
    scores: NDArray[np.float64]
    label: Index
    image: Index
    order: Index
    place: Index


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Labelled cells of all images, by image, then the areas to ignore.

    Attributes:
        boxes: (M, 4) xyxy, image px.
        label: (M,) code of the class, `ANY` for an area to ignore.
        image: (M,) index of the image.
    """

    boxes: Boxes
    label: Index
    image: Index


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """An evaluation in columns.

    Attributes:
        images: F, how many.
        names: class names that codes stand for.
        detections: what was found.
        cells: what is there.
        found: detection and cell of one image by IoU, or by the share of the detection inside an area to ignore; only
            pairs that reach `floor`.
        rivals: detections of one image and of different classes by IoU, the higher score first; only pairs that reach
            the IoU at which they mean one cell.
        floor: smallest overlap of `found`; a perfect box is let through a floor of 1.
    """

    images: int
    names: tuple[str, ...]
    detections: Detections
    cells: Cells
    found: Pairs
    rivals: Pairs
    floor: float

    def codes(self, names: Collection[str]) -> Mask:
        """Which of the codes (K,) stand for one of these names."""
        return np.array([name in names for name in self.names], np.bool_)


def lay_out(
    predictions: Collection[FieldPrediction],
    truths: Sequence[FieldTruth],
    merge_iou: float = 0.5,
    *,
    floor: float = 0.5,
) -> Columns:
    """Put predictions and truths into columns and look for what overlaps.

    Args:
        predictions: at most one an image.
        truths: one an image.
        merge_iou: detections of different classes that overlap so much mean one cell.
        floor: smallest overlap of detection and cell that will be asked for.

    Raises:
        LabelError: two truths or two predictions of one image, or a prediction of an unknown image.
        NonFiniteError: a box or a score is NaN or infinite.
    """
    ordered = paired(predictions, truths)
    names = tuple(sorted({n for p in ordered for n in p.labels} | {n for t in truths for n in t.labels}))
    code = {name: number for number, name in enumerate(names)}
    scores = np.concatenate([np.zeros(0), *(p.scores for p in ordered)]).astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    detections = Detections(
        _stack([p.boxes for p in ordered]),
        scores,
        np.array([code[name] for p in ordered for name in p.labels], np.int64),
        _numbers([len(p.scores) for p in ordered]),
        order,
        place,
    )
    cells = Cells(
        _stack([t.boxes for t in truths] + [t.ignore for t in truths]),
        np.array([code[name] for t in truths for name in t.labels] + [ANY] * sum(len(t.ignore) for t in truths), int),
        np.concatenate([_numbers([len(t.boxes) for t in truths]), _numbers([len(t.ignore) for t in truths])]),
    )
    limits = merge_iou, min(floor, 1 - 1e-10)
    return Columns(len(truths), names, detections, cells, *_overlaps(len(truths), detections, cells, limits), floor)


def _overlaps(images: int, detections: Detections, cells: Cells, limits: tuple[float, float]) -> tuple[Pairs, Pairs]:
    found, rivals = [_no_pairs()], [_no_pairs()]
    for mine, theirs in _blocks(images, detections, cells):
        near = _meeting(detections, cells, mine, theirs)
        with_cell = near[1] >= len(mine)
        first, second = mine[near[0][with_cell]], theirs[near[1][with_cell] - len(mine)]
        found.append(_with_cells(detections, cells, first, second, limits[1]))
        first, second = mine[near[0][~with_cell]], mine[near[1][~with_cell]]
        rivals.append(_rivals(detections, first, second, limits[0]))
    return _joined(found), _joined(rivals)


def _blocks(images: int, detections: Detections, cells: Cells) -> Iterator[tuple[Index, Index]]:
    """Yield detections and cells of as many whole images as come to about `_BLOCK` boxes."""
    weight = np.bincount(detections.image, minlength=images) + np.bincount(cells.image, minlength=images)
    block = np.cumsum(weight) // _BLOCK
    by_image = np.argsort(cells.image, kind="stable")
    edges = np.append(np.flatnonzero(np.diff(block, prepend=-1)), images)
    for start, stop in itertools.pairwise(edges):
        low, high = np.searchsorted(detections.image, [start, stop])
        first, last = np.searchsorted(cells.image[by_image], [start, stop])
        yield np.arange(low, high), by_image[first:last]


def _meeting(detections: Detections, cells: Cells, mine: Index, theirs: Index) -> tuple[Index, Index]:
    """Return pairs of boxes that share area: places in `mine`, then in `theirs` counted on; two cells are no pair."""
    sides = np.concatenate([detections.boxes[mine], cells.boxes[theirs]]).T.copy()
    image = np.concatenate([detections.image[mine], cells.image[theirs]])
    chosen = np.flatnonzero((sides[0] < sides[2]) & (sides[1] < sides[3]))
    if not len(chosen):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # Images side by side, each in a column of its own, so that none meets another's boxes.
    low, high = sides[0].min(), sides[2].max()
    sides[[0, 2]] += (image - image.min()) * (high - low + 2)
    apart = np.concatenate([np.arange(len(mine)), np.full(len(theirs), len(mine))])
    a, b = overlapping(sides, apart, chosen)
    return np.minimum(a, b), np.maximum(a, b)


def _with_cells(detections: Detections, cells: Cells, first: Index, second: Index, floor: float) -> Pairs:
    a, b = detections.boxes[first], cells.boxes[second]
    shared, mine = _shared(a, b), _area(a)
    union = np.where(cells.label[second] == ANY, mine, mine + _area(b) - shared)
    return Pairs(first, second, shared / union).take(shared / union >= floor)


def _rivals(detections: Detections, first: Index, second: Index, merge_iou: float) -> Pairs:
    differ = detections.label[first] != detections.label[second]
    first, second = first[differ], second[differ]
    a, b = detections.boxes[first], detections.boxes[second]
    shared = _shared(a, b)
    overlap = shared / (_area(a) + _area(b) - shared)
    later = detections.place[first] > detections.place[second]
    pairs = Pairs(np.where(later, second, first), np.where(later, first, second), overlap)
    return pairs.take(overlap >= merge_iou)


def _shared(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    size = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return np.asarray(size.clip(0).prod(axis=1))


def _area(boxes: Boxes) -> NDArray[np.float64]:
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def _joined(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("first", "second", "overlap")))


def _no_pairs() -> Pairs:
    return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _stack(boxes: Sequence[NDArray[np.floating]]) -> Boxes:
    return np.concatenate([np.zeros((0, 4)), *boxes]).astype(np.float64)


def _numbers(counts: Sequence[int]) -> Index:
    return np.repeat(np.arange(len(counts)), np.array(counts, np.int64))
