"""FCOS (Tian, Shen, Chen, He, ICCV 2019, arXiv 1904.01355), with centre sampling, GIoU, centreness on the box branch.

With group norm, five levels and the focal loss it gives torchvision's losses and detections from the same weights.
The classification loss is an argument.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.config import Config
from wsi_detect.detectors.assign import assign_centre
from wsi_detect.detectors.box_coding import boxes_from_distances, centreness
from wsi_detect.detectors.config import (
    BoxLoss,
    DetectorConfig,
    build_backbone,
    build_box_loss,
    build_loss,
    prior_bias,
    read_config,
    read_head,
)
from wsi_detect.detectors.dense import DenseDetector
from wsi_detect.detectors.matching import Target, classify, match_batch
from wsi_detect.detectors.points import PyramidPoints
from wsi_detect.detectors.tower import conv_tower, output_layer, rows
from wsi_detect.losses import class_scores, shared_normaliser

#: The common defaults are FCOS's own.
DEFAULTS: dict[str, Any] = {}


class FCOSConfig(Config):
    """FCOS has no options of its own."""


class FCOSHead(nn.Module):
    """Two towers; classes on one, box distances and centreness on the other; shared by all levels."""

    def __init__(self, config: DetectorConfig, num_classes: int, loss: nn.Module, box_loss: BoxLoss) -> None:
        super().__init__()
        channels = config.channels
        self.cls_tower = conv_tower(channels, config.tower_depth, config.norm)
        self.box_tower = conv_tower(channels, config.tower_depth, config.norm)
        self.cls = output_layer(channels, num_classes, bias=prior_bias(config.prior))
        self.box = output_layer(channels, 4)
        self.ctr = output_layer(channels, 1)
        self.loss = loss
        self.box_loss = box_loss
        self.num_classes = num_classes

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Levels (B, C, H, W) → cls (B, A, K) logits, box (B, A, 4) distances in strides, ctr (B, A) logits."""
        cls, box, ctr = [], [], []
        for level in levels:
            box_features = self.box_tower(level)
            cls.append(rows(self.cls(self.cls_tower(level)), self.num_classes))
            box.append(rows(F.relu(self.box(box_features)), 4))
            ctr.append(rows(self.ctr(box_features), 1))
        return {"cls": torch.cat(cls, 1), "box": torch.cat(box, 1), "ctr": torch.cat(ctr, 1)[..., 0]}

    def losses(self, outputs: dict[str, Tensor], points: PyramidPoints, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Classification, box and centreness loss, all divided by the positives of the batch (at least 1).

        A box loss of coordinates sees them in strides.
        """
        matches = match_batch(targets, lambda boxes: assign_centre(points, boxes), points.xy)
        positive = matches.positive
        normaliser = shared_normaliser(positive.sum())
        predicted = boxes_from_distances(points, outputs["box"])[positive]
        boxes = matches.boxes[positive]
        unit = points.stride.expand_as(matches.index)[positive][:, None] if self.box_loss.coordinates else 1.0
        regression = self.box_loss.function(predicted / unit, boxes / unit)
        xy = points.xy.expand(len(targets), -1, -1)[positive]
        ctr = F.binary_cross_entropy_with_logits(outputs["ctr"][positive], centreness(xy, boxes), reduction="sum")
        return {
            "classification": classify(self.loss, outputs["cls"], matches, normaliser),
            "bbox_regression": regression / normaliser,
            "bbox_ctrness": ctr / normaliser,
        }

    def decode(self, outputs: dict[str, Tensor], points: PyramidPoints) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) and scores sqrt(sigmoid(cls) sigmoid(ctr)) (B, A, K)."""
        scores = torch.sqrt(class_scores(self.loss, outputs["cls"]) * torch.sigmoid(outputs["ctr"])[..., None])
        return boxes_from_distances(points, outputs["box"]), scores


def fcos(num_classes: int, options: Mapping[str, Any] | None = None) -> DenseDetector:
    """Build an FCOS.

    Args:
        num_classes: K; labels are 0 to K - 1, no background class.
        options: `DetectorConfig` as plain values; the defaults are torchvision's with a ResNet-18 body.

    Raises:
        ConfigError: unknown backbone, neck, loss or option.
    """
    config = read_config(options or {}, DEFAULTS, "fcos")
    read_head(config, FCOSConfig, "fcos")
    backbone = build_backbone(config)
    head = FCOSHead(config, num_classes, build_loss(config, num_classes), build_box_loss(config, "fcos"))
    return DenseDetector(backbone, head, config.selection, config.input_scale)
