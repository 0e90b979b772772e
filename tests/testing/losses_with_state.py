"""Losses with a running figure, in a file of their own: the processes of a distributed check import them by name."""

import torch
from torch import distributed

from wsi_detect.losses import BCELoss


class Running(BCELoss):
    """Weights by a running mean in a buffer, but every process keeps its own."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.ones(()))

    def forward(self, logits, targets, *, valid, image, normaliser):
        loss = super().forward(logits, targets, valid=valid, image=image, normaliser=normaliser)
        self.level += self.shared(loss.detach() * 1e-6)
        return loss * self.level.clone()

    def shared(self, value):
        return value


class Reduced(Running):
    """The same, reduced over the processes."""

    def shared(self, value):
        if distributed.is_initialized():
            distributed.all_reduce(value)
        return value
