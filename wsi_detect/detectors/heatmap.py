"""Evidence models: a classifier with class activation maps (CAM), and a decoder that maps the region px by px.

Belharbi et al., MIDL 2022 (NEGEV): an encoder with weighted global average pooling learns from image labels and is then
frozen; a U-Net decoder over its stages gives two logits a pixel, background first. From the source: the two parts, two
channels, batch norm, a head of 3x3. Ours: any backbone, cut after a stage of choice, so that a value depends on a
bounded part of the image; one sigmoid for each kind of region instead of a softmax over classes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.config import Config, parse
from wsi_detect.detectors.backbone import stages
from wsi_detect.detectors.preparation import Preparation, padded_side
from wsi_detect.errors import ConfigError
from wsi_detect.losses.negative_evidence import REGION


class EvidenceModelConfig(Config):
    """Options of an evidence model."""

    #: A residual network of torchvision, or `timm/` and a name.
    backbone: str = "resnet18"
    weights: str | None = None
    #: None: frozen exactly when there are pretrained weights.
    frozen_norm: bool | None = None
    #: Stage k has stride 2 ** (k + 1). The decoder sees the stages from the first one to the last.
    first_stage: int = Field(1, ge=1, le=4)
    #: The CAM is of the last one. Later stages are dropped: what they would add, a wide view, costs margin.
    last_stage: int = Field(3, ge=1, le=4)
    #: Of the decoder, coarsest first; each entry doubles the resolution, and the rest is interpolated.
    channels: tuple[int, ...] = (128, 64, 32)
    #: Network-input px per patch px, one by a whole number; below 1 the patch is reduced first.
    input_scale: float = Field(1.0, gt=0, le=1)


class RegionClassifier(nn.Module):
    """Encoder and weighted global average pooling: a logit is the mean of its activation map, plus a bias."""

    def __init__(self, body: nn.Module, channels: int, columns: int) -> None:
        """Put it together.

        Args:
            body: image → dict of stages, finest first.
            channels: of the last stage.
            columns: kinds of region.
        """
        super().__init__()
        self.body = body
        self.weigh = nn.Linear(channels, columns)

    def features(self, batch: Tensor) -> list[Tensor]:
        """Normalised images → stages, finest first."""
        return list(self.body(batch).values())

    def activation(self, deepest: Tensor) -> Tensor:
        """Last stage (B, C, h, w) → activation maps (B, K, h, w), bias included, so that their means are the logits."""
        return F.conv2d(deepest, self.weigh.weight[:, :, None, None], self.weigh.bias)

    def forward(self, batch: Tensor) -> Tensor:
        """Normalised images → activation maps (B, K, h, w)."""
        return self.activation(self.features(batch)[-1])


class _Up(nn.Module):
    """Twice the resolution, the encoder's stage of that resolution beside it, two convolutions."""

    def __init__(self, below: int, beside: int, channels: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.Conv2d(below + beside, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, below: Tensor, beside: Tensor | None) -> Tensor:
        raised = F.interpolate(below, scale_factor=2, mode="nearest")
        mixed: Tensor = self.mix(raised if beside is None else torch.cat([raised, beside], dim=1))
        return mixed


class UNetDecoder(nn.Module):
    """Stages → two logits a pixel, background first (Ronneberger et al., MICCAI 2015)."""

    def __init__(self, in_channels: Sequence[int], channels: Sequence[int]) -> None:
        """Make it.

        Args:
            in_channels: of the stages, finest first.
            channels: of its steps, coarsest first; those beyond the stages have nothing beside them.
        """
        super().__init__()
        beside = [*reversed(in_channels[:-1]), *[0] * len(channels)]
        below = [in_channels[-1], *channels]
        self.steps = nn.ModuleList(_Up(below[k], beside[k], width) for k, width in enumerate(channels))
        self.head = nn.Conv2d(below[-1], 2, 3, padding=1)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Stages, finest first → logits (B, 2, h, w)."""
        rest = list(levels)
        value = rest.pop()
        for step in self.steps:
            value = step(value, rest.pop() if rest else None)
        logits: Tensor = self.head(value)
        return logits


class EvidenceModel(nn.Module):
    """Classifier and decoder over one encoder; images (B, 3, H, W) uint8 or float in [0, 1], any size.

    Attributes:
        columns: names of the classifier's logits.
        stride_px: patch px between places that the encoder treats alike.
    """

    def __init__(
        self, classifier: RegionClassifier, decoder: UNetDecoder, columns: tuple[str, ...], stride: int, scale: float
    ) -> None:
        """Put the parts together.

        Args:
            classifier: trained first.
            decoder: trained second.
            columns: names of the classifier's logits.
            stride: of the last stage, network-input px.
            scale: network-input px per patch px.
        """
        super().__init__()
        self.classifier = classifier
        self.decoder = decoder
        self.preparation = Preparation(scale)
        self.columns = columns
        self.stride_px = round(stride / scale)
        self._frozen = False

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 2, H, W) of the decoder, background first."""
        size = images.shape[-2:]
        return self._at_full_size(self.decoder(self._features(images)), size)

    def evidence(self, images: Tensor) -> Tensor:
        """Evidence maps (B, H, W) in [0, 1]."""
        return torch.softmax(self(images), dim=1)[:, REGION]

    def activation(self, images: Tensor) -> Tensor:
        """Activation maps (B, K, h, w) of the classifier, at the stride of its last stage."""
        return self.classifier.activation(self.stage(images))

    def stage(self, images: Tensor) -> Tensor:
        """Last stage of the encoder (B, C, h, w), without what is padding."""
        height, width = (-(-side // self.stride_px) for side in images.shape[-2:])
        return self._features(images)[-1][..., :height, :width]

    def taught(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 2, H, W) of the decoder and, without gradient, activation maps (B, K, H, W), of one pass."""
        size = images.shape[-2:]
        features = self._features(images)
        maps = self.classifier.activation(features[-1]).detach()
        return self._at_full_size(self.decoder(features), size), self._at_full_size(maps, size)

    def freeze_classifier(self) -> None:
        """Keep every weight and every statistic of the classifier as it is, whatever is trained from here on."""
        self._frozen = True
        self.classifier.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "EvidenceModel":
        """A frozen classifier stays in evaluation: its batch norms would else go on counting."""
        super().train(mode)
        if self._frozen:
            self.classifier.eval()
        return self

    def _features(self, images: Tensor) -> list[Tensor]:
        step = round(1 / self.preparation.input_scale)
        over = [-side % step for side in images.shape[-2:]]
        if any(over):
            pixels = images.float() / 255 if images.dtype == torch.uint8 else images
            images = F.pad(pixels, (0, over[1], 0, over[0]), mode="replicate")
        return self.classifier.features(self.preparation.padded(images))

    def _at_full_size(self, maps: Tensor, size: torch.Size) -> Tensor:
        """Maps of the padded network input → patch px, bilinear; padding cut off."""
        scale = self.preparation.input_scale
        whole = [padded_side(math.ceil(side * scale)) * round(1 / scale) for side in size]
        if list(maps.shape[-2:]) != whole:
            maps = F.interpolate(maps.float(), size=whole, mode="bilinear", align_corners=False)
        return maps[..., : size[0], : size[1]].float()


def build_evidence_model(columns: Sequence[str], options: Mapping[str, Any]) -> EvidenceModel:
    """Build an evidence model from plain values, as a configuration file or a bundle holds them.

    Args:
        columns: names of the classifier's logits; one is enough for "region or not".
        options: of `EvidenceModelConfig`.

    Raises:
        ConfigError: no column, stages in the wrong order, or too many steps of the decoder; or an unknown backbone.
    """
    config = parse(options, EvidenceModelConfig, where="evidence model")
    if not columns:
        raise ConfigError("evidence model: it needs at least one column")
    first, last = config.first_stage, config.last_stage
    if first > last:
        raise ConfigError(f"evidence model: first_stage {first} lies after {last}")
    if not 1 <= len(config.channels) <= last + 1:
        raise ConfigError(
            f"evidence model: channels has {len(config.channels)} entries, but 1 to {last + 1} with last_stage {last}"
        )
    if not (1 / config.input_scale).is_integer():
        raise ConfigError(f"evidence model: input_scale is 1 by a whole number, not {config.input_scale}")
    frozen = bool(config.weights) if config.frozen_norm is None else config.frozen_norm
    body, widths = stages(config.backbone, config.weights, last, frozen_norm=frozen)
    classifier = RegionClassifier(body, widths[-1], len(columns))
    decoder = UNetDecoder(widths[first - 1 :], config.channels)
    return EvidenceModel(classifier, decoder, tuple(columns), 2 ** (last + 1), config.input_scale)
