"""A baseline without learning: every dark blob of the size of a nucleus is a NILM cell.

What a model is worth is what it adds to this. Only numpy: a threshold on the darkness of a field, connected components
by union of runs, and a box of one fixed size around the centre of each blob.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.fields import FieldPrediction
from wsi_detect.geometry import clip_boxes


@dataclass(frozen=True, slots=True)
class DarkBlobs:
    """The nucleus finder.

    Attributes:
        box_px: side of the boxes it answers with.
        min_px: smallest blob, px².
        max_px: largest blob, px².
        spread: a pixel is dark when it absorbs more than the field's mean by so many standard deviations; 2 was the
            best of 1, 1.5 and 2 on every sixth training field of CRIC.
        label: the class it calls everything.
    """

    box_px: float = 83.0
    min_px: int = 150
    max_px: int = 6000
    spread: float = 2.0
    label: str = "NILM"

    @property
    def classes(self) -> tuple[str, ...]:
        """The one class it knows."""
        return (self.label,)

    def __call__(self, image: NDArray[np.uint8]) -> FieldPrediction:
        """Image (H, W, 3) uint8 RGB → a box around each blob; the score is how dark it is, in [0, 1]."""
        dark = 255.0 - _smooth(image.mean(axis=2))
        level = dark.mean() + self.spread * dark.std()
        labels, count = components(dark > level)
        area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        chosen = np.flatnonzero((area >= self.min_px) & (area <= self.max_px))
        height, width = labels.shape
        x = np.broadcast_to(np.arange(width, dtype=np.float64), labels.shape)
        y = np.broadcast_to(np.arange(height, dtype=np.float64)[:, None], labels.shape)
        centres = np.column_stack([_means(labels, values, area)[chosen] for values in (x, y)]) + 0.5
        scores = _means(labels, dark, area)[chosen] / 255.0
        half = self.box_px / 2
        boxes = clip_boxes(np.hstack([centres - half, centres + half]), image.shape[1], image.shape[0])
        return FieldPrediction("", boxes, scores, [self.label] * len(chosen))


def components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Number the 4-connected components of a mask (H, W).

    Returns:
        (H, W) int64, 0 outside, 1 … n inside, in the order of their first px; and n.
    """
    padded = np.pad(mask, ((0, 0), (1, 1)))
    change = np.diff(padded.astype(np.int8), axis=1)
    rows, starts = np.nonzero(change == 1)
    _, ends = np.nonzero(change == -1)
    parent = np.arange(len(rows))
    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for row in range(1, mask.shape[0]):
        above, below = first[row - 1], first[row]
        # Both rows' runs from left to right: the one that ends first cannot touch anything further right.
        while above < first[row] and below < first[row + 1]:
            if starts[above] < ends[below] and starts[below] < ends[above]:
                a, b = _root(parent, above), _root(parent, below)
                parent[max(a, b)] = min(a, b)
            if ends[above] <= ends[below]:
                above += 1
            else:
                below += 1
    roots = np.array([_root(parent, run) for run in range(len(rows))], np.int64)
    kinds, number = np.unique(roots, return_inverse=True)
    result = np.zeros(mask.shape, np.int64)
    lengths = ends - starts
    inside = np.repeat(rows * mask.shape[1] + starts - np.cumsum(lengths) + lengths, lengths)
    result.ravel()[inside + np.arange(lengths.sum())] = np.repeat(number + 1, lengths)
    return result, len(kinds)


def _root(parent: NDArray[np.int64], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = int(parent[run])
    return run


def _means(labels: NDArray[np.int64], values: NDArray[Any], area: NDArray[np.int64]) -> NDArray[np.float64]:
    sums = np.bincount(labels.ravel(), weights=values.ravel(), minlength=len(area) + 1)[1:]
    return np.asarray(sums / np.maximum(area, 1), np.float64)


def _smooth(grey: NDArray[np.float64], radius: int = 2) -> NDArray[np.float64]:
    """Mean over a square of side 2 radius + 1, edges repeated."""
    side = 2 * radius + 1
    sums = np.pad(grey, radius, mode="edge").cumsum(axis=0).cumsum(axis=1)
    sums = np.pad(sums, ((1, 0), (1, 0)))
    box = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.asarray(box / side**2)
