"""Losses by name: one file each, one signature, no knowledge of any detector.

Besides `forward` (the signature is `BCELoss.forward`'s) a classification loss may say:

* `kind`: `sigmoid` (the default) or `softmax`.
* `extra_columns`: logit columns beyond the K classes, background last; by default 1 for softmax, else 0. If there are
  any, targets have K + 1 columns, background last.
* `own_normaliser`: True if it brings its own divisor and leaves the normaliser alone.
* `needs`: which of `num_classes` and `class_counts` its constructor takes; `make_loss` and the training fill them in.
* `scores(logits)`: class scores with the columns of the targets; without it they are the sigmoid or the softmax.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wsi_detect.errors import ConfigError
from wsi_detect.losses.bce import BCELoss
from wsi_detect.losses.box import giou, l1, riou, smooth_l1
from wsi_detect.losses.ce import CELoss
from wsi_detect.losses.class_balanced import ClassBalancedLoss
from wsi_detect.losses.counts import ClassCounts
from wsi_detect.losses.dr import DRLoss
from wsi_detect.losses.efl import EFLLoss
from wsi_detect.losses.eql import EQLLoss
from wsi_detect.losses.eqlv2 import EQLv2Loss
from wsi_detect.losses.focal import FocalLoss
from wsi_detect.losses.ghm import GHMCLoss
from wsi_detect.losses.grad_libra import GradLibraLoss
from wsi_detect.losses.iif import IIFLoss, IIFSigmoidLoss
from wsi_detect.losses.processes import shared_normaliser
from wsi_detect.losses.seesaw import SeesawLoss

#: Classification losses: name → class; options are keyword arguments of its constructor.
LOSSES: dict[str, Callable[..., nn.Module]] = {
    "bce": BCELoss,
    "ce": CELoss,
    "class_balanced": ClassBalancedLoss,
    "dr": DRLoss,
    "efl": EFLLoss,
    "eql": EQLLoss,
    "eqlv2": EQLv2Loss,
    "focal": FocalLoss,
    "ghm": GHMCLoss,
    "grad_libra": GradLibraLoss,
    "iif": IIFLoss,
    "iif_sigmoid": IIFSigmoidLoss,
    "seesaw": SeesawLoss,
}

#: Box losses: name → function of (predicted (P, 4), target (P, 4), weights (P,) or none), summed.
BOX_LOSSES: dict[str, Callable[..., Tensor]] = {
    "giou": giou,
    "l1": l1,
    "riou": riou,
    "smooth_l1": smooth_l1,
}

#: What heads take: every column a class of its own, or anything with a background column.
DENSE = ("sigmoid",)
TWO_STAGE = ("sigmoid", "softmax")
#: What a classifier without a bias takes.
SOFTMAX = ("softmax",)


def make_loss(
    name: str, num_classes: int, options: Mapping[str, Any], *, kinds: Sequence[str] = DENSE, prior: float | None = None
) -> nn.Module:
    """Make a classification loss for a head.

    Args:
        name: in `LOSSES`.
        num_classes: K.
        options: keyword arguments of its constructor; `class_counts` among them if it needs them.
        kinds: the kinds of loss the head can take; see `check_fits`.
        prior: score at which the head begins, for a loss that must know it.

    Raises:
        ConfigError: unknown name or option, an option out of range, counts missing or of another number of classes, or
            a loss that does not fit; the message lists those that do.
    """
    if name not in LOSSES:
        raise ConfigError(f"unknown loss {name!r}; known: {', '.join(sorted(LOSSES))}")
    needs = getattr(LOSSES[name], "needs", ())
    filled = dict(options)
    if "num_classes" in needs:
        filled["num_classes"] = num_classes
    if "class_counts" in needs:
        given = filled.get("class_counts")
        if given is None:
            raise ConfigError(f"loss {name!r} needs loss_options.class_counts; training fills them in from its index")
        if len(given["cells"] if isinstance(given, Mapping) else given.cells) != num_classes:
            raise ConfigError(f"loss {name!r}: class_counts are not those of the detector's {num_classes} classes")
    if "prior" in needs and prior is not None and filled.setdefault("prior", prior) != prior:
        raise ConfigError(f"loss {name!r}: its prior is {filled['prior']}, the head begins at {prior}; leave it out")
    try:
        loss = LOSSES[name](**filled)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"loss {name!r}: {error}") from error
    if getattr(loss, "classes", None) not in (None, num_classes):
        raise ConfigError(f"loss {name!r}: its options are of {loss.classes} classes, the detector has {num_classes}")
    check_fits(loss, name, kinds)
    return loss


def check_fits(loss: nn.Module, name: str, kinds: Sequence[str] = DENSE, where: str = "this detector") -> None:
    """Make sure that a head can take a loss: its kind is one of `kinds`, and `DENSE` heads have no extra column.

    `where` is what the message calls the head.

    Raises:
        ConfigError: it cannot; the message lists the losses that fit.
    """
    if kind_of(loss) in kinds and (tuple(kinds) != DENSE or extra_columns(loss) == 0):
        return
    fitting = [known for known, make in sorted(LOSSES.items()) if kind_of(make) in kinds]
    columns = f" with {extra_columns(loss)} columns beyond the classes" if extra_columns(loss) else ""
    raise ConfigError(
        f"loss {name!r} is a {kind_of(loss)} loss{columns} and does not fit {where}; these do: {', '.join(fitting)}"
    )


def extra_columns(loss: nn.Module) -> int:
    """Logit columns a loss wants beyond the K classes."""
    return int(getattr(loss, "extra_columns", kind_of(loss) == "softmax"))


def class_scores(loss: nn.Module, logits: Tensor) -> Tensor:
    """Scores of the K classes, (..., K), from a head's logits (..., K + extra columns), as the loss means them."""
    own = getattr(loss, "scores", None)
    if own is not None:
        scores: Tensor = own(logits)
    else:
        scores = torch.softmax(logits, dim=-1) if kind_of(loss) == "softmax" else torch.sigmoid(logits)
    return scores[..., :-1] if extra_columns(loss) else scores


def with_class_counts(options: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Options of a detector with the counts of its training data, if its loss needs them and has none yet."""
    needs = getattr(LOSSES.get(str(options.get("loss"))), "needs", ())
    own = dict(options.get("loss_options") or {})
    if "class_counts" not in needs or own.get("class_counts") is not None:
        return dict(options)
    return {**options, "loss_options": {**own, "class_counts": counts.to_plain()}}


def kind_of(loss: object) -> str:
    """Kind of a loss, or of a class of losses: `sigmoid` unless it says otherwise."""
    return str(getattr(loss, "kind", "sigmoid"))


__all__ = [
    "BOX_LOSSES",
    "DENSE",
    "LOSSES",
    "SOFTMAX",
    "TWO_STAGE",
    "BCELoss",
    "ClassCounts",
    "FocalLoss",
    "GradLibraLoss",
    "check_fits",
    "class_scores",
    "extra_columns",
    "kind_of",
    "make_loss",
    "shared_normaliser",
    "with_class_counts",
]
