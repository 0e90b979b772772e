"""FCOS (Tian, Shen, Chen, He, ICCV 2019, arXiv 1904.01355), with centre sampling, GIoU, centreness on the box branch.

With group norm, five levels and the focal loss it gives torchvision's losses and detections from the same weights.
The classification loss is an argument.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.config import Config
from wsi_detect.detectors.assign import assign_centre, inside_any
from wsi_detect.detectors.backbone import FeaturePyramid, PyramidBackbone, residual_stages
from wsi_detect.detectors.box_coding import boxes_from_distances, centreness
from wsi_detect.detectors.dense import DenseDetector, SelectionConfig, Target
from wsi_detect.detectors.points import PyramidPoints
from wsi_detect.detectors.tower import Norm, conv_tower
from wsi_detect.losses import BOX_LOSSES, class_scores, make_loss, shared_normaliser


class FCOSConfig(Config):
    """Everything that makes one FCOS differ from another."""

    backbone: str = "resnet18"
    weights: str | None = None
    #: None: frozen exactly when there are pretrained weights.
    frozen_norm: bool | None = None
    first_stage: int = Field(2, ge=1, le=4)
    last_stage: int = Field(4, ge=1, le=4)
    extra_levels: int = Field(2, ge=0, le=2)
    keep_levels: int | None = Field(None, ge=1)
    channels: int = 256
    tower_depth: int = 4
    norm: Norm = "group"
    prior: float = Field(0.01, gt=0, lt=1)
    loss: str = "focal"
    loss_options: dict[str, Any] = Field(default_factory=dict)
    box_loss: str = "giou"
    input_scale: float = Field(1.0, gt=0, le=1)
    selection: SelectionConfig = SelectionConfig()


class FCOSHead(nn.Module):
    """Two towers; classes on one, box distances and centreness on the other; shared by all levels."""

    def __init__(
        self, config: FCOSConfig, num_classes: int, loss: nn.Module, box_loss: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        channels = config.channels
        self.cls_tower = conv_tower(channels, config.tower_depth, config.norm)
        self.box_tower = conv_tower(channels, config.tower_depth, config.norm)
        self.cls = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, 4, 3, padding=1)
        self.ctr = nn.Conv2d(channels, 1, 3, padding=1)
        for layer in (self.cls, self.box, self.ctr):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.cls.bias, -math.log((1 - config.prior) / config.prior))  # type: ignore[arg-type]
        self.loss = loss
        self.box_loss = box_loss
        self.num_classes = num_classes

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Levels (B, C, H, W) → cls (B, A, K) logits, box (B, A, 4) distances in strides, ctr (B, A) logits."""
        cls, box, ctr = [], [], []
        for level in levels:
            box_features = self.box_tower(level)
            cls.append(_rows(self.cls(self.cls_tower(level))))
            box.append(_rows(F.relu(self.box(box_features))))
            ctr.append(_rows(self.ctr(box_features)))
        return {"cls": torch.cat(cls, 1), "box": torch.cat(box, 1), "ctr": torch.cat(ctr, 1)[..., 0]}

    def losses(self, outputs: dict[str, Tensor], points: PyramidPoints, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Classification, box and centreness loss, all divided by the positives of the batch (at least 1).

        In a distributed run by this process's share of the positives of all processes.
        """
        matched = torch.stack([assign_centre(points, target["boxes"]) for target in targets])  # (B, A)
        positive = matched >= 0
        normaliser = shared_normaliser(positive.sum())
        classes = matched.new_zeros(matched.shape)
        boxes = outputs["box"].new_zeros(*matched.shape, 4)
        valid = torch.ones_like(positive)
        for k, target in enumerate(targets):
            rows = positive[k]
            classes[k, rows] = target["labels"][matched[k, rows]]
            boxes[k, rows] = target["boxes"][matched[k, rows]].to(boxes.dtype)
            if len(target["ignore_boxes"]):
                valid[k] = rows | ~inside_any(points, target["ignore_boxes"])
        one_hot = F.one_hot(classes, self.num_classes) * positive[..., None]
        image = torch.arange(len(targets), device=matched.device)[:, None].expand_as(matched)
        classification = self.loss(
            outputs["cls"].flatten(0, 1),
            one_hot.flatten(0, 1).to(outputs["cls"].dtype),
            valid=valid.flatten(),
            image=image.flatten(),
            normaliser=normaliser,
        )
        predicted = boxes_from_distances(points, outputs["box"])[positive]
        xy = points.xy.expand(len(targets), -1, -1)[positive]
        regression = self.box_loss(predicted, boxes[positive]) / normaliser
        ctr = F.binary_cross_entropy_with_logits(
            outputs["ctr"][positive], centreness(xy, boxes[positive]), reduction="sum"
        )
        return {"classification": classification, "bbox_regression": regression, "bbox_ctrness": ctr / normaliser}

    def decode(self, outputs: dict[str, Tensor], points: PyramidPoints) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) and scores (B, A, K), the root of the loss's class score times sigmoid(ctr)."""
        scores = torch.sqrt(class_scores(self.loss, outputs["cls"]) * torch.sigmoid(outputs["ctr"])[..., None])
        return boxes_from_distances(points, outputs["box"]), scores


def fcos(num_classes: int, config: FCOSConfig | None = None) -> DenseDetector:
    """Build an FCOS.

    Args:
        num_classes: K; labels are 0 to K - 1, no background class.
        config: architecture, loss and selection; defaults are torchvision's with a ResNet-18 body.

    Raises:
        ConfigError: unknown backbone, unknown loss, or one that does not fit: it must be a sigmoid loss.
    """
    config = config or FCOSConfig()
    frozen = bool(config.weights) if config.frozen_norm is None else config.frozen_norm
    body, channels = residual_stages(config.backbone, config.weights, config.last_stage, frozen_norm=frozen)
    stages = channels[config.first_stage - 1 :]
    pyramid = FeaturePyramid(stages, config.channels, extra_levels=config.extra_levels, keep=config.keep_levels)
    levels = len(pyramid.smooth) + config.extra_levels
    strides = tuple(2 ** (config.first_stage + 1 + k) for k in range(levels))
    loss = make_loss(config.loss, num_classes, config.loss_options)
    head = FCOSHead(config, num_classes, loss, BOX_LOSSES[config.box_loss])
    backbone = PyramidBackbone(body, pyramid, config.first_stage, strides)
    return DenseDetector(backbone, head, config.selection, config.input_scale)


def _rows(level: Tensor) -> Tensor:
    """(B, C, H, W) → (B, H * W, C), row by row."""
    return level.flatten(2).permute(0, 2, 1)
