"""Small pieces that row-wise losses share."""

import torch
from torch import Tensor


def visible(logits: Tensor, valid: Tensor) -> Tensor:
    """Logits (A, C) with rows that are not valid set to 0: nothing in them, not even a NaN, reaches a gradient."""
    return torch.where(valid[:, None], logits, logits.new_zeros(()))


def total(entries: Tensor, valid: Tensor, normaliser: Tensor | float) -> Tensor:
    """Sum of entries (A, C) or (A,) over valid rows, divided by the normaliser."""
    mask = valid.view(-1, *(1,) * (entries.ndim - 1))
    return torch.where(mask, entries, entries.new_zeros(())).sum() / normaliser


def sides(logits: Tensor, targets: Tensor) -> Tensor:
    """S = z where y = 1 and -z where y = 0, so that BCE is softplus(-s) and 1 - p_t = sigmoid(-s); gradients pass."""
    return torch.where(targets > 0, logits, -logits)
