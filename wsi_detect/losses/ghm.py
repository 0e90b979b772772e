"""GHM-C (Li, Liu, Wang, Gradient Harmonized Single-Stage Detector, AAAI 2019, arXiv 1811.05181, eqs. 3 to 11).

From the source: the bins, the running counts and the weights, as its reference in MMDetection 2.28 computes them. Ours:
counts are taken over all processes of a distributed run, and the bin edges have the precision of the logits.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.processes import summed, world
from wsi_detect.losses.rows import visible


class GHMCLoss(nn.Module):
    """L = sum over valid entries of BCE / (S_bin(g) n): every bin of the gradient norm g = |p - y| weighs the same.

    R_i entries fall into bin i of [0, 1]; n bins are not empty; S_i = m S_i + (1 - m) R_i for those, or R_i when the
    momentum m is 0. The weights are constants to the gradient. The loss brings its own divisor (the number of entries
    cancels), so the normaliser is not used. Gradients can be large: the paper clips them at norm 35.

    Attributes:
        acc_sum: (bins,) float64, S; part of the state.
    """

    kind = "sigmoid"
    own_normaliser = True
    acc_sum: Tensor
    edges: Tensor

    def __init__(self, *, bins: int = 30, momentum: float = 0.75) -> None:
        """Make the loss.

        Raises:
            ValueError: no bin, or a momentum outside [0, 1).
        """
        super().__init__()
        if bins < 1 or not 0 <= momentum < 1:
            raise ValueError(f"ghm: bins is at least 1 and momentum lies in [0, 1), got {bins} and {momentum}")
        self.momentum = momentum
        edges = torch.arange(bins + 1, dtype=torch.float64) / bins
        edges[-1] += 1e-6
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("acc_sum", torch.zeros(bins, dtype=torch.float64))

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`."""
        z = visible(logits, valid)
        y = targets.to(z.dtype)
        bins = len(self.acc_sum)
        norm = (torch.sigmoid(z.detach()) - y).abs()
        number = torch.bucketize(norm, self.edges.to(z.dtype), right=True).sub(1).clamp(max=bins - 1)
        held = summed(torch.bincount(number[valid].flatten(), minlength=bins)).double()
        filled = held > 0
        if self.momentum > 0:
            if self.training:
                mixed = self.momentum * self.acc_sum + (1 - self.momentum) * held
                self.acc_sum.copy_(torch.where(filled, mixed, self.acc_sum))
            # A bin that is filled in evaluation may never have been in training.
            density = torch.where(self.acc_sum > 0, self.acc_sum, held)
        else:
            density = held
        weights = torch.where(filled, 1 / density, 0.0) / filled.sum().clamp(min=1)
        entries = F.binary_cross_entropy_with_logits(z, y, reduction="none") * weights.to(z.dtype)[number]
        return world() * torch.where(valid[:, None], entries, entries.new_zeros(())).sum()
