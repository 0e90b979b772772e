"""The first stage of Faster R-CNN: where something is, whatever it is (Ren, He, Girshick, Sun, NeurIPS 2015)."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import batched_nms

from wsi_detect.config import Config
from wsi_detect.detectors.assign import BACKGROUND, IoURule, assign_iou
from wsi_detect.detectors.box_coding import boxes_from_deltas, deltas_from_boxes
from wsi_detect.detectors.matching import Target, gather_matches
from wsi_detect.detectors.points import PyramidPoints, anchors
from wsi_detect.detectors.tower import Norm, conv_tower, output_layer, rows
from wsi_detect.losses import shared_normaliser

#: Shorter sides are no proposal, px.
_LEAST_SIDE = 1e-3


class ProposalConfig(Config):
    """Anchors, sampling and selection of proposals; the defaults are torchvision's."""

    #: Sides of the squares, in strides.
    sizes: tuple[float, ...] = Field((8.0,), min_length=1)
    #: Height over width.
    ratios: tuple[float, ...] = Field((0.5, 1.0, 2.0), min_length=1)
    positive_iou: float = Field(0.7, gt=0, le=1)
    negative_iou: float = Field(0.3, gt=0, le=1)
    #: Anchors of an image that are trained on, and the share of positives among them at most.
    sampled: int = Field(256, ge=1)
    positive_share: float = Field(0.5, gt=0, le=1)
    #: Best anchors of a level that go into suppression, and proposals of an image that come out, in training.
    before: int = Field(2000, ge=1)
    after: int = Field(2000, ge=1)
    #: The same in evaluation.
    before_test: int = Field(1000, ge=1)
    after_test: int = Field(1000, ge=1)
    nms_iou: float = Field(0.7, gt=0, le=1)


class ProposalNetwork(nn.Module):
    """One tower, objectness and box deltas of every anchor; shared by all levels."""

    def __init__(self, config: ProposalConfig, channels: int, depth: int, norm: Norm) -> None:
        super().__init__()
        count = len(config.sizes) * len(config.ratios)
        self.tower = conv_tower(channels, depth, norm)
        self.obj = output_layer(channels, count, side=1)
        self.box = output_layer(channels, count * 4, side=1)
        self.config = config
        self.rule = IoURule(positive=config.positive_iou, negative=config.negative_iou)
        self.sampler = BalancedPositiveNegativeSampler(config.sampled, config.positive_share)

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Levels (B, C, H, W) → obj (B, A) logits and deltas (B, A, 4), the anchors of a point together."""
        towers = [self.tower(level) for level in levels]
        obj = torch.cat([rows(self.obj(tower), 1) for tower in towers], 1)[..., 0]
        return {"obj": obj, "deltas": torch.cat([rows(self.box(tower), 4) for tower in towers], 1)}

    def boxes(self, outputs: dict[str, Tensor], points: PyramidPoints) -> Tensor:
        """Boxes (B, A, 4), network-input px, before selection."""
        return boxes_from_deltas(self._anchors(points), outputs["deltas"])

    @torch.no_grad()
    def select(
        self, outputs: dict[str, Tensor], points: PyramidPoints, sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Proposals (P, 4) of each image, best first; `sizes` are heights and widths in network-input px."""
        rule = self.config
        before, after = (rule.before, rule.after) if self.training else (rule.before_test, rule.after_test)
        each = len(rule.sizes) * len(rule.ratios)
        best, level, start = [], [], 0
        for number, count in enumerate(points.sizes):
            index = outputs["obj"][:, start : start + count * each].topk(min(before, count * each), dim=1).indices
            best.append(index + start)
            level.append(torch.full_like(index[0], number))
            start += count * each
        row, levels = torch.cat(best, dim=1), torch.cat(level)
        found = []
        for boxes, obj, index, (height, width) in zip(
            self.boxes(outputs, points), outputs["obj"], row, sizes, strict=True
        ):
            limit = boxes.new_tensor([width, height, width, height])
            chosen = torch.minimum(boxes[index].clamp(min=0), limit)
            large = torch.where((chosen[:, 2:] - chosen[:, :2]).amin(dim=1) >= _LEAST_SIDE)[0]
            scores = torch.sigmoid(obj[index])[large]
            keep = batched_nms(chosen[large], scores, levels[large], rule.nms_iou)
            found.append(chosen[large][keep[:after]])
        return found

    def losses(self, outputs: dict[str, Tensor], points: PyramidPoints, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Objectness and box loss over a sample of anchors, both divided by the size of the sample."""
        around = self._anchors(points)
        centres = (around[:, :2] + around[:, 2:]) / 2
        assigned = [assign_iou(around, target["boxes"], self.rule) for target in targets]
        matches = gather_matches(targets, assigned, centres)
        chosen, positive = sampled(self.sampler, list(matches.index))
        normaliser = shared_normaliser(chosen.sum())
        objectness = F.binary_cross_entropy_with_logits(
            outputs["obj"][chosen], positive[chosen].to(outputs["obj"].dtype), reduction="sum"
        )
        wanted = deltas_from_boxes(around.expand_as(matches.boxes)[positive], matches.boxes[positive])
        boxes = F.smooth_l1_loss(outputs["deltas"][positive], wanted, beta=1 / 9, reduction="sum")
        return {"proposal_objectness": objectness / normaliser, "proposal_boxes": boxes / normaliser}

    def _anchors(self, points: PyramidPoints) -> Tensor:
        return anchors(points, self.config.sizes, self.config.ratios, whole_px=True)


def sampled(sampler: BalancedPositiveNegativeSampler, index: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Draw from assignments (A,) of each image: masks (B, A) of what was drawn, and of the positives in it.

    Assignments of several lengths give masks of their concatenation, (total,).
    """
    labels = [torch.where(one >= 0, 1, torch.where(one == BACKGROUND, 0, -1)) for one in index]
    positive, negative = sampler(labels)
    join = torch.stack if len({len(one) for one in index}) == 1 else torch.cat
    drawn, taken = join(negative) > 0, join(positive) > 0
    return drawn | taken, taken
