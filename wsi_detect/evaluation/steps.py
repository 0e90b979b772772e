"""A pool's curve under resampling: how many cells are found, and how many false positives made, down to each score.

A replicate of the bootstrap needs the curve of every class with images counted as often as they were drawn. While there
are few detections they are added up one by one. A pool of many is put into steps of score first, image by image, so
that a replicate is one product of a vector and a matrix; between two steps the curve is then not known, which moves an
end of an interval by less than it moves with another seed (`tests/evaluation/test_steps.py`). Values themselves are
always read from every detection.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.matching import Pool

Floats = NDArray[np.float64]

#: Entries of the matrix of a pool, for false positives as many; a replicate reads all of them once.
_ENTRIES = 500_000
#: No fewer steps than these, however many images.
_FEWEST = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """The curve of a pool, to be read with any weights of its images.

    Attributes:
        cells: (F,) cells to be found in each image.
        last: (B,) bool, where a threshold can lie: the last detection of its score.
        pool: read detection by detection, or None.
        table: (F, 2 B) cells found, then false positives, of each image in each step, or None.
    """

    cells: NDArray[np.int64]
    last: NDArray[np.bool_]
    pool: Pool | None
    table: NDArray[np.float32] | None

    @classmethod
    def exact(cls, pool: Pool) -> "Steps":
        """Every detection is a step."""
        return cls(pool.cells, np.append(pool.scores[1:] != pool.scores[:-1], True)[: len(pool.scores)], pool, None)

    @classmethod
    def of(cls, pool: Pool) -> "Steps":
        """As many steps as there is room for, each of as many detections as the others."""
        size, images = len(pool.scores), len(pool.cells)
        steps = max(_FEWEST, _ENTRIES // max(images, 1))
        if size <= steps:
            return cls.exact(pool)
        step = np.arange(size) * steps // size
        place = pool.image * 2 * steps + np.where(pool.hits, step, steps + step)
        table = np.bincount(place, minlength=2 * steps * images).reshape(images, 2 * steps)
        return cls(pool.cells, np.ones(steps, np.bool_), None, table.astype(np.float32))

    def climb(self, weights: Floats) -> tuple[Floats, Floats]:
        """Cells found, and false positives, down to each step: (B,) each; `weights` (F,) counts the images."""
        if self.table is not None:
            sums = (weights.astype(np.float32) @ self.table).astype(np.float64).reshape(2, -1).cumsum(axis=1)
            return sums[0], sums[1]
        if self.pool is None:
            return np.zeros(0), np.zeros(0)
        count = weights[self.pool.image]
        return np.cumsum(count * self.pool.hits), np.cumsum(count * ~self.pool.hits)
