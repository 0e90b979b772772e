"""EQL, equalization loss (Tan, Wang, Li, Li, Ouyang, Yin, Yan, CVPR 2020, arXiv 2003.05176, eqs. 3 to 5).

From the source: the weights. The source divides by the number of rows; here the caller's normaliser divides, so a head
that samples its rows passes their number. Ours: how the threshold is chosen when none is given.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.counts import ClassCounts
from wsi_detect.losses.rows import total, visible

#: Without a threshold the rarest classes that together hold at most this share of all cells are the tail; the paper
#: found tail ratios of 2 % to 10 % to work.
TAIL_SHARE = 0.1


class EQLLoss(nn.Module):
    """L = (1/normaliser) sum w BCE, w = 1 - E T_j (1 - y): a tail class is not pushed down by cells of other classes.

    E is 1 for rows with a cell and 0 for background; T_j is 1 if the class is in the tail.

    Attributes:
        tail: (K,) bool, T.
    """

    kind = "sigmoid"
    needs = ("class_counts",)
    tail: Tensor

    def __init__(self, *, class_counts: ClassCounts | Mapping[str, Any], threshold: float | None = None) -> None:
        """Make the loss.

        Args:
            class_counts: of the training data.
            threshold: lambda; classes that fewer than this share of the images contain are the tail (1.77e-3 on LVIS
                v0.5); 0 leaves no tail. None takes the rarest classes that hold at most `TAIL_SHARE` of the cells.

        Raises:
            ValueError: the threshold is negative.
        """
        super().__init__()
        if threshold is not None and not threshold >= 0:
            raise ValueError(f"eql: threshold is a share of images, at least 0, got {threshold}")
        counts = ClassCounts.of(class_counts)
        if threshold is None:
            tail = _rarest(counts.cells)
        else:
            tail = [n / max(counts.total_images, 1e-300) < threshold for n in counts.images]
        self.register_buffer("tail", torch.tensor(tail), persistent=False)

    def forward(
        self, logits: Tensor, targets: Tensor, *, valid: Tensor, image: Tensor, normaliser: Tensor | float
    ) -> Tensor:
        """Return the loss; arguments as in `BCELoss.forward`."""
        z = visible(logits, valid)
        y = targets.to(z.dtype)
        spared = (targets > 0).any(dim=1, keepdim=True) & self.tail & (targets == 0)
        entries = F.binary_cross_entropy_with_logits(z, y, reduction="none")
        return total(torch.where(spared, entries.new_zeros(()), entries), valid, normaliser)


def _rarest(cells: tuple[float, ...]) -> list[bool]:
    """Which classes, rarest first, hold at most `TAIL_SHARE` of all cells together."""
    tail = [False] * len(cells)
    held = 0.0
    for k in sorted(range(len(cells)), key=lambda k: cells[k]):
        held += cells[k]
        if held > TAIL_SHARE * sum(cells):
            break
        tail[k] = True
    return tail
