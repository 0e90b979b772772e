"""Box losses: predicted against matched boxes, row by row, xyxy in one frame."""

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


def _total(entries: Tensor, weights: Tensor | None) -> Tensor:
    return entries.sum() if weights is None else (entries * weights).sum()
