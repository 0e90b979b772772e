"""Which point or anchor answers for which box. Pure functions of one image.

Each gives, for every point or anchor, the index of its box, `BACKGROUND`, or `IGNORED`: neither of the two, out of the
classification loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import box_iou

from wsi_detect.detectors.box_coding import centre_and_size
from wsi_detect.detectors.points import PyramidPoints

BACKGROUND = -1
IGNORED = -2
CENTRE_RADIUS = 1.5

Rescue = Literal["own", "forced", "none"]


def assign_centre(points: PyramidPoints, boxes: Tensor) -> Tensor:
    """Centre assignment of FCOS (Tian et al., ICCV 2019, with centre sampling).

    A point is positive for a box if it lies strictly inside it, within 1.5 strides (Chebyshev) of its centre, and the
    largest of its four distances lies strictly between 4 and 8 strides of its level; the first level has no lower, the
    last no upper limit. Of several boxes the smallest wins, of equals the first.

    Args:
        points: the pyramid, A points.
        boxes: (M, 4) xyxy, network-input px.

    Returns:
        (A,) int64: index of the box, -1 where there is none.
    """
    count = len(points.xy)
    if len(boxes) == 0:
        return _nothing(count, boxes)
    x, y = points.xy[:, :1], points.xy[:, 1:]  # (A, 1)
    distances = torch.stack([x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y], dim=2)  # (A, M, 4)
    inside = distances.min(dim=2).values > 0
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (points.xy[:, None] - centres[None]).abs().max(dim=2).values < CENTRE_RADIUS * points.stride[:, None]
    low, high = _scale_range(points)
    reach = distances.max(dim=2).values
    fits = (reach > low[:, None]) & (reach < high[:, None])
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[None].expand(count, -1)
    return _cheapest(torch.where(inside & near & fits, area, area.new_full((), torch.inf)))


@dataclass(frozen=True, slots=True)
class IoURule:
    """How `assign_iou` decides.

    Attributes:
        positive: an anchor is its best box's from this IoU on.
        negative: below this IoU an anchor is background; or (from, below) as a pair. Between, it is ignored.
        rescue: whether a box below `positive` still gets its best anchors: `none`; `own`, each of them goes to its own
            best box, which may be another (torchvision); `forced`, they go to the box, the last one of several (mmdet).
        least: rescue only boxes whose best IoU reaches this; at 0 a box that touches no anchor would claim all.
        ties: rescue all anchors that share a box's best IoU, not only the first.
    """

    positive: float = 0.5
    negative: float | tuple[float, float] = 0.4
    rescue: Rescue = "own"
    least: float = 1e-9
    ties: bool = True


def assign_iou(anchors: Tensor, boxes: Tensor, rule: IoURule) -> Tensor:
    """Max-IoU assignment (Ren et al., Faster R-CNN, 2015, section 3.1.2; Lin et al., RetinaNet, 2017).

    Args:
        anchors: (A, 4) xyxy.
        boxes: (M, 4) xyxy.
        rule: thresholds, and what happens to boxes without an anchor.

    Returns:
        (A,) int64: index of the box, -1 background, -2 ignored.
    """
    if len(boxes) == 0 or len(anchors) == 0:
        return _nothing(len(anchors), boxes)
    overlap: Tensor = box_iou(boxes, anchors)  # (M, A)
    best, own = overlap.max(dim=0)
    low, high = rule.negative if isinstance(rule.negative, tuple) else (0.0, rule.negative)
    matched = torch.full_like(own, IGNORED)
    matched[(best >= low) & (best < high)] = BACKGROUND
    matched = torch.where(best >= rule.positive, own, matched)
    if rule.rescue == "none":
        return matched
    top, first = overlap.max(dim=1)
    if rule.ties:
        rescued = overlap == top[:, None]
    else:
        rescued = torch.zeros_like(overlap, dtype=torch.bool)
        rescued[torch.arange(len(boxes), device=first.device), first] = True
    rescued &= (top >= rule.least)[:, None]
    if rule.rescue == "own":
        return torch.where(rescued.any(dim=0), own, matched)
    number = torch.arange(len(boxes), device=own.device)[:, None]
    last = torch.where(rescued, number, number.new_full((), -1)).amax(dim=0)
    return torch.where(last >= 0, last, matched)


def assign_adaptive(anchors: Tensor, sizes: Sequence[int], boxes: Tensor, *, nearest: int = 9) -> Tensor:
    """Adaptive training sample selection (Zhang et al., ATSS, CVPR 2020, algorithm 1).

    On each level the `nearest` anchors by distance of centres are a box's candidates; those whose IoU reaches the mean
    plus the unbiased standard deviation of the candidates' and whose centre lies more than 0.01 px inside the box are
    its own. An anchor claimed twice goes to the higher IoU. Nothing is ignored. Equal distances at the cut: the lower
    index.

    Args:
        anchors: (A, 4) xyxy.
        sizes: number of anchors of each level; they add up to A.
        boxes: (M, 4) xyxy.
        nearest: candidates a level; all of a level that has fewer.

    Returns:
        (A,) int64: index of the box, -1 where there is none.
    """
    if len(boxes) == 0 or len(anchors) == 0:
        return _nothing(len(anchors), boxes)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (centres[:, None] - middles[None]).square().sum(dim=2).sqrt()  # (A, M)
    candidate = torch.cat([_nearest(level, nearest) for level in torch.split(distance, list(sizes))])
    overlap: Tensor = box_iou(anchors, boxes)
    rows = candidate.t().nonzero()[:, 1].view(len(boxes), -1)  # (M, C)
    own = overlap.t().gather(1, rows)
    # One candidate alone has no deviation; its own IoU is then the threshold.
    spread = own.std(dim=1) if own.shape[1] > 1 else torch.zeros_like(own[:, 0])
    threshold = own.mean(dim=1) + spread
    edges = torch.cat([centres[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - centres[:, None]], dim=2)
    positive = candidate & (overlap >= threshold) & (edges.amin(dim=2) > 0.01)
    return _cheapest(torch.where(positive, -overlap, overlap.new_full((), torch.inf)))


def assign_nearest_point(points: PyramidPoints, boxes: Tensor, *, scale: float = 4.0, nearest: int = 1) -> Tensor:
    """Point assignment of RepPoints' first stage (Yang et al., ICCV 2019, section 3.3).

    A box belongs to the level trunc((log2(w / scale) + log2(h / scale)) / 2), cut to the levels there are; there the
    `nearest` points, by distance in units of the box's sides, are its own. A point claimed twice goes to the nearer
    box, of equals to the first.

    Args:
        points: the pyramid, A points; strides are powers of two.
        boxes: (M, 4) xyxy.
        scale: side of a box of level 0.
        nearest: points a box.

    Returns:
        (A,) int64: index of the box, -1 where there is none.
    """
    if len(boxes) == 0 or len(points.xy) == 0:
        return _nothing(len(points.xy), boxes)
    level = torch.log2(points.stride).round().to(torch.int64)  # (A,)
    size = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
    wanted = (torch.log2(size / scale).sum(dim=1) / 2).to(torch.int64)
    wanted = torch.minimum(torch.maximum(wanted, level.min()), level.max())
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = ((points.xy[:, None].to(boxes.dtype) - middles) / size).norm(dim=2)  # (A, M)
    distance = torch.where(level[:, None] == wanted, distance, distance.new_full((), torch.inf))
    chosen = _nearest(distance, nearest) & torch.isfinite(distance)
    return _cheapest(torch.where(chosen, distance, distance.new_full((), torch.inf)))


@dataclass(frozen=True, slots=True)
class UniformPairs:
    """Outcome of `assign_uniform`: 2 * k * M pairs of a row and a box, rank by rank.

    Attributes:
        matched: (A,) int64: index of the box, -1 background, -2 ignored.
        row: (P,) int64, anchor and prediction of each pair.
        box: (P,) int64, box of each pair.
        valid: (P,) bool, pairs whose anchor overlaps the box enough to be regressed.
    """

    matched: Tensor
    row: Tensor
    box: Tensor
    valid: Tensor


def assign_uniform(
    anchors: Tensor, predicted: Tensor, boxes: Tensor, *, k: int = 4, least: float = 0.15, most: float = 0.7
) -> UniformPairs:
    """Uniform matching (Chen et al., You Only Look One-level Feature, CVPR 2021, section 4.2).

    For each box the `k` nearest predictions and the `k` nearest anchors, by L1 distance of (centre, size), however
    large it is. Rank by rank, first the predictions of all boxes, then the anchors; where two pairs claim a row the
    later wins. A pair whose anchor has an IoU below `least` makes its row ignored; so does an IoU above `most` of
    a prediction that no pair claims. Equal distances: the lower index.

    Args:
        anchors: (A, 4) xyxy.
        predicted: (A, 4) xyxy, the boxes the anchors have become; no gradient is taken.
        boxes: (M, 4) xyxy.
        k: pairs a box from each side; A, where there are fewer anchors.
        least: IoU of the anchor from which a pair counts.
        most: IoU of a prediction above which it is no background.
    """
    count = len(boxes)
    if count == 0 or len(anchors) == 0:
        nothing = boxes.new_zeros(0, dtype=torch.int64)
        return UniformPairs(_nothing(len(anchors), boxes), nothing, nothing, nothing.bool())
    there = centre_and_size(boxes)
    ranks = [_ranked(torch.cdist(centre_and_size(rows), there, p=1), k) for rows in (predicted, anchors)]  # (k, M)
    row = torch.cat(ranks, dim=1).flatten()
    box = torch.arange(count, device=row.device).repeat(2 * len(ranks[0]))
    matched = torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=row.device)
    matched[box_iou(predicted, boxes).amax(dim=1) > most] = IGNORED
    valid = box_iou(anchors, boxes)[row, box] >= least
    # Writing with repeated indices has no order on a GPU: find each row's last pair first.
    order = torch.arange(len(row), device=row.device)
    last = torch.full_like(matched, -1).scatter_reduce(0, row, order, "amax")
    said = torch.where(valid, box, box.new_full((), IGNORED))[last.clamp(min=0)]
    return UniformPairs(torch.where(last >= 0, said, matched), row, box, valid)


def inside_any(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether each point (A, 2) lies strictly inside some box: (A,) bool for boxes (M, 4) xyxy."""
    x, y = points[:, :1], points[:, 1:]
    hit = (x > boxes[:, 0]) & (y > boxes[:, 1]) & (x < boxes[:, 2]) & (y < boxes[:, 3])
    return hit.any(dim=1)


