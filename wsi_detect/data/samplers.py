"""Which patches an epoch shows: weights from class counts, and an order that is a pure function of seed and epoch.

A sampler is a function (counts (P, K), background_share) → weights (P,), not negative, summing to 1. Patches without
any cell have their own quota: `background_share` of all draws, or their natural share when it is None.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_detect.data.repeats import (
    Counts,
    Weights,
    checked_counts,
    class_repeats,
    image_frequency,
    instance_frequency,
    patch_repeats,
)
from wsi_detect.errors import ConfigError

#: With no threshold given, the rarest class is drawn about this many times as often as it occurs.
RAREST_GAIN = 4.0


def uniform(counts: Counts, background_share: float | None = None) -> Weights:
    """Every patch with cells as often as the other.

    Args:
        counts: (P, K) cells of each class in each patch.
        background_share: share of draws without cells, in [0, 1]; None for their natural share.
    """
    checked = checked_counts(counts)
    return _with_quota(checked, np.ones(len(checked)), background_share)


def class_aware(counts: Counts, background_share: float | None = None) -> Weights:
    """Every class the same share of the draws, divided evenly among the patches that contain it.

    Shen, Lin, Huang, "Relay Backpropagation for Effective Learning of Deep CNNs", ECCV 2016, as weights. A patch with
    several classes collects the share of each. Classes without any patch are left out.
    """
    checked = checked_counts(counts)
    present = checked > 0
    per_class = present.sum(axis=0)
    shares = np.divide(1.0, per_class, out=np.zeros(len(per_class)), where=per_class > 0)
    return _with_quota(checked, present @ shares, background_share)


def square_root(counts: Counts, background_share: float | None = None) -> Weights:
    """Every class a share of the draws that goes with the root of its patches, divided evenly among them.

    Square-root sampling (Mahajan et al., ECCV 2018; Kang et al., "Decoupling", ICLR 2020, eq. 1 with q = 1/2), as
    weights: halfway between `uniform` and `class_aware`. A patch with several classes collects the share of each.
    """
    checked = checked_counts(counts)
    present = checked > 0
    per_class = present.sum(axis=0)
    shares = np.divide(1.0, np.sqrt(per_class), out=np.zeros(len(per_class)), where=per_class > 0)
    return _with_quota(checked, present @ shares, background_share)


def repeat_factor(counts: Counts, background_share: float | None = None, *, threshold: float | None = None) -> Weights:
    """Patches with a rare class more often: r = max over its classes of max(1, sqrt(t / f_c)).

    Repeat factor sampling, RFS (Gupta, Dollár, Girshick, "LVIS", CVPR 2019, equation in section 4). f_c is the share of
    patches with cells that contain class c: the empty ones, most of a slide, would otherwise make every class rare.

    Args:
        counts: (P, K) cells of each class in each patch.
        background_share: share of draws without cells, in [0, 1]; None gives an empty patch r = 1.
        threshold: t; None chooses it so that the rarest class present has r = `RAREST_GAIN`.

    Raises:
        ConfigError: the threshold is not positive.
    """
    checked = checked_counts(counts)
    filled = checked[checked.any(axis=1)]
    frequency = image_frequency(filled) if len(filled) else np.zeros(checked.shape[1])
    return _repeated(checked, frequency, background_share, threshold)


def instance_aware(counts: Counts, background_share: float | None = None, *, threshold: float | None = None) -> Weights:
    """As `repeat_factor`, f_c being the geometric mean of the share of patches and the share of cells of class c.

    Instance-aware repeat factor sampling, IRFS (Yaman et al., arXiv 2305.08069). A class of few cells that lie in many
    patches, or of many cells in few patches, is neither as common nor as rare as one of the two shares says.

    Args:
        counts: as in `repeat_factor`.
        background_share: as in `repeat_factor`.
        threshold: t; None chooses it so that the rarest class present has r = `RAREST_GAIN`.

    Raises:
        ConfigError: the threshold is not positive.
    """
    checked = checked_counts(counts)
    filled = checked[checked.any(axis=1)]
    frequency = np.zeros(checked.shape[1])
    if len(filled):
        frequency = np.sqrt(image_frequency(filled) * instance_frequency(filled))
    return _repeated(checked, frequency, background_share, threshold)


#: Name → function; options of a function's own are keyword arguments with defaults.
SAMPLERS: dict[str, Callable[..., Weights]] = {
    "uniform": uniform,
    "class_aware": class_aware,
    "square_root": square_root,
    "repeat_factor": repeat_factor,
    "instance_aware": instance_aware,
}


class Draw(NamedTuple):
    """One sample of an epoch: which row, and where in which epoch; the last two seed its augmentation."""

    row: int
    epoch: int
    position: int


class EpochSampler:
    """The order of rows of each epoch, a pure function of weights, length, seed and epoch.

    A row is drawn `weight x length` times, rounded down or up at random so that the epoch has exactly its length: equal
    weights and length P give every row once. Each of several processes takes every n-th draw.

    Attributes:
        epoch: the epoch the next iteration gives; trainers call `set_epoch`.
        start: draws to leave out at the beginning of the next iteration only; set by the loader after a resume.
    """

    def __init__(self, weights: Weights, epoch_len: int, seed: int, *, rank: int = 0, world: int = 1) -> None:
        """Check the weights.

        Args:
            weights: (P,) not negative; their scale does not matter.
            epoch_len: draws an epoch, over all processes together.
            seed: of the run.
            rank: number of this process, from 0.
            world: number of processes that train together.

        Raises:
            ConfigError: weights negative, not finite or all zero, or fewer draws than processes.
        """
        w = np.asarray(weights, dtype=np.float64)
        if w.ndim != 1 or not np.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
            raise ConfigError("sampling weights must be finite, not negative and not all zero; are there any patches?")
        if not 0 <= rank < world or epoch_len < world:
            raise ConfigError(f"cannot share {epoch_len} draws among {world} processes (this is number {rank})")
        self._weights = w / w.sum()
        self._length = epoch_len
        self._seed = seed
        self._rank, self._world = rank, world
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        """Draws of this process in a whole epoch."""
        return self._length // self._world

    def __iter__(self) -> Iterator[Draw]:
        """Give this process's draws of the current epoch, from `start` on."""
        rows, epoch, start = self.order(self.epoch), self.epoch, self.start
        self.start = 0
        for k in range(start, len(self)):
            position = k * self._world + self._rank
            yield Draw(int(rows[position]), epoch, position)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; a change of epoch starts it at its beginning."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Rows (epoch_len,) drawn in an epoch, over all processes."""
        rng = np.random.default_rng([self._seed, epoch])
        # Systematic resampling; shuffled first, so that neighbouring rows do not share their fate.
        rows = rng.permutation(len(self._weights))
        marks = np.cumsum(self._weights[rows]) * self._length
        marks *= self._length / marks[-1]
        drawn = np.searchsorted(marks, np.arange(self._length) + rng.random(), side="right")
        chosen = rows[np.minimum(drawn, len(rows) - 1)]
        return np.asarray(rng.permutation(chosen), dtype=np.int64)


