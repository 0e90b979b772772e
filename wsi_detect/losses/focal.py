"""Sigmoid focal loss (Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv 1708.02002, eq. 5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.rows import total, visible


class FocalLoss(nn.Module):
    """L = (1/normaliser) sum a_t (1 - p_t)^gamma (-log p_t).

    a_t is `alpha` for a positive entry and 1 - `alpha` for a negative one; a negative `alpha` switches the balance off.
    gamma 0 without balance is binary cross-entropy.
    """

    kind = "sigmoid"

    def __init__(self, *, alpha: float = 0.25, gamma: float = 2.0) -> None:
        """Make the loss.

        Raises:
            ValueError: gamma is negative or alpha above 1.
        """
        super().__init__()
        if gamma < 0 or alpha > 1:
            raise ValueError(f"focal: gamma is at least 0 and alpha at most 1, got {gamma} and {alpha}")
        self.alpha = alpha
        self.gamma = gamma

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`."""
        z = visible(logits, valid)
        y = targets.to(z.dtype)
        p = torch.sigmoid(z)
        cross_entropy = F.binary_cross_entropy_with_logits(z, y, reduction="none")
        p_t = p * y + (1 - p) * (1 - y)
        # Not quite 0: a power of 0 has no gradient for gamma below 1.
        entries = cross_entropy * (1 - p_t).clamp(min=torch.finfo(z.dtype).tiny) ** self.gamma
        if self.alpha >= 0:
            entries = (self.alpha * y + (1 - self.alpha) * (1 - y)) * entries
        return total(entries, valid, normaliser)
