"""Grad-Libra loss (Liu, Li, Gao, Chen, Shen, Wu, MICCAI 2022, arXiv 2208.03779): hardness from gradients.

From the paper's abstract: the gradient measures how hard each sample is for each category, and the gradients of
positive and negative samples are re-balanced by it, so that hard samples of head and tail classes get weight.
The full text was not available to us. What is here is a RECONSTRUCTION: the hardness g - a sin(g) and the two
parameters alpha_pos, alpha_neg follow a third party's softmax implementation; the sigmoid form over anchors, the
normaliser, the `gradient` and `mean_weight` forms, `detach_weight`, `per_class_alpha` and the `sin2pi` hardness are
ours. No number of the paper is claimed.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.processes import summed
from wsi_detect.losses.rows import sides, total, visible

Hardness = Literal["sin", "sin2pi"]

#: Taylor coefficients in x^2, highest first, exact to float64 on [0, 1] (the first) and [0, 2 pi] (the others):
#: (x - sin x) / x^3; Si(x) / x, the sine integral; (Ci(x) - ln x - Euler's constant) / x^2, the cosine integral.
_EXCESS = [(-1) ** k / math.factorial(2 * k + 3) for k in range(8, -1, -1)]
_SINE = [(-1) ** k / ((2 * k + 1) * math.factorial(2 * k + 1)) for k in range(22, -1, -1)]
_COSINE = [(-1) ** (k + 1) / ((2 * k + 2) * math.factorial(2 * k + 2)) for k in range(9, -1, -1)]


class GradLibraLoss(nn.Module):
    """L = (loss_weight / normaliser) sum_ij v_i l(z_ij, y_ij), with hardness f of the gradient norm g = |p - y|.

    p = sigmoid(z); the parameter a is alpha_pos where y = 1 and alpha_neg where y = 0, 0 <= a <= 1:

    * `sin`:    f(g; a) = g - a sin(g)
    * `sin2pi`: f(g; a) = g - a sin(2 pi g) / (2 pi), which keeps f(0) = 0, f(1/2) = 1/2, f(1) = 1

    Forms:

    * `weight`: l = f(g; a) BCE(z, y). alpha 0 is the focal loss with gamma 1 and no balance; alpha 1 (`sin`) behaves
      like gamma 3 scaled by 1/6. f' = df/dg:
      y = 1: dl/dz = (1-p) [p f'(1-p) log p - f(1-p)];  y = 0: dl/dz = p [f(p) - (1-p) f'(p) log(1-p)].
      With `detach_weight` dl/dz = f(g) (p - y).
    * `gradient`: the gradient norm itself is put in place of g, dl/dz = sign(p - y) f(g; a), and l is its integral,
      l = integral of f(q; a) / (q (1 - q)) over q from 0 to g. alpha 0 is binary cross-entropy.
    * `mean_weight`: the control that has no hardness: l = w BCE, w the mean of f(g; a) over all positive entries of
      the batch for positives and over all negative ones for negatives; dl/dz = w (p - y).

    alpha_pos < alpha_neg raises positives against negatives. No class counts enter, no running state.
    """

    kind = "sigmoid"

    def __init__(
        self,
        *,
        alpha_pos: float = 0.5,
        alpha_neg: float = 0.5,
        detach_weight: bool = False,
        loss_weight: float = 1.0,
        hardness: Hardness = "sin",
        per_class_alpha: tuple[Sequence[float], Sequence[float]] | None = None,
        form: Literal["weight", "gradient", "mean_weight"] = "weight",
    ) -> None:
        """Make the loss.

        Args:
            alpha_pos: hardness parameter of positive entries, 0 to 1.
            alpha_neg: hardness parameter of negative entries, 0 to 1.
            detach_weight: True takes the weight as a constant (pure re-weighting); False differentiates through it.
                For the form `weight`; the others have no choice.
            loss_weight: factor on the whole loss.
            hardness: the shape of f.
            per_class_alpha: (positives (K,), negatives (K,)) instead of the two scalars.
            form: what f does.

        Raises:
            ValueError: an alpha outside 0 to 1, unlike numbers of them, an unknown hardness or form, or
                nothing to detach.
        """
        super().__init__()
        positive, negative = per_class_alpha or ([alpha_pos], [alpha_neg])
        if not all(0 <= a <= 1 for a in (*positive, *negative)):
            raise ValueError(f"alphas must lie in [0, 1], got {tuple(positive)} and {tuple(negative)}")
        if len(positive) != len(negative):
            raise ValueError(f"per_class_alpha has {len(positive)} and {len(negative)} numbers")
        if hardness not in ("sin", "sin2pi"):
            raise ValueError(f"hardness must be 'sin' or 'sin2pi', got {hardness!r}")
        if form not in ("weight", "gradient", "mean_weight"):
            raise ValueError(f"form must be 'weight', 'gradient' or 'mean_weight', got {form!r}")
        if detach_weight and form != "weight":
            raise ValueError(f"detach_weight belongs to the form 'weight', not to {form!r}")
        #: K, if the alphas are of classes.
        self.classes = len(positive) if per_class_alpha else None
        self.detach_weight = detach_weight
        self.loss_weight = loss_weight
        self.hardness = hardness
        self.form = form
        # Not persistent: the values are configuration, and a bundle's weights must load whatever the loss was.
        self.register_buffer("alpha_pos", torch.tensor(positive, dtype=torch.float64), persistent=False)
        self.register_buffer("alpha_neg", torch.tensor(negative, dtype=torch.float64), persistent=False)

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`."""
        y = targets.to(logits.dtype)
        s = sides(visible(logits, valid), targets)
        positive = torch.as_tensor(self.alpha_pos, dtype=logits.dtype, device=logits.device)
        negative = torch.as_tensor(self.alpha_neg, dtype=logits.dtype, device=logits.device)
        alpha = torch.where(targets > 0, positive, negative)
        if self.form == "gradient":
            entries = _shaped(s, alpha, self.hardness)
        else:
            g = torch.sigmoid(-s)
            weight = hardness_of(g.detach() if self._constant_weight() else g, alpha, self.hardness)
            if self.form == "mean_weight":
                weight = _mean_of_each_sign(weight, y, valid)
            entries = weight * -F.logsigmoid(s)
        return self.loss_weight * total(entries, valid, normaliser)

    def _constant_weight(self) -> bool:
        return self.detach_weight or self.form == "mean_weight"


