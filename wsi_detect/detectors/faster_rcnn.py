"""Faster R-CNN (Ren, He, Girshick, Sun, NeurIPS 2015, arXiv 1506.01497) on a pyramid, from torchvision's parts.

With its defaults and softmax cross-entropy it gives torchvision's losses and detections from the same weights. The
classification loss of the second stage is an argument: a loss says how many columns it wants beyond the classes, the
background last. So is the layer before it: linear, or the cosine classifier that the authors of IIF found best.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from wsi_detect.config import Config
from wsi_detect.detectors.assign import BACKGROUND, IGNORED, IoURule, assign_iou, inside_any
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
from wsi_detect.detectors.matching import Target
from wsi_detect.detectors.proposals import ProposalConfig, ProposalNetwork, sampled
from wsi_detect.detectors.two_stage import TwoStageDetector
from wsi_detect.errors import ConfigError
from wsi_detect.losses import (
    SOFTMAX,
    TWO_STAGE,
    check_fits,
    class_scores,
    extra_columns,
    kind_of,
    shared_normaliser,
)
from wsi_detect.losses.iif import CosineClassifier

DEFAULTS: dict[str, Any] = {
    "first_stage": 1,
    "extra_levels": 1,
    "extra_from": "pool",
    "tower_depth": 1,
    "norm": "none",
    "loss": "ce",
    "box_loss": "smooth_l1",
    "selection": {"nms_iou": 0.5},
}

#: What deltas of the second stage are multiplied by.
_SCALE = (0.1, 0.1, 0.2, 0.2)


class FasterRCNNConfig(Config):
    """What only Faster R-CNN knows."""

    proposals: ProposalConfig = ProposalConfig()
    #: Side of the grid a proposal's features are read on.
    grid: int = Field(7, ge=1)
    #: Width of the two layers after it.
    width: int = Field(1024, ge=1)
    positive_iou: float = Field(0.5, gt=0, le=1)
    #: Proposals of an image that are trained on, and the share of positives among them at most.
    sampled: int = Field(512, ge=1)
    positive_share: float = Field(0.25, gt=0, le=1)
    #: What gives the logits, a name in `CLASSIFIERS`.
    classifier: str = "linear"
    #: Largest logit of the classifier `cosine`; None for its own.
    temperature: float | None = Field(None, gt=0)


def linear_classifier(own: FasterRCNNConfig, columns: int, config: DetectorConfig, loss: nn.Module) -> nn.Module:
    """A linear layer; before a sigmoid it starts from the prior."""
    layer = nn.Linear(own.width, columns)
    if kind_of(loss) == "sigmoid":
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.constant_(layer.bias, prior_bias(config.prior))
    return layer


def cosine_classifier(own: FasterRCNNConfig, columns: int, config: DetectorConfig, loss: nn.Module) -> nn.Module:
    """The cosine classifier of IIF, for softmax losses.

    Raises:
        ConfigError: the loss is a sigmoid one; with the list of those that fit.
    """
    check_fits(loss, config.loss, SOFTMAX, "the classifier 'cosine', which has no bias to start from a prior")
    return CosineClassifier(own.width, columns, **({} if own.temperature is None else {"temperature": own.temperature}))


#: What gives the logits of the second stage: name → function of (options, columns, common options, loss).
CLASSIFIERS: dict[str, Callable[[FasterRCNNConfig, int, DetectorConfig, nn.Module], nn.Module]] = {
    "cosine": cosine_classifier,
    "linear": linear_classifier,
}


class BoxHead(nn.Module):
    """The second stage: what a proposal is, and how it must move."""

    def __init__(
        self,
        config: DetectorConfig,
        own: FasterRCNNConfig,
        num_classes: int,
        loss: nn.Module,
        box_loss: BoxLoss,
        levels: int,
    ) -> None:
        super().__init__()
        self.pool = MultiScaleRoIAlign([str(k) for k in range(levels)], output_size=own.grid, sampling_ratio=2)
        self.layers = TwoMLPHead(config.channels * own.grid**2, own.width)
        self.cls = CLASSIFIERS[own.classifier](own, num_classes + extra_columns(loss), config, loss)
        self.box = nn.Linear(own.width, num_classes * 4)
        self.loss = loss
        self.box_loss = box_loss
        self.own = own
        self.rule = IoURule(positive=own.positive_iou, negative=own.positive_iou, rescue="none")
        self.sampler = BalancedPositiveNegativeSampler(own.sampled, own.positive_share)
        self.num_classes = num_classes

    def forward(
        self, levels: Sequence[Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Logits (P, columns) and deltas (P, K, 4) of the proposals of all images; `sizes` are (height, width)."""
        maps = {str(k): level for k, level in enumerate(levels)}
        features = self.layers(self.pool(maps, proposals, sizes))
        return self.cls(features).float(), self.box(features).float().unflatten(1, (self.num_classes, 4))

    @torch.no_grad()
    def sample(self, proposals: Sequence[Tensor], targets: Sequence[Target]) -> tuple[list[Tensor], list[Tensor]]:
        """Proposals to train on, the true boxes among them: boxes (P, 4) and their assignments (P,) of each image."""
        pool = [torch.cat([boxes, target["boxes"]]) for boxes, target in zip(proposals, targets, strict=True)]
        assigned = []
        for boxes, target in zip(pool, targets, strict=True):
            index = assign_iou(boxes, target["boxes"], self.rule)
            hidden = (index == BACKGROUND) & inside_any((boxes[:, :2] + boxes[:, 2:]) / 2, target["ignore_boxes"])
            assigned.append(torch.where(hidden, index.new_full((), IGNORED), index))
        drawn = torch.split(sampled(self.sampler, assigned)[0].flatten(), [len(index) for index in assigned])
        return (
            [boxes[mask] for boxes, mask in zip(pool, drawn, strict=True)],
            [index[mask] for index, mask in zip(assigned, drawn, strict=True)],
        )

    def decode(self, logits: Tensor, deltas: Tensor, proposals: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes (P, K, 4), network-input px, and class scores (P, K) of the proposals of all images."""
        return boxes_from_deltas(torch.cat(proposals)[:, None], deltas, _SCALE), class_scores(self.loss, logits)

    def losses(
        self, logits: Tensor, deltas: Tensor, proposals: list[Tensor], index: list[Tensor], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Classification and box loss, both divided by the number of sampled proposals."""
        positive = torch.cat(index) >= 0
        label = torch.cat([t["labels"][i[i >= 0]] for t, i in zip(targets, index, strict=True)])
        wanted = torch.cat([t["boxes"][i[i >= 0]] for t, i in zip(targets, index, strict=True)])
        # Background is the last column of the targets, where the loss knows one.
        classes = torch.full_like(positive, self.num_classes, dtype=torch.int64)
        classes[positive] = label
        columns = self.num_classes + min(extra_columns(self.loss), 1)
        normaliser = shared_normaliser(torch.tensor(len(positive), device=logits.device))
        classification = self.loss(
            logits,
            F.one_hot(classes, self.num_classes + 1)[:, :columns].to(logits.dtype),
            valid=torch.ones_like(positive),
            image=torch.cat([torch.full_like(one, k) for k, one in enumerate(index)]),
            normaliser=normaliser,
        )
        own, moved = torch.cat(proposals)[positive], deltas[positive, label]
        if self.box_loss.coordinates:
            regression = self.box_loss.function(moved, deltas_from_boxes(own, wanted, _SCALE))
        else:
            regression = self.box_loss.function(boxes_from_deltas(own, moved, _SCALE), wanted)
        return {"classification": classification, "bbox_regression": regression / normaliser}


def faster_rcnn(num_classes: int, options: Mapping[str, Any] | None = None) -> TwoStageDetector:
    """Build a Faster R-CNN.

    Args:
        num_classes: K; labels are 0 to K - 1; a background column is the loss's affair.
        options: `DetectorConfig` as plain values over `DEFAULTS`, `FasterRCNNConfig` under `head`; depth and norm of
            the tower are those of the proposal network.

    Raises:
        ConfigError: unknown backbone, neck, loss, classifier or option; or a classifier that the loss does not fit.
    """
    config = read_config(options or {}, DEFAULTS, "faster_rcnn")
    own = read_head(config, FasterRCNNConfig, "faster_rcnn")
    if own.classifier not in CLASSIFIERS:
        raise ConfigError(
            f"detector 'faster_rcnn': unknown classifier {own.classifier!r}; known: {', '.join(CLASSIFIERS)}"
        )
    if own.temperature is not None and own.classifier != "cosine":
        raise ConfigError(f"detector 'faster_rcnn': temperature is of the classifier 'cosine', not {own.classifier!r}")
    backbone = build_backbone(config)
    proposer = ProposalNetwork(own.proposals, config.channels, config.tower_depth, config.norm)
    # Levels without a stage of their own only propose.
    levels = len(backbone.strides) - config.extra_levels
    loss, box_loss = build_loss(config, num_classes, TWO_STAGE), build_box_loss(config, "faster_rcnn")
    head = BoxHead(config, own, num_classes, loss, box_loss, levels)
    return TwoStageDetector(backbone, proposer, head, config.selection, config.input_scale)
