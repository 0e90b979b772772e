"""RepPoints (Yang, Liu, Hu, Wang, Lin, Point Set Representation for Object Detection, ICCV 2019, arXiv 1904.11490).

Nine points stand for an object: a first set from the features, a second from features gathered at the first by
deformable convolution, which also carry the classes. The classification loss is an argument.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

from wsi_detect.config import Config
from wsi_detect.detectors.assign import IoURule, assign_iou, assign_nearest_point
from wsi_detect.detectors.box_coding import Transform, boxes_from_points
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
from wsi_detect.detectors.matching import Matches, Target, classify, gather_matches, match_batch
from wsi_detect.detectors.points import PyramidPoints
from wsi_detect.detectors.tower import conv_tower, output_layer, rows
from wsi_detect.losses import class_scores, shared_normaliser

DEFAULTS: dict[str, Any] = {
    "tower_depth": 3,
    "extra_from": "input",
    "box_loss": "smooth_l1",
    "selection": {"nms_iou": 0.5},
}

#: Points of an object: those of a 3x3 kernel.
_POINTS = 9
#: Side of a box of level 0, and of the box whose coordinates the box loss sees as of the order of one, in strides.
_BASE = 4.0


class RepPointsConfig(Config):
    """What only RepPoints knows."""

    transform: Transform = "moment"
    #: Share of the gradient that the learned logarithms of `moment` get.
    moment_share: float = Field(0.01, ge=0, le=1)
    #: Share of the gradient that goes from the second stage into the first set of points.
    point_share: float = Field(0.1, ge=0, le=1)
    #: Points of a box in the first stage.
    nearest: int = Field(1, ge=1)
    positive_iou: float = Field(0.5, gt=0, le=1)
    negative_iou: float = Field(0.4, gt=0, le=1)
    #: Factors of the box losses of both stages.
    first_weight: float = Field(0.5, ge=0)
    second_weight: float = Field(1.0, ge=0)


class RepPointsHead(nn.Module):
    """Two towers; points on one, classes on the other; the second stage looks where the points of the first are."""

    def __init__(
        self, config: DetectorConfig, own: RepPointsConfig, num_classes: int, loss: nn.Module, box_loss: BoxLoss
    ) -> None:
        super().__init__()
        channels = config.channels
        self.cls_tower = conv_tower(channels, config.tower_depth, config.norm)
        self.point_tower = conv_tower(channels, config.tower_depth, config.norm)
        self.first_conv = output_layer(channels, channels)
        self.first = output_layer(channels, 2 * _POINTS, side=1)
        self.cls_conv = DeformConv2d(channels, channels, 3, padding=1, bias=False)
        self.cls = output_layer(channels, num_classes, bias=prior_bias(config.prior), side=1)
        self.second_conv = DeformConv2d(channels, channels, 3, padding=1, bias=False)
        self.second = output_layer(channels, 2 * _POINTS, side=1)
        for conv in (self.cls_conv, self.second_conv):
            nn.init.normal_(conv.weight, std=0.01)
        self.moment = nn.Parameter(torch.zeros(2)) if own.transform == "moment" else None
        y, x = torch.meshgrid(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0), indexing="ij")
        self.register_buffer("kernel", torch.stack([y, x], dim=2).view(1, -1, 1, 1), persistent=False)
        self.loss = loss
        self.box_loss = box_loss
        self.own = own
        self.rule = IoURule(positive=own.positive_iou, negative=own.negative_iou, rescue="forced")
        self.num_classes = num_classes

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Levels → cls (B, A, K) logits; first and second (B, A, 9, 2) points x, y in strides from their own point."""
        cls, first, second = [], [], []
        for level in levels:
            features = self.point_tower(level)
            points = self.first(F.relu(self.first_conv(features)))  # y before x, as deformable convolution takes them
            share = self.own.point_share
            offset = share * points + (1 - share) * points.detach() - self.kernel
            cls.append(
                rows(self.cls(F.relu(_deformed(self.cls_conv, self.cls_tower(level), offset))), self.num_classes)
            )
            refined = self.second(F.relu(_deformed(self.second_conv, features, offset))) + points.detach()
            first.append(rows(points, 2 * _POINTS))
            second.append(rows(refined, 2 * _POINTS))
        sets = [torch.cat(stage, 1) for stage in (first, second)]
        sets = [stage.reshape(*stage.shape[:2], _POINTS, 2).flip(-1) for stage in sets]
        return {"cls": torch.cat(cls, 1), "first": sets[0], "second": sets[1]}

    def losses(self, outputs: dict[str, Tensor], points: PyramidPoints, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Classes and second boxes by IoU with the first boxes, first boxes by the nearest point.

        Each is divided by its stage's positives, those of an image being at least 1.
        """
        near = match_batch(
            targets, lambda boxes: assign_nearest_point(points, boxes, scale=_BASE, nearest=self.own.nearest), points.xy
        )
        first, second = self._boxes(outputs["first"], points), self._boxes(outputs["second"], points)
        assigned = [assign_iou(b.detach(), t["boxes"], self.rule) for b, t in zip(first, targets, strict=True)]
        overlapping = gather_matches(targets, assigned, points.xy)
        normaliser = _at_least_one_an_image(overlapping)
        return {
            "classification": classify(self.loss, outputs["cls"], overlapping, normaliser),
            "bbox_first": self.own.first_weight * self._compared(first, near, points) / _at_least_one_an_image(near),
            "bbox_regression": self.own.second_weight * self._compared(second, overlapping, points) / normaliser,
        }

    def decode(self, outputs: dict[str, Tensor], points: PyramidPoints) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) around the second points and class scores (B, A, K)."""
        return self._boxes(outputs["second"], points), class_scores(self.loss, outputs["cls"])

    def _boxes(self, sets: Tensor, points: PyramidPoints) -> Tensor:
        moment: Tensor | None = self.moment
        if moment is not None:
            moment = self.own.moment_share * moment + (1 - self.own.moment_share) * moment.detach()
        boxes = boxes_from_points(sets, self.own.transform, moment)
        return boxes * points.stride[:, None] + torch.cat([points.xy, points.xy], dim=1)

    def _compared(self, boxes: Tensor, matches: Matches, points: PyramidPoints) -> Tensor:
        chosen = matches.positive
        unit = _BASE * points.stride.expand_as(matches.index)[chosen][:, None] if self.box_loss.coordinates else 1.0
        return self.box_loss.function(boxes[chosen] / unit, matches.boxes[chosen] / unit)


def _deformed(conv: nn.Module, features: Tensor, offset: Tensor) -> Tensor:
    """A deformable convolution, in float32: a CPU has none in half precision."""
    kind = features.device.type
    if torch.is_autocast_enabled(kind):
        with torch.autocast(kind, enabled=False):
            return _deformed(conv, features.float(), offset.float())
    gathered: Tensor = conv(features, offset)
    return gathered


def _at_least_one_an_image(matches: Matches) -> Tensor:
    return shared_normaliser(matches.positive.sum(dim=1).clamp(min=1).sum())


def reppoints(num_classes: int, options: Mapping[str, Any] | None = None) -> DenseDetector:
    """Build a RepPoints detector.

    Args:
        num_classes: K; labels are 0 to K - 1, no background class.
        options: `DetectorConfig` as plain values over `DEFAULTS`, `RepPointsConfig` under `head`.

    Raises:
        ConfigError: unknown backbone, neck, loss or option.
    """
    config = read_config(options or {}, DEFAULTS, "reppoints")
    own = read_head(config, RepPointsConfig, "reppoints")
    backbone = build_backbone(config)
    loss, box_loss = build_loss(config, num_classes), build_box_loss(config, "reppoints")
    head = RepPointsHead(config, own, num_classes, loss, box_loss)
    return DenseDetector(backbone, head, config.selection, config.input_scale)
