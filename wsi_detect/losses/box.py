"""Box losses: predicted against matched boxes, row by row, xyxy in one frame."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss


def giou(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Generalised IoU loss, 1 - GIoU (Rezatofighi et al., CVPR 2019): (P, 4), (P, 4), weights (P,) → scalar sum."""
    return _total(generalized_box_iou_loss(predicted, target, reduction="none"), weights)


def l1(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of absolute coordinate differences: (P, 4), (P, 4), weights (P,) → scalar."""
    return _total(F.l1_loss(predicted, target, reduction="none").sum(dim=1), weights)


def smooth_l1(predicted: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of Huber-like coordinate differences (Girshick, Fast R-CNN, 2015), beta 1/9: as `l1`."""
    return _total(F.smooth_l1_loss(predicted, target, reduction="none", beta=1 / 9).sum(dim=1), weights)


def riou(
    predicted: Tensor,
    target: Tensor,
    weights: Tensor | None = None,
    *,
    beta: float = 0.95,
    b: float = 1.2,
    start: float = 0.5,
) -> Tensor:
    """Rectified IoU loss (Wang, Zhang, ACM MM 2020, arXiv 2008.03511), a RECONSTRUCTION: as `giou`.

    From the abstract: gradients of well-placed boxes are raised and those of badly placed ones suppressed. The formula
    was not available to us; `rectified` is the curve we put in its place. Boxes that do not overlap have no IoU to
    learn from: the GIoU penalty, the share of the enclosing box that neither covers, is added with weight 1 (ours).

    Args:
        predicted: xyxy.
        target: xyxy, of positive area.
        weights: (P,) of the rows; None for 1.
        beta: see `rectified`.
        b: see `rectified`.
        start: see `rectified`.
    """
    low = torch.maximum(predicted[:, :2], target[:, :2])
    high = torch.minimum(predicted[:, 2:], target[:, 2:])
    common = (high - low).clamp(min=0).prod(dim=1)
    joined = _area(predicted) + _area(target) - common
    outer = torch.maximum(predicted[:, 2:], target[:, 2:]) - torch.minimum(predicted[:, :2], target[:, :2])
    hull = outer.prod(dim=1)
    tiny = torch.finfo(predicted.dtype).eps
    overlap = (common / (joined + tiny)).clamp(0, 1)
    return _total(rectified(overlap, beta=beta, b=b, start=start) + (hull - joined) / (hull + tiny), weights)


def rectified(overlap: Tensor, *, beta: float = 0.95, b: float = 1.2, start: float = 0.5) -> Tensor:
    """Loss of an IoU u in [0, 1] with L(0) = 1, L(1) = 0 and a slope that rises with u and then falls.

    G = -dL/du is a / (b - u) + c below beta, rising with u from `start`, and k (1 - u) from beta on, falling to 0 so
    that nearly perfect boxes do not swing; continuous at beta. a, c and k follow from these conditions.

    Args:
        overlap: IoU, any shape.
        beta: where the slope turns, in (0, 1).
        b: pole of the hyperbola, above beta.
        start: slope at u = 0; that of the plain IoU loss is 1.

    Raises:
        ValueError: beta outside (0, 1), or b not above it.
    """
    if not 0 < beta < 1 or b <= beta:
        raise ValueError(f"rectified IoU: beta lies in (0, 1) and b above it, got {beta} and {b}")
    reach = math.log(b / (b - beta))
    # L(0) = 1 is linear in a once c = start - a / b.
    a = (1 - start * (1 + beta) / 2) / ((1 - beta) / (2 * (b - beta)) + reach - (1 + beta) / (2 * b))
    c = start - a / b
    k = (a / (b - beta) + c) / (1 - beta)
    below = overlap.clamp(max=beta)
    hyperbola = k * (1 - beta) ** 2 / 2 + a * torch.log((b - below) / (b - beta)) + c * (beta - below)
    return torch.where(overlap < beta, hyperbola, k * (1 - overlap) ** 2 / 2)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _total(entries: Tensor, weights: Tensor | None) -> Tensor:
    return entries.sum() if weights is None else (entries * weights).sum()
