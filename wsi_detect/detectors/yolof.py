"""YOLOF (Chen, Wang, Yang, Zhang, Cheng, Sun, You Only Look One-level Feature, CVPR 2021, arXiv 2103.09460).

One level through a dilated encoder, five squares a point, uniform matching, implicit objectness. With its default neck,
`none`, the level is the last stage itself, as in the paper. With another neck (ours) it is the first stage taken, into
which the later ones are merged: a finer level for small cells. `extra_levels` and `keep_levels` mean nothing here.
The classification loss is an argument.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.ops import box_iou

from wsi_detect.config import Config
from wsi_detect.detectors.assign import BACKGROUND, IGNORED, UniformPairs, assign_uniform
from wsi_detect.detectors.backbone import PyramidBackbone
from wsi_detect.detectors.box_coding import boxes_from_deltas
from wsi_detect.detectors.config import (
    BoxLoss,
    DetectorConfig,
    build_backbone,
    build_body,
    build_box_loss,
    build_loss,
    prior_bias,
    read_config,
    read_head,
)
from wsi_detect.detectors.dense import DenseDetector
from wsi_detect.detectors.matching import Target, classify, gather_matches
from wsi_detect.detectors.necks import DilatedEncoder
from wsi_detect.detectors.points import PyramidPoints, anchors, per_point
from wsi_detect.detectors.tower import conv_tower, norm_layer, output_layer, rows
from wsi_detect.losses import class_scores, shared_normaliser

DEFAULTS: dict[str, Any] = {"neck": "none", "channels": 512, "tower_depth": 2, "norm": "batch"}


class YOLOFConfig(Config):
    """What only YOLOF knows."""

    #: Sides of the squares, in strides.
    sizes: tuple[float, ...] = Field((1.0, 2.0, 4.0, 8.0, 16.0), min_length=1)
    dilations: tuple[int, ...] = (2, 4, 6, 8)
    #: Pairs of a box from each side: nearest predictions and nearest anchors.
    matches: int = Field(4, ge=1)
    #: IoU of an anchor from which a pair counts.
    least_iou: float = Field(0.15, ge=0, le=1)
    #: IoU of a prediction above which it is no background.
    most_iou: float = Field(0.7, ge=0, le=1)
    #: How far a box's centre may lie from its point, in strides.
    reach: float = Field(1.0, gt=0)


def implicit_objectness(cls: Tensor, obj: Tensor) -> Tensor:
    """Logit whose sigmoid is sigmoid(cls) sigmoid(obj): c + o - log(1 + e^c + e^o).

    Args:
        cls: (..., K) logits.
        obj: (..., 1) logits.
    """
    both = torch.stack([torch.zeros_like(cls), cls, obj.expand_as(cls)])
    return cls + obj - torch.logsumexp(both, dim=0)


class YOLOFHead(nn.Module):
    """Encoder, then two towers; classes on one, twice as deep boxes and objectness on the other."""

    def __init__(
        self, config: DetectorConfig, own: YOLOFConfig, num_classes: int, loss: nn.Module, box_loss: BoxLoss, taken: int
    ) -> None:
        super().__init__()
        channels, count = config.channels, len(own.sizes)
        self.encoder = DilatedEncoder(taken, channels, own.dilations, partial(norm_layer, config.norm))
        self.cls_tower = conv_tower(channels, config.tower_depth, config.norm)
        self.box_tower = conv_tower(channels, 2 * config.tower_depth, config.norm)
        self.cls = output_layer(channels, count * num_classes, bias=prior_bias(config.prior))
        self.box = output_layer(channels, count * 4)
        self.obj = output_layer(channels, count)
        self.loss = loss
        self.box_loss = box_loss
        self.own = own
        self.num_classes = num_classes

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """One level (B, C, H, W) → cls (B, A, K) logits with objectness in them, box (B, A, 4) deltas."""
        (level,) = levels
        encoded = self.encoder(level)
        box_features = self.box_tower(encoded)
        cls = rows(self.cls(self.cls_tower(encoded)), self.num_classes)
        # In float32: the logarithm of a sum of exponentials is what half precision is worst at.
        joined = implicit_objectness(cls.float(), rows(self.obj(box_features), 1).float())
        return {"cls": joined, "box": rows(self.box(box_features), 4)}

    def losses(self, outputs: dict[str, Tensor], points: PyramidPoints, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Both losses divided by the positives, those of an image being at least 1; boxes over all valid pairs."""
        squares = anchors(points, self.own.sizes)
        predicted = self._boxes(outputs["box"], squares, points)
        found = [self._pairs(squares, boxes.detach(), target) for boxes, target in zip(predicted, targets, strict=True)]
        centres = (squares[:, :2] + squares[:, 2:]) / 2
        matches = gather_matches(targets, [pairs.matched for pairs in found], centres)
        normaliser = shared_normaliser(matches.positive.sum(dim=1).clamp(min=1).sum())
        chosen = torch.cat([boxes[pairs.row[pairs.valid]] for boxes, pairs in zip(predicted, found, strict=True)])
        wanted = torch.cat([t["boxes"][pairs.box[pairs.valid]] for t, pairs in zip(targets, found, strict=True)])
        unit = points.stride[0] if self.box_loss.coordinates else 1.0
        regression = self.box_loss.function(chosen / unit, wanted / unit)
        return {
            "classification": classify(self.loss, outputs["cls"], matches, normaliser),
            "bbox_regression": regression / normaliser,
        }

    def decode(self, outputs: dict[str, Tensor], points: PyramidPoints) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) and class scores (B, A, K)."""
        boxes = self._boxes(outputs["box"], anchors(points, self.own.sizes), points)
        return boxes, class_scores(self.loss, outputs["cls"])

    def _boxes(self, deltas: Tensor, squares: Tensor, points: PyramidPoints) -> Tensor:
        reach = per_point(points, len(self.own.sizes)).stride[:, None] * self.own.reach
        return boxes_from_deltas(squares.expand_as(deltas), deltas, limit_px=reach)

    def _pairs(self, squares: Tensor, predicted: Tensor, target: Target) -> UniformPairs:
        own = self.own
        pairs = assign_uniform(
            squares, predicted, target["boxes"], k=own.matches, least=own.least_iou, most=own.most_iou
        )
        if len(target["ignore_boxes"]):
            # Like a prediction that fits a cell well: no background, even from a point outside the ignored box.
            near = box_iou(predicted, target["ignore_boxes"]).amax(dim=1) > own.most_iou
            pairs.matched[near & (pairs.matched == BACKGROUND)] = IGNORED
        return pairs


def yolof(num_classes: int, options: Mapping[str, Any] | None = None) -> DenseDetector:
    """Build a YOLOF.

    Args:
        num_classes: K; labels are 0 to K - 1, no background class.
        options: `DetectorConfig` as plain values over `DEFAULTS`, `YOLOFConfig` under `head`.

    Raises:
        ConfigError: unknown backbone, neck, loss or option.
    """
    config = read_config(options or {}, DEFAULTS, "yolof")
    own = read_head(config, YOLOFConfig, "yolof")
    if config.neck == "none":
        body, channels = build_body(config)
        backbone = PyramidBackbone(body, nn.Identity(), config.last_stage, (2 ** (config.last_stage + 1),))
        taken = channels[-1]
    else:
        backbone = build_backbone(config.model_copy(update={"extra_levels": 0, "keep_levels": 1}))
        taken = config.channels
    loss, box_loss = build_loss(config, num_classes), build_box_loss(config, "yolof")
    head = YOLOFHead(config, own, num_classes, loss, box_loss, taken)
    return DenseDetector(backbone, head, config.selection, config.input_scale)
