"""ATSS (Zhang, Chi, Yao, Lei, Li, CVPR 2020, arXiv 1912.02424): positives by the statistics of a box's own candidates.

One square a point. Head and losses follow the authors' public description: deltas with a learned factor for each level,
GIoU weighted by centreness, centreness on the box branch. The classification loss is an argument.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.config import Config
from wsi_detect.detectors.assign import assign_adaptive
from wsi_detect.detectors.box_coding import boxes_from_deltas, centreness
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
from wsi_detect.detectors.points import PyramidPoints, anchors
from wsi_detect.detectors.tower import conv_tower, output_layer, rows
from wsi_detect.losses import class_scores, shared_normaliser

DEFAULTS: dict[str, Any] = {}

#: What deltas are multiplied by to be of the order of one.
_SCALE = (0.1, 0.1, 0.2, 0.2)


class ATSSConfig(Config):
    """What only ATSS knows."""

    #: Candidates of a box on each level.
    nearest: int = Field(9, ge=1)
    #: Side of the square, in strides.
    size: float = Field(8.0, gt=0)
    #: Factor of the box loss.
    box_weight: float = Field(2.0, ge=0)


class ATSSHead(nn.Module):
    """Two towers; classes on one, box deltas and centreness on the other; shared by all levels but for a factor."""

    def __init__(
        self, config: DetectorConfig, own: ATSSConfig, num_classes: int, loss: nn.Module, box_loss: BoxLoss, levels: int
    ) -> None:
        super().__init__()
        channels = config.channels
        self.cls_tower = conv_tower(channels, config.tower_depth, config.norm)
        self.box_tower = conv_tower(channels, config.tower_depth, config.norm)
        self.cls = output_layer(channels, num_classes, bias=prior_bias(config.prior))
        self.box = output_layer(channels, 4)
        self.ctr = output_layer(channels, 1)
        self.level_factor = nn.Parameter(torch.ones(levels))
        self.loss = loss
        self.box_loss = box_loss
        self.own = own
        self.num_classes = num_classes

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Levels (B, C, H, W) → cls (B, A, K) logits, box (B, A, 4) deltas, ctr (B, A) logits."""
        cls, box, ctr = [], [], []
        for level, factor in zip(levels, self.level_factor, strict=True):
            box_features = self.box_tower(level)
            cls.append(rows(self.cls(self.cls_tower(level)), self.num_classes))
            box.append(rows(self.box(box_features) * factor, 4))
            ctr.append(rows(self.ctr(box_features), 1))
        return {"cls": torch.cat(cls, 1), "box": torch.cat(box, 1), "ctr": torch.cat(ctr, 1)[..., 0]}

    def losses(self, outputs: dict[str, Tensor], points: PyramidPoints, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Classification and centreness over the positives of the batch; boxes weighted by their centreness."""
        squares = anchors(points, (self.own.size,))
        matches = match_batch(
            targets, lambda boxes: assign_adaptive(squares, points.sizes, boxes, nearest=self.own.nearest), points.xy
        )
        positive = matches.positive
        normaliser = shared_normaliser(positive.sum())
        boxes, own = matches.boxes[positive], squares.expand_as(matches.boxes)[positive]
        wanted = centreness(points.xy.expand(len(targets), -1, -1)[positive], boxes)
        predicted = boxes_from_deltas(own, outputs["box"][positive], _SCALE)
        unit = points.stride.expand_as(matches.index)[positive][:, None] if self.box_loss.coordinates else 1.0
        regression = self.box_loss.function(predicted / unit, boxes / unit, weights=wanted)
        ctr = F.binary_cross_entropy_with_logits(outputs["ctr"][positive], wanted, reduction="sum")
        return {
            "classification": classify(self.loss, outputs["cls"], matches, normaliser),
            "bbox_regression": self.own.box_weight * regression / shared_normaliser(wanted.sum()),
            "bbox_ctrness": ctr / normaliser,
        }

    def decode(self, outputs: dict[str, Tensor], points: PyramidPoints) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) and scores sigmoid(cls) sigmoid(ctr) (B, A, K)."""
        boxes = boxes_from_deltas(anchors(points, (self.own.size,)), outputs["box"], _SCALE)
        return boxes, class_scores(self.loss, outputs["cls"]) * torch.sigmoid(outputs["ctr"])[..., None]


def atss(num_classes: int, options: Mapping[str, Any] | None = None) -> DenseDetector:
    """Build an ATSS.

    Args:
        num_classes: K; labels are 0 to K - 1, no background class.
        options: `DetectorConfig` as plain values over `DEFAULTS`, `ATSSConfig` under `head`.

    Raises:
        ConfigError: unknown backbone, neck, loss or option.
    """
    config = read_config(options or {}, DEFAULTS, "atss")
    own = read_head(config, ATSSConfig, "atss")
    backbone = build_backbone(config)
    loss, box_loss = build_loss(config, num_classes), build_box_loss(config, "atss")
    head = ATSSHead(config, own, num_classes, loss, box_loss, len(backbone.strides))
    return DenseDetector(backbone, head, config.selection, config.input_scale)
