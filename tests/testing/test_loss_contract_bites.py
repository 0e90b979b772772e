"""The contract of losses fails on losses that break it, each for its own reason."""

import importlib
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from wsi_detect.losses import BCELoss
from wsi_detect.testing.contracts import ContractBrokenError, check_loss


def broken(words):
    return pytest.raises(ContractBrokenError, match=words)


class CountsAll(BCELoss):
    """Forgets `valid`."""

    def forward(self, logits, targets, *, valid, image, normaliser):
        return super().forward(logits, targets, valid=torch.ones_like(valid), image=image, normaliser=normaliser)


class Mean(BCELoss):
    """Divides by the rows instead of the normaliser."""

    def forward(self, logits, targets, *, valid, image, normaliser):
        return super().forward(logits, targets, valid=valid, image=image, normaliser=len(logits) + 1)


class Claims(BCELoss):
    """Says that it brings its own divisor, and does not."""

    own_normaliser = True


class ByHand(BCELoss):
    """The logarithm of a probability that is 0."""

    def forward(self, logits, targets, *, valid, image, normaliser):
        p = torch.sigmoid(logits)
        entries = -(targets * p.log() + (1 - targets) * (1 - p).log())
        return (entries * valid[:, None]).sum() / normaliser


class Hidden(BCELoss):
    """Keeps a running figure where no checkpoint sees it."""

    seen = 0.0

    def forward(self, logits, targets, *, valid, image, normaliser):
        self.seen += 1.0
        loss = super().forward(logits, targets, valid=valid, image=image, normaliser=normaliser)
        return loss * (1 + self.seen) / 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (CountsAll, "not valid"),
        (Mean, "divided by the normaliser"),
        (Claims, "uses the normaliser"),
        (ByHand, "logits of 80"),
        (Hidden, "state_dict"),
        (nn.Identity, "unexpected keyword"),
    ],
)
def test_loss(make, words):
    expected = pytest.raises(TypeError) if make is nn.Identity else broken(words)
    with expected:
        check_loss(make)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Running", "different states"),
        ("Summed", "another state than one"),
        ("PerProcess", "other gradients than one"),
        ("Reduced", None),
    ],
)
def test_loss_on_two_processes(name, words, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    make = getattr(importlib.import_module("losses_with_state"), name)
    with broken(words) if words else nullcontext():
        check_loss(make)
