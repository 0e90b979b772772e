"""How a head's numbers become a box, and back: distances, deltas, point sets. Network-input px throughout."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from wsi_detect.detectors.points import PyramidPoints

#: Upper limit of a predicted logarithm of size, as in Faster R-CNN's public code: an anchor of 16 px grows to 1000.
MAX_LOG = math.log(1000 / 16)

Transform = Literal["moment", "minmax", "partial_minmax"]


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


def centre_and_size(boxes: Tensor) -> Tensor:
    """Boxes xyxy (..., 4) to centre x, centre y, width, height (..., 4)."""
    size = boxes[..., 2:] - boxes[..., :2]
    return torch.cat([boxes[..., :2] + size / 2, size], dim=-1)


def deltas_from_boxes(anchors: Tensor, boxes: Tensor, scale: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """Deltas that turn anchors into boxes (Girshick et al., R-CNN, 2014, appendix C).

    Args:
        anchors: (..., 4) xyxy.
        boxes: (..., 4) xyxy, with area.
        scale: what the four deltas are divided by, so that they are of the order of one.

    Returns:
        (..., 4): shift of the centre in anchor sizes, logarithm of the ratio of sizes.
    """
    here, there = centre_and_size(anchors), centre_and_size(boxes)
    shift = (there[..., :2] - here[..., :2]) / here[..., 2:]
    growth = torch.log(there[..., 2:] / here[..., 2:])
    return torch.cat([shift, growth], dim=-1) / anchors.new_tensor(list(scale))


def boxes_from_deltas(
    anchors: Tensor,
    deltas: Tensor,
    scale: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    limit_px: Tensor | float | None = None,
) -> Tensor:
    """Inverse of `deltas_from_boxes`, growth limited to `MAX_LOG`.

    Args:
        anchors: (..., 4) xyxy.
        deltas: (..., 4).
        scale: as in `deltas_from_boxes`.
        limit_px: how far a centre may move, px, one number or (..., 1) (YOLOF); None for no limit.

    Returns:
        (..., 4) xyxy.
    """
    scaled = deltas * anchors.new_tensor(list(scale))
    here = centre_and_size(anchors)
    shift = scaled[..., :2] * here[..., 2:]
    if limit_px is not None:
        limit = torch.as_tensor(limit_px, dtype=shift.dtype, device=shift.device)
        shift = torch.minimum(torch.maximum(shift, -limit), limit)
    centre = here[..., :2] + shift
    half = here[..., 2:] * torch.exp(scaled[..., 2:].clamp(max=MAX_LOG)) / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def boxes_from_points(points: Tensor, transform: Transform, moment: Tensor | None = None) -> Tensor:
    """Boxes around point sets (Yang et al., RepPoints, ICCV 2019, section 3.2).

    Args:
        points: (..., n, 2), x before y, n > 1.
        transform: `moment`: the mean, and the unbiased standard deviation times exp(moment) as half sides;
            `minmax`: the extremes; `partial_minmax`: the extremes of the first four points.
        moment: (2,) logarithms for x and y, for `moment` only.

    Returns:
        (..., 4) xyxy in the points' unit.

    Raises:
        ValueError: `moment` without its two numbers, or an unknown transform.
    """
    if transform == "moment":
        if moment is None:
            raise ValueError("the transform 'moment' needs its two numbers")
        centre, half = points.mean(dim=-2), points.std(dim=-2) * torch.exp(moment)
        return torch.cat([centre - half, centre + half], dim=-1)
    if transform not in ("minmax", "partial_minmax"):
        raise ValueError(f"unknown transform {transform!r}; known: moment, minmax, partial_minmax")
    chosen = points[..., :4, :] if transform == "partial_minmax" else points
    # Of equal coordinates one takes the gradient, as in the reference; amin would share it out.
    return torch.cat([chosen.min(dim=-2).values, chosen.max(dim=-2).values], dim=-1)
