"""How often classes occur, and the repeat factors that follow (Gupta et al., "LVIS", CVPR 2019, section 4)."""

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import ConfigError

Counts = NDArray[np.integer]
Weights = NDArray[np.float64]


def checked_counts(counts: Counts) -> NDArray[np.int64]:
    """Counts of cells (P, K) as int64.

    Raises:
        ConfigError: no patch, not a table, or a negative count.
    """
    c = np.asarray(counts)
    if c.ndim != 2 or not len(c):
        raise ConfigError(f"class counts must be (patches, classes) with at least one patch, got shape {c.shape}")
    if (c < 0).any():
        raise ConfigError("class counts cannot be negative")
    return c.astype(np.int64)


def image_frequency(counts: Counts) -> Weights:
    """Share of the patches that contain each class: (P, K) → (K,)."""
    return np.asarray((np.asarray(counts) > 0).mean(axis=0), dtype=np.float64)


def instance_frequency(counts: Counts) -> Weights:
    """Share of each class among all cells: (P, K) → (K,); zeros where there is no cell."""
    cells = np.asarray(counts).sum(axis=0)
    return np.asarray(cells / max(int(cells.sum()), 1), dtype=np.float64)


def class_repeats(frequency: Weights, threshold: float) -> Weights:
    """r_c = max(1, sqrt(t / f_c)), (K,); 1 for a class that does not occur."""
    seen = frequency > 0
    repeats = np.ones(len(frequency))
    repeats[seen] = np.maximum(1.0, np.sqrt(threshold / frequency[seen]))
    return repeats


def patch_repeats(counts: Counts, repeats: Weights) -> Weights:
    """R of each patch, (P,): the largest among its classes, 1 for a patch without cells."""
    return np.asarray(np.where(np.asarray(counts) > 0, repeats, 1.0).max(axis=1, initial=1.0), dtype=np.float64)
