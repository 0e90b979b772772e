"""Softmax cross-entropy: the plain rival of losses for heads with a background column."""

from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.rows import total, visible


class CELoss(nn.Module):
    """Sum over rows of -log softmax(z)_y, divided by the normaliser; the last column is the background."""

    kind = "softmax"
    extra_columns = 1

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`, logits and targets (A, K + 1), background last."""
        z = visible(logits, valid)
        return total(-(targets.to(z.dtype) * F.log_softmax(z, dim=1)).sum(dim=1), valid, normaliser)
