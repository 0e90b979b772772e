"""Sigmoid focal loss (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv 1708.02002, eq. 5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FocalLoss(nn.Module):
    """L = (1/normaliser) sum a_t (1 - p_t)^gamma (-log p_t).

    a_t is `alpha` for a positive entry and 1 - `alpha` for a negative one; a negative `alpha` switches the balance off.
    """

    kind = "sigmoid"

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`."""
        y = targets.to(logits.dtype)
        p = torch.sigmoid(logits)
        cross_entropy = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        p_t = p * y + (1 - p) * (1 - y)
        entries = cross_entropy * (1 - p_t) ** self.gamma
        if self.alpha >= 0:
            entries = (self.alpha * y + (1 - self.alpha) * (1 - y)) * entries
        return torch.where(valid[:, None], entries, entries.new_zeros(())).sum() / normaliser
