"""What other programs do with the detections of overlapping patches, over the same candidate pairs, to compare with.

Neither knows of owners, cut boxes or one view a patch. Detections of one patch are left alone here too: there the
detector has decided. Both are exact, and cells come out whatever the order of the input and the cut into bands.

`nms`: non-maximum suppression. The best box that is left founds a cell and takes every box of another patch whose
intersection over union with it is at least `iou`. The cell's class follows the clinical rule, as everywhere.

`soft_nms`: N. Bodla, B. Singh, R. Chellappa, L. S. Davis, "Soft-NMS - improving object detection with one line of
code", ICCV 2017. The best box left is kept; every other box of another patch has its score multiplied by
exp(-iou² / sigma) (`gaussian`, equation 3), or by 1 - iou where that is at least `iou` (`linear`, equation 2); what
falls below `least_score` is dropped. Nothing is merged: a cell is one view, with the score it has then.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsi_detect.stitching.nms import Links
from wsi_detect.stitching.ownership import Views
from wsi_detect.stitching.pairs import Index, Pairs
from wsi_detect.stitching.rules import StitchingConfig

#: Penalties are logarithms of factors, as whole numbers of this unit: sums of them do not hang on their order.
_UNIT = 2.0**-40
#: No single factor is below exp(-_MOST).
_MOST = 60.0


def plain(views: Views) -> Views:
    """Return the views as a program sees them that knows no patches: every one may found a cell, none is cut."""
    x0, y0, x1, y1 = views.sides
    return replace(views, owned=(x1 > x0) & (y1 > y0), edges=np.zeros_like(views.edges))


def weighted(pairs: Pairs, config: StitchingConfig) -> Links:
    """Return all pairs as links that weigh what one box takes off the score of the other."""
    # Equal boxes have a factor of 0, whose logarithm is none; the least above it does as well.
    likeness = pairs.likeness.clip(0, 1 - 2.0**-53)
    penalty = likeness**2 / config.sigma if config.decay == "gaussian" else -np.log1p(-likeness)
    return Links(pairs.first, pairs.second, np.round(penalty.clip(0, _MOST) / _UNIT).astype(np.int64))


@dataclass(frozen=True, slots=True)
class Softened:
    """What soft suppression made of views.

    Attributes:
        founder: (N,) the view itself if it is kept, -1 if it is dropped or not decided.
        score: (N,) lowered scores.
        penalty: (N,) what they were lowered by.
        unsettled: (N,) neither kept nor dropped.
        links: between unsettled views.
    """

    founder: Index
    score: NDArray[np.float64]
    penalty: Index
    unsettled: NDArray[np.bool_]
    links: Links


def soften(
    links: Links,
    score: NDArray[np.float64],
    penalty: Index,
    place: Index,
    open_views: NDArray[np.bool_],
    config: StitchingConfig,
) -> Softened:
    """Keep and lower views from the best score to the worst, in rounds.

    Scores only fall. So a view that scores more than all it is linked to will be kept before any of them, whatever
    happens elsewhere: each round keeps all of these.

    Args:
        links: weighed.
        score: (N,) as detected.
        penalty: (N,) what is off already.
        place: (N,) the total order, for equal scores.
        open_views: (N,) views that may have links not seen yet.
        config: the least score.
    """
    penalty, kept = penalty.copy(), np.zeros(len(score), dtype=bool)
    now = score * np.exp(-penalty * _UNIT)
    while True:
        undecided = ~kept & (now >= config.least_score)
        links = links.take(undecided[links.first] & undecided[links.second])
        first, second = links.first, links.second
        behind = (now[first] < now[second]) | ((now[first] == now[second]) & (place[first] > place[second]))
        best = undecided & ~open_views
        best[np.where(behind, first, second)] = False
        if not best.any():
            return Softened(np.where(kept, np.arange(len(score)), -1), now, penalty, undecided, links)
        kept |= best
        for one, other in ((first, second), (second, first)):
            by = best[one]
            np.add.at(penalty, other[by], links.weight[by] if links.weight is not None else 0)
            now[other[by]] = score[other[by]] * np.exp(-penalty[other[by]] * _UNIT)
