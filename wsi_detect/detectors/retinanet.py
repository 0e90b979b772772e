"""RetinaNet (Lin, Goyal, Girshick, He, Dollár, Focal Loss for Dense Object Detection, ICCV 2017, arXiv 1708.02002).

Nine anchors a point, max-IoU assignment, two towers. With its defaults and the focal loss it gives torchvision's losses
and detections from the same weights. The classification loss is an argument.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from wsi_detect.config import Config
from wsi_detect.detectors.assign import IoURule, assign_iou
from wsi_detect.detectors.box_coding import boxes_from_deltas, deltas_from_boxes
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
from wsi_detect.detectors.matching import Matches, Target, classify, match_batch
from wsi_detect.detectors.points import PyramidPoints, anchors
from wsi_detect.detectors.tower import conv_tower, output_layer, rows
from wsi_detect.errors import ConfigError
from wsi_detect.losses import class_scores, shared_normaliser

DEFAULTS: dict[str, Any] = {"norm": "none", "box_loss": "l1", "selection": {"nms_iou": 0.5}}


class RetinaNetConfig(Config):
    """What only RetinaNet knows."""

    #: Sides of the squares, in strides.
    sizes: tuple[float, ...] = Field((4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3)), min_length=1)
    #: Height over width.
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1)
    positive_iou: float = Field(0.5, gt=0, le=1)
    negative_iou: float = Field(0.4, gt=0, le=1)
    #: `image`: divide by the positives of each image, then take the mean over images (the paper's public code and
    #: torchvision); `batch`: divide once by those of the batch. None: `batch` for a loss that keeps statistics, which
    #: are of the joined batch, else `image`.
    normaliser: Literal["image", "batch"] | None = None


class RetinaNetHead(nn.Module):
    """Two towers; classes on one, box deltas on the other; shared by all levels."""

    def __init__(
        self, config: DetectorConfig, own: RetinaNetConfig, num_classes: int, loss: nn.Module, box_loss: BoxLoss
    ) -> None:
        super().__init__()
        count = len(own.sizes) * len(own.ratios)
        self.cls_tower = conv_tower(config.channels, config.tower_depth, config.norm)
        self.box_tower = conv_tower(config.channels, config.tower_depth, config.norm)
        self.cls = output_layer(config.channels, count * num_classes, bias=prior_bias(config.prior))
        self.box = output_layer(config.channels, count * 4)
        self.loss = loss
        self.box_loss = box_loss
        self.own = own
        self.by_image = own.normaliser == "image" or (own.normaliser is None and not loss.state_dict())
        self.rule = IoURule(positive=own.positive_iou, negative=own.negative_iou)
        self.num_classes = num_classes

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Levels (B, C, H, W) → cls (B, A, K) logits and box (B, A, 4) deltas, the anchors of a point together."""
        cls = [rows(self.cls(self.cls_tower(level)), self.num_classes) for level in levels]
        box = [rows(self.box(self.box_tower(level)), 4) for level in levels]
        return {"cls": torch.cat(cls, 1), "box": torch.cat(box, 1)}

    def losses(self, outputs: dict[str, Tensor], points: PyramidPoints, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Classification and box loss, divided as `normaliser` says; ignored anchors are out of the first."""
        around = self._anchors(points)
        centres = (around[:, :2] + around[:, 2:]) / 2
        matches = match_batch(targets, lambda boxes: assign_iou(around, boxes, self.rule), centres)
        if not self.by_image:
            return self._divided(outputs, around, matches, shared_normaliser(matches.positive.sum()))
        images = shared_normaliser(torch.tensor(len(targets), device=around.device))
        parts = []
        for k in range(len(targets)):
            one = {name: value[k : k + 1] for name, value in outputs.items()}
            match = matches.of_image(k)
            parts.append(self._divided(one, around, match, match.positive.sum().clamp(min=1)))
        return {name: torch.stack([part[name] for part in parts]).sum() / images for name in parts[0]}

    def decode(self, outputs: dict[str, Tensor], points: PyramidPoints) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) and scores sigmoid(cls) (B, A, K)."""
        return boxes_from_deltas(self._anchors(points), outputs["box"]), class_scores(self.loss, outputs["cls"])

    def _divided(
        self, outputs: dict[str, Tensor], around: Tensor, matches: Matches, normaliser: Tensor
    ) -> dict[str, Tensor]:
        own = around.expand_as(matches.boxes)[matches.positive]
        deltas, boxes = outputs["box"][matches.positive], matches.boxes[matches.positive]
        if self.box_loss.coordinates:
            regression = self.box_loss.function(deltas, deltas_from_boxes(own, boxes))
        else:
            regression = self.box_loss.function(boxes_from_deltas(own, deltas), boxes)
        classification = classify(self.loss, outputs["cls"], matches, normaliser)
        return {"classification": classification, "bbox_regression": regression / normaliser}

    def _anchors(self, points: PyramidPoints) -> Tensor:
        return anchors(points, self.own.sizes, self.own.ratios, whole_px=True)


def retinanet(num_classes: int, options: Mapping[str, Any] | None = None) -> DenseDetector:
    """Build a RetinaNet.

    Args:
        num_classes: K; labels are 0 to K - 1, no background class.
        options: `DetectorConfig` as plain values over `DEFAULTS`, `RetinaNetConfig` under `head`.

    Raises:
        ConfigError: unknown backbone, neck, loss or option.
    """
    config = read_config(options or {}, DEFAULTS, "retinanet")
    own = read_head(config, RetinaNetConfig, "retinanet")
    backbone = build_backbone(config)
    loss, box_loss = build_loss(config, num_classes), build_box_loss(config, "retinanet")
    if own.normaliser == "image" and loss.state_dict():
        raise ConfigError(
            f"detector 'retinanet': head.normaliser 'image' calls the loss for each image, but {config.loss!r} keeps "
            "statistics of whole batches; leave it out, or take 'batch'"
        )
    head = RetinaNetHead(config, own, num_classes, loss, box_loss)
    return DenseDetector(backbone, head, config.selection, config.input_scale)
