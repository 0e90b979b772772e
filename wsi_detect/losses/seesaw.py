"""Seesaw loss (Wang, Zhang, Zang, Cao, Pang, Gong, Chen, Liu, Loy, Lin, CVPR 2021, arXiv 2008.10032, eqs. 3 to 7).

From the source: both factors, the two objectness columns, counts taken before the loss of the step, and scores, as in
MMDetection 2.28. Ours: counts go over all processes of a distributed run.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.processes import summed
from wsi_detect.losses.rows import total, visible


class SeesawLoss(nn.Module):
    """Softmax over classes in which class i pushes class j by S_ij, and softmax of object against background.

    Of a row of class i: CE(z_j + ln(M_ij C_ij) for j != i). M_ij = (N_j / N_i)^p where N_j < N_i, else 1: a rarer
    class is pushed less. C_ij = (s_j / s_i)^q where that is above 1: a wrong answer is pushed more. N_j counts rows of
    class j seen so far. Logits have K + 2 columns, the last two for object and background; background rows have no
    part in the first term. Both are divided by the normaliser.

    Attributes:
        cum_samples: (K + 1,) float64, rows seen of each class and of background; part of the state.
    """

    kind = "softmax"
    extra_columns = 2
    needs = ("num_classes",)
    cum_samples: Tensor

    def __init__(self, *, num_classes: int, p: float = 0.8, q: float = 2.0, eps: float = 0.01) -> None:
        """Make the loss.

        Args:
            num_classes: K.
            p: exponent of the mitigation factor; 0 switches it off.
            q: exponent of the compensation factor; 0 switches it off.
            eps: least score of the true class in the compensation factor.

        Raises:
            ValueError: an exponent is negative or eps is not positive.
        """
        super().__init__()
        if p < 0 or q < 0 or not eps > 0:
            raise ValueError(f"seesaw: p and q are not negative and eps is positive, got {p}, {q} and {eps}")
        self.p, self.q, self.eps = p, q, eps
        self.register_buffer("cum_samples", torch.zeros(num_classes + 1, dtype=torch.float64))

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`, logits (A, K + 2), targets (A, K + 1)."""
        return torch.stack(self.terms(logits, targets, valid=valid, normaliser=normaliser)).sum()

    def terms(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, normaliser: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """The two terms, of the classes and of objectness; updates the counts in training."""
        z = visible(logits, valid)
        y = targets.to(z.dtype)
        if self.training:
            self.cum_samples += summed(torch.where(valid[:, None], y, y.new_zeros(())).double().sum(dim=0))
        classes, object_or_not = z[:, :-2], z[:, -2:]
        background = y[:, -1]
        label = y[:, :-1].argmax(dim=1)
        pushed = classes + (1 - F.one_hot(label, classes.shape[1])) * self._log_factors(classes.detach(), label)
        entries = F.cross_entropy(pushed, label, reduction="none")
        objectness = F.cross_entropy(object_or_not, background.long(), reduction="none")
        return total(entries, valid & (background == 0), normaliser), total(objectness, valid, normaliser)

    def scores(self, logits: Tensor) -> Tensor:
        """Class scores (..., K + 1), background last: softmax over the classes times the score of an object."""
        found = torch.softmax(logits[..., -2:], dim=-1)
        return torch.cat([torch.softmax(logits[..., :-2], dim=-1) * found[..., :1], found[..., 1:]], dim=-1)

    def _log_factors(self, classes: Tensor, label: Tensor) -> Tensor:
        """ln(M_ij C_ij), (A, K), i being the label of the row."""
        seen = self.cum_samples[:-1].clamp(min=1).log().to(classes.dtype)
        mitigation = self.p * (seen[None] - seen[label][:, None]).clamp(max=0)
        score = torch.softmax(classes, dim=1)
        own = score.gather(1, label[:, None]).clamp(min=self.eps)
        # A score that underflows is below the true class's: the factor is 1 and its logarithm 0.
        compensation = self.q * (score / own).clamp(min=1).log()
        return mitigation + compensation
