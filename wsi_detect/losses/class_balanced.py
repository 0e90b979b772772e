"""Class-balanced loss (Cui, Jia, Lin, Song, Belongie, CVPR 2019, arXiv 1901.05555, eqs. 2 and 9 to 12).

From the source: the effective number E_n = (1 - beta^n) / (1 - beta), weights 1 / E_n scaled to sum to K, and that a
row's weight counts for all its entries. Ours, because the paper has no background: rows without a class weigh 1.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.counts import ClassCounts
from wsi_detect.losses.rows import sides, total, visible


class ClassBalancedLoss(nn.Module):
    """L = (1/normaliser) sum over rows of w_y times BCE, focal loss or softmax cross-entropy of the row.

    Attributes:
        kind: `softmax` for the base `ce`, else `sigmoid`.
        class_weights: (K,) float64.
    """

    kind = "sigmoid"
    needs = ("class_counts",)
    class_weights: Tensor

    def __init__(
        self,
        *,
        class_counts: ClassCounts | Mapping[str, Any],
        beta: float = 0.999,
        base: Literal["focal", "bce", "ce"] = "focal",
        gamma: float = 2.0,
    ) -> None:
        """Make the loss.

        Args:
            class_counts: of the training data; cells are counted.
            beta: 0.9, 0.99, 0.999 or 0.9999 in the paper; 0 weighs all classes alike.
            base: what is weighted. `focal` has no alpha here, as in the paper.
            gamma: of the focal loss.

        Raises:
            ValueError: beta outside [0, 1), gamma negative, or an unknown base.
        """
        super().__init__()
        if not 0 <= beta < 1 or gamma < 0:
            raise ValueError(f"class_balanced: beta lies in [0, 1) and gamma is not negative, got {beta} and {gamma}")
        if base not in ("focal", "bce", "ce"):
            raise ValueError(f"class_balanced: base is 'focal', 'bce' or 'ce', not {base!r}")
        if base == "ce":
            self.kind = "softmax"
        self.extra_columns = int(base == "ce")
        self.base = base
        self.gamma = gamma if base == "focal" else 0.0
        weights = balanced_weights(torch.tensor(ClassCounts.of(class_counts).cells, dtype=torch.float64), beta)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`; with the base `ce` as in `CELoss.forward`."""
        z = visible(logits, valid)
        y = targets.to(z.dtype)
        classes = y[:, : len(self.class_weights)]
        weight = classes @ self.class_weights.to(z.dtype) + (1 - classes.sum(dim=1))  # background: 1
        if self.base == "ce":
            rows = -(y * F.log_softmax(z, dim=1)).sum(dim=1)
        else:
            s = sides(z, y)
            cross_entropy = -F.logsigmoid(s)
            rows = (cross_entropy * torch.exp(-self.gamma * (cross_entropy + s))).sum(dim=1)
        return total(weight * rows, valid, normaliser)


def effective_number(counts: Tensor, beta: float) -> Tensor:
    """E_n = (1 - beta^n) / (1 - beta) of counts (K,); for beta 0 it is 1 wherever there is an example."""
    if beta == 0:
        return torch.ones_like(counts)
    return -torch.expm1(counts * math.log(beta)) / (1 - beta)


def balanced_weights(counts: Tensor, beta: float) -> Tensor:
    """1 / E_n scaled to sum to K, (K,). A class without an example is treated as one with a single example."""
    inverse = 1 / effective_number(counts.clamp(min=1), beta)
    return inverse * len(counts) / inverse.sum()
