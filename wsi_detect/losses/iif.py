"""Inverse image frequency (Alexandridis, Luo, Nguyen, Deng, Zafeiriou, IEEE TIP 2023, arXiv 2209.04861).

z'_j = u_j z_j before the softmax, u_j growing with the rarity of class j. From the source (paper and the authors'
program): the seven variants, counts of images or of objects, the optional norm, the background's weight of 1, use in
training and at inference or at inference alone, and the cosine classifier. Ours: the guard against weights that are not
positive, a class without an example counted as one example, and the sigmoid form, for which nothing is published.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.counts import ClassCounts
from wsi_detect.losses.rows import total, visible

Guard = Literal["refuse", "clamp", "keep"]

#: Least weight that the guard `clamp` leaves.
LEAST_WEIGHT = 0.1

#: Variant → weight of a class with n of N.
VARIANTS: dict[str, Callable[[float, float], float]] = {
    "raw": lambda n, of: math.log(of / n),
    "base2": lambda n, of: math.log2(of / n),
    "base10": lambda n, of: math.log10(of / n),
    "smooth": lambda n, of: math.log((of + 1) / (n + 1)) + 1,
    "rel": lambda n, of: math.log((of - n) / n) if n < of else -math.inf,
    "normit": lambda n, of: -NormalDist().inv_cdf(n / of) if n < of else -math.inf,
    "gombit": lambda n, of: -math.log(-math.log1p(-n / of)) if n < of else -math.inf,
}


def iif_weights(counts: Sequence[float], total_count: float, variant: str, *, norm: float = 0) -> Tensor:
    """Weights u of the classes, (K,) float64.

    Args:
        counts: (K,) n_j, images with class j or objects of class j; 0 counts as 1.
        total_count: N, all images or all objects.
        variant: a name in `VARIANTS`.
        norm: divide u by its p-norm; 0 does not.

    Raises:
        ValueError: unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"iif: unknown variant {variant!r}; known: {', '.join(VARIANTS)}, each also with _obj")
    weights = torch.tensor([VARIANTS[variant](max(n, 1), total_count) for n in counts], dtype=torch.float64)
    return weights / torch.linalg.vector_norm(weights, ord=norm) if norm else weights


def _guarded(counts: ClassCounts, variant: str, norm: float, guard: Guard) -> Tensor:
    """Weights of a variant; `_obj` counts objects, otherwise images. None of them is 0 or less, unless kept."""
    if guard not in ("refuse", "clamp", "keep"):
        raise ValueError(f"iif: guard is 'refuse', 'clamp' or 'keep', not {guard!r}")
    name = variant.removesuffix("_obj")
    if name == variant:
        weights = iif_weights(counts.images, counts.total_images, name, norm=norm)
    else:
        weights = iif_weights(counts.cells, sum(counts.cells), name, norm=norm)
    if guard == "clamp":
        return weights.clamp(min=LEAST_WEIGHT)
    low = [k for k, weight in enumerate(weights.tolist()) if not weight > 0]
    if low and guard == "refuse":
        raise ValueError(
            f"iif: variant {variant!r} gives class {low[0]} the weight {float(weights[low[0]]):.3g}, which would hide "
            "it or turn its scores round: it is too frequent; take smooth or smooth_obj, or guard: clamp"
        )
    return weights


