"""Binary cross-entropy over every class of every row: the plain rival all others are held against."""

from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.rows import total, visible


class BCELoss(nn.Module):
    """Sum over rows and classes of BCE(sigmoid(z), y), divided by the normaliser."""

    kind = "sigmoid"

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss.

        Args:
            logits: (A, K) float, one row an anchor or point.
            targets: (A, K) float, 1 for the class of a positive row, else 0.
            valid: (A,) bool; rows that are False do not count.
            image: (A,) int64, which image of the batch a row belongs to (not used here).
            normaliser: what the sum is divided by, usually the number of positives, at least 1.

        Returns:
            A scalar.
        """
        z = visible(logits, valid)
        return total(F.binary_cross_entropy_with_logits(z, targets.to(z.dtype), reduction="none"), valid, normaliser)
