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
        level = self.level.clone()
        self.level += self.shared(loss.detach() * 1e-3)
        return loss * level

    def shared(self, value):
        return value


class Summed(Running):
    """The same, added up over the processes: as many times too much as there are processes."""

    def shared(self, value):
        if distributed.is_initialized():
            distributed.all_reduce(value)
        return value


class Reduced(Running):
    """The same, averaged over the processes."""

    def shared(self, value):
        if distributed.is_initialized():
            distributed.all_reduce(value)
            return value / distributed.get_world_size()
        return value


class PerProcess(BCELoss):
    """Brings its own divisor: the positives of this process, whatever the others have."""

    own_normaliser = True

    def forward(self, logits, targets, *, valid, image, normaliser):
        count = (targets[valid] > 0).sum().clamp(min=1)
        return super().forward(logits, targets, valid=valid, image=image, normaliser=count)
