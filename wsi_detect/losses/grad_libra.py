"""Grad-Libra loss (Liu, Li, Gao, Chen, Shen, Wu, MICCAI 2022, arXiv 2208.03779): hardness from gradients.

From the paper's abstract: the gradient measures how hard each sample is for each category, and the gradients of
positive and negative samples are re-balanced by it, so that hard samples of head and tail classes get weight.
The full text was not available to us. The form below is a RECONSTRUCTION: the hardness weight g - a sin(g) and the two
parameters alpha_pos, alpha_neg follow a third party's softmax implementation; the sigmoid form over anchors, the
normaliser, `detach_weight`, `per_class_alpha` and the `sin2pi` hardness are ours. No number of the paper is claimed.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GradLibraLoss(nn.Module):
    """L = (loss_weight / normaliser) sum_ij v_i w_ij BCE(z_ij, y_ij).

    With p = sigmoid(z) and g = |p - y| (the gradient norm of BCE with respect to z):
    w = f(g; alpha_pos) where y = 1 and f(g; alpha_neg) where y = 0, and the hardness is

    * `sin`:    f(g; a) = g - a sin(g)
    * `sin2pi`: f(g; a) = g - a sin(2 pi g) / (2 pi), which keeps f(0) = 0, f(1/2) = 1/2, f(1) = 1

    for 0 <= a <= 1. alpha = 0 is the focal loss with gamma 1 and no balance; alpha = 1 (`sin`) behaves like gamma 3
    scaled by 1/6. alpha_pos < alpha_neg raises positives against negatives. No class counts enter, no running state.

    Gradient, weight not detached, f' = df/dg:
    y = 1: dL/dz = (1-p) [p f'(1-p) log p - f(1-p)];  y = 0: dL/dz = p [f(p) - (1-p) f'(p) log(1-p)].
    Detached: dL/dz = f(g) (p - y).
    """

    kind = "sigmoid"

    def __init__(
        self,
        *,
        alpha_pos: float = 0.5,
        alpha_neg: float = 0.5,
        detach_weight: bool = False,
        loss_weight: float = 1.0,
        hardness: Literal["sin", "sin2pi"] = "sin",
        per_class_alpha: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        """Make the loss.

        Args:
            alpha_pos: hardness parameter of positive entries, 0 to 1.
            alpha_neg: hardness parameter of negative entries, 0 to 1.
            detach_weight: True takes the weight as a constant (pure re-weighting); False differentiates through it.
            loss_weight: factor on the whole loss.
            hardness: the shape of f.
            per_class_alpha: (positives (K,), negatives (K,)) instead of the two scalars.

        Raises:
            ValueError: an alpha outside 0 to 1, or an unknown hardness.
        """
        super().__init__()
        positive, negative = per_class_alpha or ([alpha_pos], [alpha_neg])
        if not all(0 <= a <= 1 for a in (*positive, *negative)):
            raise ValueError(f"alphas must lie in [0, 1], got {tuple(positive)} and {tuple(negative)}")
        if hardness not in ("sin", "sin2pi"):
            raise ValueError(f"hardness must be 'sin' or 'sin2pi', got {hardness!r}")
        self.detach_weight = detach_weight
        self.loss_weight = loss_weight
        self.hardness = hardness
        # Not persistent: the values are configuration, and a bundle's weights must load whatever the loss was.
        self.register_buffer("alpha_pos", torch.tensor(positive, dtype=torch.float64), persistent=False)
        self.register_buffer("alpha_neg", torch.tensor(negative, dtype=torch.float64), persistent=False)

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`."""
        y = targets.to(logits.dtype)
        g = (torch.sigmoid(logits) - y).abs().clamp(0, 1)
        positive = torch.as_tensor(self.alpha_pos, dtype=logits.dtype, device=logits.device)
        negative = torch.as_tensor(self.alpha_neg, dtype=logits.dtype, device=logits.device)
        weight = self._hardness(g, y * positive + (1 - y) * negative)
        if self.detach_weight:
            weight = weight.detach()
        entries = weight * F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        return self.loss_weight * torch.where(valid[:, None], entries, entries.new_zeros(())).sum() / normaliser

    def _hardness(self, g: Tensor, alpha: Tensor) -> Tensor:
        if self.hardness == "sin":
            return g - alpha * torch.sin(g)
        return g - alpha * torch.sin(2 * math.pi * g) / (2 * math.pi)
