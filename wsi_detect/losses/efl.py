"""EFL, equalized focal loss (Li, Yao, Tan, Yang, Ma, Lu, Wang, Luo, CVPR 2022, arXiv 2201.02593, eqs. 3 to 6).

From the source: the focusing factor of each class and the statistics behind it, as the authors' program keeps them.
Ours: the gradient is written out instead of taken from a hook, in float64.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.processes import summed, world
from wsi_detect.losses.rows import sides, total, visible


class EFLLoss(nn.Module):
    """L = (1/normaliser) sum a_t (gamma_j / gamma) (1 - p_t)^gamma_j (-log p_t), gamma_j = gamma + scale (1 - r_j).

    r_j = clamp(G_pos / (G_neg + 1e-10), 0, 1), sums over training of |dL/dz| of this very loss over positive and
    negative entries. A class whose positives lose against its negatives gets a larger gamma_j.

    Attributes:
        pos_grad: (K,) float64, G_pos; part of the state.
        neg_grad: (K,) float64, G_neg; part of the state.
        ratio: (K,) float64, r after the last step; part of the state.
    """

    kind = "sigmoid"
    needs = ("num_classes",)
    pos_grad: Tensor
    neg_grad: Tensor
    ratio: Tensor

    def __init__(self, *, num_classes: int, gamma: float = 2.0, alpha: float = 0.25, scale: float = 8.0) -> None:
        """Make the loss.

        Args:
            num_classes: K.
            gamma: focusing factor of a balanced class, above 0.
            alpha: weight of positive entries, 1 - alpha of negative ones; a negative value switches the balance off.
            scale: how much larger gamma_j can get.

        Raises:
            ValueError: gamma is not positive or scale is negative.
        """
        super().__init__()
        if gamma <= 0 or scale < 0:
            raise ValueError(f"efl: gamma is positive and scale not negative, got {gamma} and {scale}")
        self.gamma, self.alpha, self.scale = gamma, alpha, scale
        self.register_buffer("pos_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("neg_grad", torch.zeros(num_classes, dtype=torch.float64))
        # 1 in the first step, as in the source.
        self.register_buffer("ratio", torch.full((num_classes,), 1.0, dtype=torch.float64))

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`."""
        s = sides(visible(logits, valid), targets)
        y = targets.to(s.dtype)
        gamma = (self.gamma + self.scale * (1 - self.ratio)).to(s.dtype)  # (K,)
        weight = gamma / self.gamma
        if self.alpha >= 0:
            weight = weight * (self.alpha * y + (1 - self.alpha) * (1 - y))
        cross_entropy = -F.logsigmoid(s)
        entries = weight * cross_entropy * torch.exp(-gamma * (cross_entropy + s))
        if self.training:
            self._gather(s.detach(), weight, gamma, y, valid, normaliser)
        return total(entries, valid, normaliser)

    def _gather(
        self, s: Tensor, weight: Tensor, gamma: Tensor, y: Tensor, valid: Tensor, normaliser: Tensor | float
    ) -> None:
        """Add up w (1 - p_t)^gamma_j ((1 - p_t) - gamma_j p_t log p_t) / normaliser."""
        cross_entropy = -F.logsigmoid(s)
        slope = torch.sigmoid(-s) + gamma * torch.sigmoid(s) * cross_entropy
        norms = weight * torch.exp(-gamma * (cross_entropy + s)) * slope
        norms = torch.where(valid[:, None], norms, norms.new_zeros(())).double() / normaliser
        both = summed(torch.stack([(norms * y).sum(dim=0), (norms * (1 - y)).sum(dim=0)]))
        # The normaliser is this process's share of the joined one.
        both /= world()
        self.pos_grad += both[0]
        self.neg_grad += both[1]
        self.ratio.copy_((self.pos_grad / (self.neg_grad + 1e-10)).clamp(0, 1))
