"""Losses by name: one file each, one signature, no knowledge of any detector."""

from collections.abc import Callable

from torch import Tensor, nn

from wsi_detect.losses.bce import BCELoss
from wsi_detect.losses.box import giou, l1, smooth_l1
from wsi_detect.losses.focal import FocalLoss
from wsi_detect.losses.grad_libra import GradLibraLoss

#: Classification losses: name → class; options are keyword arguments of its constructor.
LOSSES: dict[str, Callable[..., nn.Module]] = {"bce": BCELoss, "focal": FocalLoss, "grad_libra": GradLibraLoss}

#: Box losses: name → function of (predicted (P, 4), target (P, 4)), summed.
BOX_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"giou": giou, "l1": l1, "smooth_l1": smooth_l1}

__all__ = ["BOX_LOSSES", "LOSSES", "BCELoss", "FocalLoss", "GradLibraLoss"]