def hardness_of(g: Tensor, alpha: Tensor, hardness: Hardness) -> Tensor:
    """f(g; alpha) of gradient norms g in [0, 1]; see `GradLibraLoss`."""
    if hardness == "sin":
        # As (1 - alpha) g + alpha (g - sin g): for alpha near 1 and small g, which most anchors have, rounding leaves
        # little of g - alpha sin(g).
        return (1 - alpha) * g + alpha * g**3 * _polynomial(g * g, _EXCESS)
    return g - alpha * torch.sin(2 * math.pi * g) / (2 * math.pi)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Horner's rule; coefficients of the highest power first."""
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def _shaped(s: Tensor, alpha: Tensor, hardness: Hardness) -> Tensor:
    entries: Tensor = _ShapedGradient.apply(s, alpha, hardness)
    return entries


class _ShapedGradient(torch.autograd.Function):
    """The form `gradient` as a function of s = z (y = 1) or -z (y = 0): dl/ds = -f(g; alpha), g = sigmoid(-s)."""

    @staticmethod
    def forward(ctx: Any, s: Tensor, alpha: Tensor, hardness: Hardness) -> Tensor:
        ctx.save_for_backward(s, alpha)
        ctx.hardness = hardness
        return _integral(s, alpha, hardness)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        s, alpha = ctx.saved_tensors
        return -grad_outputs[0] * hardness_of(torch.sigmoid(-s), alpha, ctx.hardness), None, None


def _integral(s: Tensor, alpha: Tensor, hardness: Hardness) -> Tensor:
    """Integral of f(q; alpha) / (q (1 - q)) over q from 0 to g = sigmoid(-s), in closed form.

    The part q gives -log(1 - g) = softplus(-s). With Si and Ci the sine and cosine integrals, the part sin(q) gives
    Si(g) + sin(1) (Ci(1) - Ci(1 - g)) - cos(1) (Si(1) - Si(1 - g)), and sin(2 pi q) / (2 pi) gives
    (Si(2 pi g) - Si(2 pi) + Si(2 pi (1 - g))) / (2 pi).
    """
    g, rest, entropy = torch.sigmoid(-s), torch.sigmoid(s), -F.logsigmoid(s)
    if hardness == "sin":
        # Ci(x) = Euler's constant + ln x + its series, and -ln(1 - g) is the entropy.
        cosine = entropy + _cosine(torch.ones_like(rest)) - _cosine(rest)
        part = _sine(g) + math.sin(1) * cosine - math.cos(1) * (_sine(torch.ones_like(rest)) - _sine(rest))
    else:
        turn = 2 * math.pi
        part = (_sine(turn * g) - _sine(torch.full_like(g, turn)) + _sine(turn * rest)) / turn
    # What is integrated is not negative; the difference of two near equals can be, by rounding.
    return (entropy - alpha * part).clamp(min=0)


def _sine(x: Tensor) -> Tensor:
    return x * _polynomial(x * x, _SINE)


def _cosine(x: Tensor) -> Tensor:
    return x * x * _polynomial(x * x, _COSINE)


def _mean_of_each_sign(weight: Tensor, y: Tensor, valid: Tensor) -> Tensor:
    """Mean weight of the valid positive and of the valid negative entries of all processes, back at each entry."""
    seen = valid[:, None].to(y.dtype)
    signs = torch.stack([seen * y, seen * (1 - y)])  # (2, A, K)
    sums = summed(torch.stack([(signs * weight).sum(dim=(1, 2)), signs.sum(dim=(1, 2))]))
    positive, negative = sums[0] / sums[1].clamp(min=1)
    return torch.where(y > 0, positive, negative)
