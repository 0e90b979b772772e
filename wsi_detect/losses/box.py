"""Box losses: predicted against matched boxes, row by row, xyxy in one frame."""

from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss


def giou(predicted: Tensor, target: Tensor) -> Tensor:
    """Generalised IoU loss, 1 - GIoU (Rezatofighi et al., CVPR 2019): (P, 4), (P, 4) → scalar sum."""
    loss: Tensor = generalized_box_iou_loss(predicted, target, reduction="sum")
    return loss


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of absolute coordinate differences: (P, 4), (P, 4) → scalar."""
    return F.l1_loss(predicted, target, reduction="sum")


def smooth_l1(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of Huber-like coordinate differences (Girshick, Fast R-CNN, 2015), beta 1/9: (P, 4), (P, 4) → scalar."""
    return F.smooth_l1_loss(predicted, target, reduction="sum", beta=1 / 9)