def _nothing(count: int, boxes: Tensor) -> Tensor:
    return torch.full((count,), BACKGROUND, dtype=torch.int64, device=boxes.device)


def _cheapest(cost: Tensor) -> Tensor:
    """Column of the lowest finite cost of each row, the first of equals; -1 where all are infinite."""
    smallest, index = cost.min(dim=1)
    return torch.where(torch.isfinite(smallest), index, index.new_full((), BACKGROUND))


def _nearest(distance: Tensor, k: int) -> Tensor:
    """Mark the k lowest of each column of (A, M), of equals those with the lower index; no number is the highest."""
    k = min(k, len(distance))
    distance = distance.nan_to_num(nan=torch.inf, posinf=torch.inf)
    limit = distance.topk(k, dim=0, largest=False).values[-1]
    below, equal = distance < limit, distance == limit
    return below | (equal & (equal.cumsum(dim=0) <= k - below.sum(dim=0)))


def _ranked(distance: Tensor, k: int) -> Tensor:
    """Rows of the k lowest of each column of (A, M), nearest first: (k, M)."""
    # On the CPU whatever the device, and not by a sort: of equals, torch's own order is the reference's.
    finite = distance.nan_to_num(nan=torch.inf, posinf=torch.inf).cpu()
    return finite.topk(min(k, len(finite)), dim=0, largest=False).indices.to(distance.device)


def _scale_range(points: PyramidPoints) -> tuple[Tensor, Tensor]:
    low, high = points.stride * 4, points.stride * 8
    low[: points.sizes[0]] = 0
    high[len(high) - points.sizes[-1] :] = torch.inf
    return low, high
