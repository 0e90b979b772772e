"""Recall at a number of false positives per image: what a screener who looks at the marks would miss."""

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.matching import Pool


def recall_at(pool: Pool, false_positives: float, weights: NDArray[np.floating] | None = None) -> float | None:
    """Highest recall with at most so many false positives per image, over all score thresholds.

    A threshold takes all detections of its score or none, so ties cannot be split in one's favour. Duplicates of a
    found cell are false positives. Nothing is interpolated.

    Args:
        pool: matched detections.
        false_positives: allowed per image on average.
        weights: (F,) how often each image counts; None counts each once.

    Returns:
        The recall in [0, 1], None without a cell to find.
    """
    weights = np.ones(len(pool.cells)) if weights is None else np.asarray(weights, np.float64)
    cells = float(pool.cells @ weights)
    if not cells:
        return None
    if not len(pool.scores):
        return 0.0
    count = weights[pool.image]
    right = np.cumsum(count * pool.hits)
    wrong = np.cumsum(count * ~pool.hits)
    last = np.append(pool.scores[1:] != pool.scores[:-1], True)
    allowed = last & (wrong <= false_positives * weights.sum() + 1e-9)
    return float(right[allowed].max() / cells) if allowed.any() else 0.0
