"""Intervals by resampling groups of images (Efron and Tibshirani 1993, percentile method), never cells or patches.

Cells of one image share stain, focus and patient; resampling them one by one would make the interval far too narrow.
The same holds for the fields of one slide and the slides of one patient: whole groups are drawn with replacement, all
images of a group together (the cluster bootstrap; Davison and Hinkley 1997, section 3.8).
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import LabelError

#: Takes (F,) how often each image was drawn; gives figures by name, None where undefined.
Statistic = Callable[[NDArray[np.float64]], Mapping[str, float | None]]


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


def group_numbers(groups: Sequence[Hashable]) -> NDArray[np.int64]:
    """Number groups from 0 in the order in which they first occur: (F,) the number of each image's group."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)


def draws(groups: Sequence[Hashable], replicates: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Draw as many groups as there are, with replacement, again and again.

    Nothing is drawn from fewer than two groups: one says nothing about how groups differ.

    Args:
        groups: (F,) patient, slide or field of each image; the largest unit that is known is the right one.
        replicates: how many draws.
        seed: equal seeds and groups, equal draws; groups of one image each are drawn as images are.

    Yields:
        (F,) how often each image was drawn, the same for all images of a group.
    """
    number = group_numbers(groups)
    size = int(number.max(initial=-1)) + 1
    random = np.random.default_rng(seed)
    for _ in range(replicates if size > 1 else 0):
        yield np.bincount(random.integers(0, size, size), minlength=size).astype(np.float64)[number]


def paired_replicates(
    statistics: Sequence[Statistic], groups: Sequence[Hashable], *, replicates: int = 1000, seed: int = 0
) -> tuple[dict[str, NDArray[np.float64]], ...]:
    """Figures of several runs over the same images, each replicate drawn once for all of them.

    Args:
        statistics: one a run.
        groups: (F,) see `draws`.
        replicates: R.
        seed: of the draws.

    Returns:
        For each statistic name → (R,) its value in each replicate, NaN where undefined; empty with fewer than two
        groups.
    """
    found: tuple[list[Mapping[str, float | None]], ...] = tuple([] for _ in statistics)
    for weights in draws(groups, replicates, seed):
        for values, statistic in zip(found, statistics, strict=True):
            values.append(statistic(weights))
    return tuple(_columns(values) for values in found)


def percentile_interval(values: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Interval of one figure from its replicates (R,), NaN where undefined."""
    known = values[~np.isnan(values)]
    if not len(known):
        return Interval(None, None, len(values))
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), len(values) - len(known))


def percentile_intervals(
    statistic: Statistic,
    images: int,
    *,
    groups: Sequence[Hashable] | None = None,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of every figure a function gives; none with fewer than two groups.

    Args:
        statistic: takes (F,) how often each image was drawn, gives figures by name, None where undefined.
        images: F.
        groups: (F,) patient, slide or field of each image; None takes each image for a group.
        replicates: draws of whole groups with replacement.
        confidence: of the interval, in (0, 1).
        seed: of the draws; equal seeds, equal intervals.

    Raises:
        LabelError: not every image has a group.
    """
    groups = range(images) if groups is None else groups
    if len(groups) != images:
        raise LabelError(f"{len(groups)} groups for {images} images; give the patient, slide or field of each image")
    (columns,) = paired_replicates([statistic], groups, replicates=replicates, seed=seed)
    return {name: percentile_interval(values, confidence) for name, values in columns.items()}


def _columns(rows: Sequence[Mapping[str, float | None]]) -> dict[str, NDArray[np.float64]]:
    names = dict.fromkeys(name for row in rows for name in row)
    # None becomes NaN; a name a replicate does not give has no value there.
    return {name: np.array([row.get(name) for row in rows], np.float64) for name in names}
