"""PxAP, pixel-wise average precision of score maps (Choe et al., CVPR 2020; NEGEV, Belharbi et al., MIDL 2022).

Scores of all pixels of all images are pooled into bins of a threshold's width. From the source: the bins, the sum over
them and the best mean IoU. Ours: the map is read image by image, and the best Dice is of the same thresholds.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import NonFiniteError


@dataclass(frozen=True, slots=True)
class PixelFigures:
    """What a set of maps is worth, in percent; None where the truth leaves it undefined.

    Attributes:
        pxap: pixel-wise average precision; None without a pixel of the region.
        best_dice: Dice of the region at the best threshold; None without a pixel of the region.
        best_miou: mean of the IoUs of region and background at the best threshold; None unless there are both.
        prevalence: pixels of the region among all, what a random map's PxAP comes to; None without pixels.
    """

    pxap: float | None
    best_dice: float | None
    best_miou: float | None
    prevalence: float | None


def pixel_figures(
    pairs: Iterable[tuple[NDArray[np.floating], NDArray[np.integer] | NDArray[np.bool_]]],
    threshold_step: float = 0.001,
) -> PixelFigures:
    """Hold score maps against masks.

    Args:
        pairs: score map (H, W) in [0, 1] and mask (H, W), 1 for the region and 0 for the rest, image by image.
        threshold_step: width of a bin, in (0, 1).

    Raises:
        ValueError: shapes differ, a mask holds something else than 0 and 1, a score lies outside [0, 1], or the step
            does.
        NonFiniteError: a score is NaN.
    """
    if not 0 < threshold_step < 1:
        raise ValueError(f"threshold_step lies in (0, 1), got {threshold_step}")
    # The bins of the published program: the last ones, beyond all scores, make a threshold that nothing reaches.
    edges = np.append(np.arange(0, 1, threshold_step), [1.0, 2.0, 3.0])
    region = np.zeros(len(edges) - 1, dtype=np.int64)
    rest = np.zeros_like(region)
    for number, (scores, mask) in enumerate(pairs):
        _check(scores, mask, number)
        region += np.histogram(scores[mask == 1], edges)[0]
        rest += np.histogram(scores[mask == 0], edges)[0]
    return _figures(region, rest)


def _check(scores: NDArray[np.floating], mask: NDArray[np.integer] | NDArray[np.bool_], number: int) -> None:
    if scores.shape != mask.shape:
        raise ValueError(f"map {number} has shape {scores.shape}, its mask {mask.shape}")
    if np.isnan(scores).any():
        raise NonFiniteError(f"map {number} holds NaN")
    if scores.size and not (scores.min() >= 0 and scores.max() <= 1):
        raise ValueError(f"map {number} has scores outside [0, 1]: {scores.min()} to {scores.max()}")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"mask {number} holds other values than 0 and 1")


def _figures(region: NDArray[np.int64], rest: NDArray[np.int64]) -> PixelFigures:
    """Figures from pixels of the region and of the rest in each bin, lowest scores first."""
    positives, negatives = int(region.sum()), int(rest.sum())
    tp, fp = region[::-1].cumsum(), rest[::-1].cumsum()
    named = tp + fp
    seen = named > 0
    if not positives:
        return PixelFigures(None, None, None, 0.0 if negatives else None)
    steps = np.diff(tp, prepend=0) / positives
    pxap = float((tp[seen] / named[seen] * steps[seen]).sum())
    dice = float((2 * tp / (named + positives)).max())
    miou = None
    if negatives:
        background = (negatives - fp) / (negatives + positives - tp)
        miou = 100 * float(((tp / (positives + fp) + background) / 2).max())
    return PixelFigures(100 * pxap, 100 * dice, miou, 100 * positives / (positives + negatives))