def _repeated(
    counts: NDArray[np.int64], frequency: Weights, background_share: float | None, threshold: float | None
) -> Weights:
    if threshold is not None and not threshold > 0:
        raise ConfigError(f"repeat factor threshold must be positive, got {threshold}")
    seen = frequency > 0
    if not seen.any():
        return uniform(counts, background_share)
    t = threshold if threshold is not None else RAREST_GAIN**2 * float(frequency[seen].min())
    factors = patch_repeats(counts, class_repeats(frequency, t))
    if background_share is None:
        return np.asarray(factors / factors.sum())
    return _with_quota(counts, factors, background_share)


def _with_quota(counts: NDArray[np.int64], factors: NDArray[np.float64], background_share: float | None) -> Weights:
    empty = counts.sum(axis=1) == 0
    if background_share is None:
        share = float(empty.mean())
    elif 0 <= background_share <= 1:
        share = background_share
    else:
        raise ConfigError(f"background_share lies in [0, 1], got {background_share}")
    # A quota for patches that do not exist goes to the others.
    if not empty.any() or empty.all():
        share = float(empty.all())
    weights = np.where(empty, 0.0, factors)
    if weights.sum() > 0:
        weights *= (1 - share) / weights.sum()
    weights[empty] = share / max(int(empty.sum()), 1)
    return weights
