"""The words every detector takes, and the parts they name: backbone, neck, losses."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field
from torch import Tensor, nn

from wsi_detect.config import Config, parse
from wsi_detect.detectors.backbone import PyramidBackbone, stages
from wsi_detect.detectors.necks import NECKS, Extra
from wsi_detect.detectors.selection import SelectionConfig
from wsi_detect.detectors.tower import Norm
from wsi_detect.errors import ConfigError
from wsi_detect.losses import BOX_LOSSES, DENSE, make_loss

C = TypeVar("C", bound=Config)


class DetectorConfig(Config):
    """What detectors have in common, so that one word changes the detector; `head` holds what only one of them knows.

    A detector has its own defaults for some (`DEFAULTS` in its file).
    """

    #: A residual network of torchvision, or `timm/` and a name.
    backbone: str = "resnet18"
    weights: str | None = None
    #: None: frozen exactly when there are pretrained weights.
    frozen_norm: bool | None = None
    #: Stage k has stride 2 ** (k + 1).
    first_stage: int = Field(2, ge=1, le=4)
    last_stage: int = Field(4, ge=1, le=4)
    neck: str = "fpn"
    extra_levels: int = Field(2, ge=0, le=2)
    extra_from: Extra = "output"
    keep_levels: int | None = Field(None, ge=1)
    channels: int = Field(256, ge=4)
    tower_depth: int = Field(4, ge=0)
    norm: Norm = "group"
    #: Probability of a class that a head starts with.
    prior: float = Field(0.01, gt=0, lt=1)
    loss: str = "focal"
    loss_options: dict[str, Any] = Field(default_factory=dict)
    box_loss: str = "giou"
    input_scale: float = Field(1.0, gt=0, le=1)
    selection: SelectionConfig = SelectionConfig()
    head: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BoxLoss:
    """A box loss and what it compares.

    Attributes:
        function: (predicted (P, 4), target (P, 4)) → sum; takes `weights` (P,) too.
        coordinates: it compares encoded coordinates, not boxes.
    """

    function: Callable[..., Tensor]
    coordinates: bool


#: Box losses that compare numbers one by one: they get coordinates in the detector's own coding.
_OF_COORDINATES = ("l1", "smooth_l1")


def read_config(options: Mapping[str, Any], defaults: Mapping[str, Any], detector: str) -> DetectorConfig:
    """A detector's configuration from plain values over its own defaults.

    Raises:
        UnknownKeyError: with the nearest valid key.
        ConfigError: a value is of the wrong type or out of range, or the stages are in the wrong order.
    """
    values = {**defaults, **options}
    if isinstance(options.get("selection"), Mapping):
        values["selection"] = {**defaults.get("selection", {}), **options["selection"]}
    config = parse(values, DetectorConfig, where=f"detector {detector!r}")
    if config.first_stage > config.last_stage:
        raise ConfigError(f"detector {detector!r}: first_stage {config.first_stage} lies after {config.last_stage}")
    return config


def read_head(config: DetectorConfig, kind: type[C], detector: str) -> C:
    """The options that only this detector knows."""
    return parse(config.head, kind, where=f"detector {detector!r}: section 'head'")


def build_body(config: DetectorConfig) -> tuple[nn.Module, tuple[int, ...]]:
    """The feature extractor and the channels of its stages from the first one taken."""
    frozen = bool(config.weights) if config.frozen_norm is None else config.frozen_norm
    body, channels = stages(config.backbone, config.weights, config.last_stage, frozen_norm=frozen)
    return body, channels[config.first_stage - 1 :]


def build_neck(config: DetectorConfig, in_channels: tuple[int, ...]) -> nn.Module:
    """The neck the configuration names.

    Raises:
        ConfigError: there is none of that name.
    """
    if config.neck not in NECKS:
        raise ConfigError(f"unknown neck {config.neck!r}; known: {', '.join(sorted(NECKS))}")
    return NECKS[config.neck](
        in_channels,
        config.channels,
        extra_levels=config.extra_levels,
        keep=config.keep_levels,
        extra_from=config.extra_from,
    )


def build_backbone(config: DetectorConfig) -> PyramidBackbone:
    """Feature extractor and neck; the strides of its levels are powers of two."""
    body, channels = build_body(config)
    kept = len(channels) if config.keep_levels is None else min(config.keep_levels, len(channels))
    levels = kept + config.extra_levels
    strides = tuple(2 ** (config.first_stage + 1 + k) for k in range(levels))
    return PyramidBackbone(body, build_neck(config, channels), config.first_stage, strides)


def build_loss(config: DetectorConfig, num_classes: int, kinds: tuple[str, ...] = DENSE) -> nn.Module:
    """The classification loss, if it is of a kind the detector can use.

    Raises:
        ConfigError: unknown, of another kind, or given options it does not take; with the list of what fits.
    """
    return make_loss(config.loss, num_classes, config.loss_options, kinds=kinds, prior=config.prior)


def build_box_loss(config: DetectorConfig, detector: str) -> BoxLoss:
    """The box loss; a detector gives it boxes or coordinates, whichever it compares, so every one fits.

    Raises:
        ConfigError: there is none of that name.
    """
    if config.box_loss not in BOX_LOSSES:
        known = ", ".join(sorted(BOX_LOSSES))
        raise ConfigError(f"detector {detector!r}: unknown box loss {config.box_loss!r}; it takes {known}")
    return BoxLoss(BOX_LOSSES[config.box_loss], config.box_loss in _OF_COORDINATES)


def prior_bias(prior: float) -> float:
    """Bias at which a sigmoid gives `prior` (Lin et al., RetinaNet, 2017, section 4.1)."""
    return -math.log((1 - prior) / prior)
