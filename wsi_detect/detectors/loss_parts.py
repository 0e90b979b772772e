"""What detectors need of the losses besides calling them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wsi_detect.errors import ConfigError
from wsi_detect.losses import LOSSES

DENSE = ("sigmoid",)
TWO_STAGE = ("sigmoid", "softmax")


def make_loss(name: str, num_classes: int, options: Mapping[str, Any], *, kinds: Sequence[str] = DENSE) -> nn.Module:
    """Make a classification loss of one of the kinds a head can take.

    Raises:
        ConfigError: unknown, of another kind, or given options it does not take; with the list of what fits.
    """
    if name not in LOSSES:
        raise ConfigError(f"unknown loss {name!r}; known: {', '.join(sorted(LOSSES))}")
    kind = _kind(LOSSES[name])
    if kind not in kinds:
        fitting = ", ".join(sorted(known for known, make in LOSSES.items() if _kind(make) in kinds))
        raise ConfigError(f"loss {name!r} is a {kind} loss and does not fit this detector; these do: {fitting}")
    try:
        return LOSSES[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"loss {name!r}: {error}") from error


def extra_columns(loss: nn.Module) -> int:
    """Logit columns a loss wants beyond the K classes."""
    return int(getattr(loss, "extra_columns", 0))


def class_scores(loss: nn.Module, logits: Tensor) -> Tensor:
    """Scores of the K classes, (..., K), from a head's logits (..., K + extra columns), as the loss means them."""
    own = getattr(loss, "scores", None)
    if own is not None:
        scores: Tensor = own(logits)
    else:
        scores = torch.softmax(logits, dim=-1) if _kind(loss) == "softmax" else torch.sigmoid(logits)
    return scores[..., :-1] if extra_columns(loss) else scores


def _kind(loss: object) -> str:
    return str(getattr(loss, "kind", "sigmoid"))