class IIFLoss(nn.Module):
    """Cross-entropy of softmax(u z), divided by the normaliser; scores are softmax(u z) too.

    Attributes:
        extra_columns: 1 with a background column (last, weight 1), else 0.
        class_weights: (K + extra_columns,) float64, u.
    """

    kind = "softmax"
    extra_columns = 1
    needs = ("class_counts",)
    class_weights: Tensor

    def __init__(
        self,
        *,
        class_counts: ClassCounts | Mapping[str, Any],
        variant: str = "base10_obj",
        norm: float = 0,
        post_hoc: bool = False,
        background: bool = True,
        guard: Guard = "refuse",
    ) -> None:
        """Make the loss.

        Args:
            class_counts: of the training data.
            variant: a name in `VARIANTS` (images are counted) or one with `_obj` (cells are); the default is the
                authors' best for detection.
            norm: divide the weights by their p-norm; 0 does not.
            post_hoc: train with plain cross-entropy and weigh at inference alone.
            background: the last of K + 1 columns is background; False for classification of K classes.
            guard: what to do about a weight that is 0 or less, as `rel` and `normit` give a class in more than half of
                the images: refuse it, raise it and what is below `LEAST_WEIGHT` to that, or keep it as the authors'
                program does.

        Raises:
            ValueError: unknown variant or guard, or a weight that is not positive.
        """
        super().__init__()
        self.post_hoc = post_hoc
        self.extra_columns = int(background)
        weights = F.pad(
            _guarded(ClassCounts.of(class_counts), variant, norm, guard), (0, self.extra_columns), value=1.0
        )
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `CELoss.forward`."""
        z = visible(logits, valid)
        weighted = z if self.post_hoc else self.weighted(z)
        return total(-(targets.to(z.dtype) * F.log_softmax(weighted, dim=1)).sum(dim=1), valid, normaliser)

    def weighted(self, logits: Tensor) -> Tensor:
        """U z, (..., columns)."""
        return logits * self.class_weights.to(logits.dtype)

    def scores(self, logits: Tensor) -> Tensor:
        """Class scores (..., columns), background last if there is one."""
        return torch.softmax(self.weighted(logits), dim=-1)


class IIFSigmoidLoss(nn.Module):
    """RECONSTRUCTION for one-stage heads: BCE of z' = u (z - b) + b, u with mean 1, divided by the normaliser.

    b is the logit of the prior a head starts from. It is not multiplied: rare classes would otherwise begin at a
    probability from which they never rise.

    Attributes:
        class_weights: (K,) float64, u.
    """

    kind = "sigmoid"
    needs = ("class_counts", "prior")
    class_weights: Tensor

    def __init__(
        self,
        *,
        class_counts: ClassCounts | Mapping[str, Any],
        variant: str = "base10_obj",
        prior: float = 0.01,
        guard: Guard = "refuse",
    ) -> None:
        """Make the loss; arguments as in `IIFLoss`, and the prior of the head, which fills it in.

        Raises:
            ValueError: unknown variant or guard, a weight that is not positive, or a prior outside (0, 1).
        """
        super().__init__()
        if not 0 < prior < 1:
            raise ValueError(f"iif_sigmoid: prior lies in (0, 1), got {prior}")
        self.bias = math.log(prior / (1 - prior))
        weights = _guarded(ClassCounts.of(class_counts), variant, 0, guard)
        self.register_buffer("class_weights", weights / weights.mean(), persistent=False)

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`."""
        z = self.weighted(visible(logits, valid))
        return total(F.binary_cross_entropy_with_logits(z, targets.to(z.dtype), reduction="none"), valid, normaliser)

    def weighted(self, logits: Tensor) -> Tensor:
        """U (z - b) + b, (..., K)."""
        return (logits - self.bias) * self.class_weights.to(logits.dtype) + self.bias

    def scores(self, logits: Tensor) -> Tensor:
        """Class scores (..., K)."""
        return torch.sigmoid(self.weighted(logits))


class CosineClassifier(nn.Module):
    """Logits t cos(x, w_j): the classifier the authors found best with IIF, in place of a linear layer without bias."""

    def __init__(self, features: int, columns: int, *, temperature: float = 8.0) -> None:
        """Make the layer.

        Args:
            features: length of x.
            columns: logits given out, background included.
            temperature: t.
        """
        super().__init__()
        self.temperature = temperature
        self.weight = nn.Parameter(torch.empty(columns, features))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., features) → logits (..., columns) in [-t, t]."""
        return self.temperature * F.linear(F.normalize(x, dim=-1), F.normalize(self.weight, dim=-1))
