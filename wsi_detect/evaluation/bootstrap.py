"""Intervals by resampling images (Efron and Tibshirani 1993, percentile method), never cells or patches.

Cells of one image share stain, focus and patient; resampling them one by one would make the interval far too narrow.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: lower end, None if no replicate gave a number.
        high: upper end.
        undefined: replicates that gave no number, for want of a cell of the class; they are left out.
    """

    low: float | None
    high: float | None
    undefined: int


def percentile_intervals(
    statistic: Callable[[NDArray[np.float64]], Mapping[str, float | None]],
    images: int,
    *,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of every figure a function gives.

    Args:
        statistic: takes (F,) how often each image was drawn, gives figures by name, None where undefined.
        images: F.
        replicates: draws of F images with replacement.
        confidence: of the interval, in (0, 1).
        seed: of the draws; equal seeds, equal intervals.
    """
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    missing: dict[str, int] = {}
    for _ in range(replicates if images else 0):
        weights = np.bincount(random.integers(0, images, images), minlength=images).astype(np.float64)
        for name, value in statistic(weights).items():
            values = drawn.setdefault(name, [])
            if value is None:
                missing[name] = missing.get(name, 0) + 1
            else:
                values.append(value)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    return {name: _interval(values, tails, missing.get(name, 0)) for name, values in drawn.items()}


def _interval(values: list[float], tails: list[float], undefined: int) -> Interval:
    if not values:
        return Interval(None, None, undefined)
    low, high = np.quantile(values, tails)
    return Interval(float(low), float(high), undefined)
