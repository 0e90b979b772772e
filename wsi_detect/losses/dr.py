"""DR loss, distributional ranking (Qian, Chen, Li, Jin, CVPR 2020, arXiv 1907.10156, eqs. 11 to 15).

From the source (paper and the authors' program): the two worst-case distributions, the surrogate and its constants, and
that gradients flow through the weights. The loss is stated per image and averaged over the images of the batch, which
is how it is computed here; the authors' file has one flat list of rows. Ours: an image without a valid row costs 0.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.processes import summed, world
from wsi_detect.losses.rows import visible


class DRLoss(nn.Module):
    """Mean over images of (tau / L) log(1 + exp(L (E_neg - E_pos + margin))).

    E_pos is the mean score of the positive entries of an image under softmax(-p / pos_lambda), E_neg that of all other
    entries of its valid rows under softmax(p / neg_lambda): hard ones weigh more. Without positives E_pos is 1. The
    normaliser is not used; the number of images takes its place, which is that of the highest image in `image`.
    """

    kind = "sigmoid"
    own_normaliser = True

    def __init__(
        self,
        *,
        margin: float = 0.5,
        pos_lambda: float = 1.0,
        neg_lambda: float = 0.1 / math.log(3.5),
        sharpness: float = 6.0,
        tau: float = 4.0,
    ) -> None:
        """Make the loss.

        Args:
            margin: by how much positives must rank above negatives.
            pos_lambda: temperature of the distribution over positives.
            neg_lambda: temperature of the distribution over negatives.
            sharpness: L of the paper, how close the surrogate is to a hinge.
            tau: factor on the loss.

        Raises:
            ValueError: a temperature or the sharpness is not positive.
        """
        super().__init__()
        if min(pos_lambda, neg_lambda, sharpness) <= 0:
            raise ValueError(f"dr: lambdas and sharpness are positive, got {pos_lambda}, {neg_lambda}, {sharpness}")
        self.margin = margin
        self.pos_lambda, self.neg_lambda = pos_lambda, neg_lambda
        self.sharpness = sharpness
        self.tau = tau

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`."""
        images = int(image.max()) + 1 if len(image) else 0
        divisor = summed(torch.tensor(images, device=logits.device)).clamp(min=1)
        p = torch.sigmoid(visible(logits, valid))
        positive = (targets > 0) & valid[:, None]
        negative = (targets == 0) & valid[:, None]
        hard_positive, found = _expected(p, -p / self.pos_lambda, positive, image, images)
        hard_negative, _ = _expected(p, p / self.neg_lambda, negative, image, images)
        distance = hard_negative - torch.where(found, hard_positive, 1.0) + self.margin
        each = self.tau / self.sharpness * F.softplus(self.sharpness * distance)  # (images,)
        seen = torch.zeros(images, dtype=torch.bool, device=p.device).index_put((image[valid],), valid.new_ones(()))
        return world() * torch.where(seen, each, each.new_zeros(())).sum() / divisor


def _expected(p: Tensor, exponent: Tensor, member: Tensor, image: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Mean of p over the member entries of each image under a softmax of `exponent`: (images,), and where defined."""
    raised = torch.where(member, exponent, -torch.inf)
    top = raised.new_full((images,), -torch.inf).scatter_reduce(0, image, raised.detach().amax(dim=1), "amax")
    top = torch.where(torch.isfinite(top), top, 0.0)
    weight = torch.exp(raised - top[image][:, None])
    mass = p.new_zeros(images).index_add(0, image, weight.sum(dim=1))
    value = p.new_zeros(images).index_add(0, image, (weight * p).sum(dim=1))
    found = mass > 0
    return value / torch.where(found, mass, 1.0), found
