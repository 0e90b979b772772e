"""Which point answers for which box. Pure functions; -1 means background."""

import torch
from torch import Tensor

from wsi_detect.detectors.points import PyramidPoints

CENTRE_RADIUS = 1.5


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
        return torch.full((count,), -1, dtype=torch.int64, device=points.xy.device)
    x, y = points.xy[:, :1], points.xy[:, 1:]  # (A, 1)
    distances = torch.stack([x - boxes[:, 0], y - boxes[:, 1], boxes[:, 2] - x, boxes[:, 3] - y], dim=2)  # (A, M, 4)
    inside = distances.min(dim=2).values > 0
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (points.xy[:, None] - centres[None]).abs().max(dim=2).values < CENTRE_RADIUS * points.stride[:, None]
    low, high = _scale_range(points)
    reach = distances.max(dim=2).values
    fits = (reach > low[:, None]) & (reach < high[:, None])
    area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))[None].expand(count, -1)
    cost = torch.where(inside & near & fits, area, area.new_full((), torch.inf))
    smallest, index = cost.min(dim=1)
    return torch.where(torch.isfinite(smallest), index, index.new_full((), -1))


def inside_any(points: PyramidPoints, boxes: Tensor) -> Tensor:
    """Whether each point lies strictly inside some box: (A,) bool for boxes (M, 4) xyxy."""
    x, y = points.xy[:, :1], points.xy[:, 1:]
    hit = (x > boxes[:, 0]) & (y > boxes[:, 1]) & (x < boxes[:, 2]) & (y < boxes[:, 3])
    return hit.any(dim=1)


def _scale_range(points: PyramidPoints) -> tuple[Tensor, Tensor]:
    low, high = points.stride * 4, points.stride * 8
    low[: points.sizes[0]] = 0
    high[len(high) - points.sizes[-1] :] = torch.inf
    return low, high
