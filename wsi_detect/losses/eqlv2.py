"""EQL v2 (Tan, Lu, Zhang, Yin, Li, CVPR 2021, arXiv 2012.08548, eqs. 4 to 8).

From the source: weights, statistics and scores. The source divides by the number of rows; here the caller's normaliser
divides, so a head that samples its rows passes their number. Ours: without `background` the extra channel is left out,
which is how one-stage heads, that have none, can take the loss.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.processes import summed
from wsi_detect.losses.rows import total, visible


class EQLv2Loss(nn.Module):
    """L = (1/normaliser) sum (y q_j + (1 - y) f_j) BCE, the weights from gradients gathered in earlier steps.

    r_j = G_pos / (G_neg + 1e-10), sums over training of the weighted gradient norms of positive and negative entries;
    f(r) = 1 / (1 + exp(-gamma (r - mu))); q = 1 + alpha (1 - f).

    Attributes:
        extra_columns: 1 with a background channel (last, weight 1, no statistics), else 0.
        pos_grad: (K,) float64, G_pos; part of the state.
        neg_grad: (K,) float64, G_neg; part of the state.
        ratio: (K,) float64, r after the last step; part of the state.
    """

    kind = "sigmoid"
    needs = ("num_classes",)
    pos_grad: Tensor
    neg_grad: Tensor
    ratio: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        initial_ratio: float = 100.0,
        background: bool = False,
    ) -> None:
        """Make the loss.

        Args:
            num_classes: K.
            gamma: slope of the weight of negatives.
            mu: ratio at which that weight is 1/2.
            alpha: how far positives of a class with a small ratio are raised.
            initial_ratio: r of every class in the first step.
            background: logits and targets have K + 1 columns, the last one for background.
        """
        super().__init__()
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.extra_columns = int(background)
        self.register_buffer("pos_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("neg_grad", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("ratio", torch.full((num_classes,), initial_ratio, dtype=torch.float64))

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`, or with K + 1 columns when there is a background."""
        z = visible(logits, valid)
        y = targets.to(z.dtype)
        negative = F.pad(torch.sigmoid(self.gamma * (self.ratio - self.mu)), (0, self.extra_columns), value=1.0)
        negative = negative.to(z.dtype)
        weight = y * (1 + self.alpha * (1 - negative)) + (1 - y) * negative
        entries = F.binary_cross_entropy_with_logits(z, y, reduction="none")
        if self.training:
            self._gather((torch.sigmoid(z.detach()) - y).abs() * weight, y, valid)
        return total(weight * entries, valid, normaliser)

    def scores(self, logits: Tensor) -> Tensor:
        """Class scores (..., columns): with a background channel, those of the classes times 1 - its own."""
        p = torch.sigmoid(logits)
        if not self.extra_columns:
            return p
        return torch.cat([p[..., :-1] * (1 - p[..., -1:]), p[..., -1:]], dim=-1)

    def _gather(self, norms: Tensor, y: Tensor, valid: Tensor) -> None:
        classes = len(self.pos_grad)
        counted = torch.where(valid[:, None], norms, norms.new_zeros(()))[:, :classes].double()
        y = y[:, :classes].double()
        both = summed(torch.stack([(counted * y).sum(dim=0), (counted * (1 - y)).sum(dim=0)]))
        self.pos_grad += both[0]
        self.neg_grad += both[1]
        self.ratio.copy_(self.pos_grad / (self.neg_grad + 1e-10))
