"""How a head's four numbers become a box, and back. Network-input px throughout."""

import torch
from torch import Tensor

from wsi_detect.detectors.points import PyramidPoints


def boxes_from_distances(points: PyramidPoints, distances: Tensor) -> Tensor:
    """Distances left, top, right, bottom in strides, (..., A, 4), to boxes xyxy (..., A, 4)."""
    scaled = distances * points.stride[:, None]
    return torch.cat([points.xy - scaled[..., :2], points.xy + scaled[..., 2:]], dim=-1)


def centreness(points_xy: Tensor, boxes: Tensor) -> Tensor:
    """Centreness target sqrt(min/max of l, r times min/max of t, b) (Tian et al. 2019, eq. 3).

    Args:
        points_xy: (P, 2), inside their boxes.
        boxes: (P, 4) xyxy.

    Returns:
        (P,) in [0, 1].
    """
    left_top = points_xy - boxes[:, :2]
    right_bottom = boxes[:, 2:] - points_xy
    ratio = torch.minimum(left_top, right_bottom) / torch.maximum(left_top, right_bottom)
    return torch.sqrt(ratio[:, 0] * ratio[:, 1])
