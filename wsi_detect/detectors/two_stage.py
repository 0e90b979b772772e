"""Two-stage detectors by composition: prepare → backbone → proposals → sample → losses, or → classes → suppress.

The outside contract is that of `dense.py`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wsi_detect.detectors.backbone import PyramidBackbone
from wsi_detect.detectors.matching import Target
from wsi_detect.detectors.points import PyramidPoints, pyramid_points
from wsi_detect.detectors.preparation import Preparation
from wsi_detect.detectors.proposals import ProposalNetwork
from wsi_detect.detectors.selection import SelectionConfig, select

#: Shorter sides are no detection, patch px.
_LEAST_SIDE = 1e-2


class TwoStageDetector(nn.Module):
    """A two-stage detector put together from its parts; the outside contract is that of `DenseDetector`."""

    def __init__(
        self,
        backbone: PyramidBackbone,
        proposer: ProposalNetwork,
        head: nn.Module,
        selection: SelectionConfig,
        input_scale: float,
    ) -> None:
        """Put the parts together.

        Args:
            backbone: images → levels.
            proposer: levels → proposals.
            head: levels and proposals → logits and deltas; `sample`, `losses` and `boxes` as in `BoxHead`.
            selection: thresholds and suppression.
            input_scale: network-input px per patch px.
        """
        super().__init__()
        self.backbone = backbone
        self.proposer = proposer
        self.head = head
        self.selection = selection
        self.input_scale = input_scale
        self.preparation = Preparation(input_scale)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation.

        Raises:
            ValueError: no targets in training, or a box without area.
        """
        if self.training and targets is None:
            raise ValueError("targets are needed in training mode")
        levels, outputs, points = self._first(self.prepare(images))
        sizes = self._sizes(images)
        proposals = self.proposer.select(outputs, points, sizes)
        if self.training and targets is not None:
            scaled = self.preparation.targets(targets)
            losses = self.proposer.losses(outputs, points, scaled)
            head: Any = self.head
            chosen, index = head.sample(proposals, scaled)
            logits, deltas = head(levels, chosen, sizes)
            return {**losses, **head.losses(logits, deltas, chosen, index, scaled)}
        return self._answers(images, levels, outputs, proposals)

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Images (3, H, W) uint8 or float in [0, 1] → one normalised batch, padded right and below to 32s."""
        batch: Tensor = self.preparation(images)
        return batch

    def dense(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The first stage before suppression: pixels (B, 3, H, W) → boxes (B, A, 4) in patch px, objectness (B, A)."""
        _, outputs, points = self._first(self.preparation.padded(pixels))
        return self.proposer.boxes(outputs, points) / self.input_scale, torch.sigmoid(outputs["obj"])

    def _first(self, batch: Tensor) -> tuple[list[Tensor], dict[str, Tensor], PyramidPoints]:
        levels = self.backbone(batch)
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        points = pyramid_points(shapes, self.backbone.strides, batch.device)
        outputs = {name: value.float() for name, value in self.proposer(levels).items()}
        return levels, outputs, points

    def _answers(
        self, images: Sequence[Tensor], levels: list[Tensor], outputs: dict[str, Tensor], proposals: list[Tensor]
    ) -> list[dict[str, Tensor]]:
        head: Any = self.head
        logits, deltas = head(levels, proposals, self._sizes(images))
        boxes, scores = head.decode(logits, deltas, proposals)
        counts = [len(one) for one in proposals]
        values = (torch.split(value, counts) for value in (boxes / self.input_scale, scores, logits, deltas))
        finite = torch.stack([torch.isfinite(value.flatten(1)).all(dim=1) for value in outputs.values()]).all(dim=0)
        found = []
        for image, first, box, score, logit, delta in zip(images, finite, *values, strict=True):
            size = (image.shape[-2], image.shape[-1])
            answer = select(box, score, [len(box)], size, self.selection, least_side=_LEAST_SIDE)
            found.append({**answer, "finite": first & torch.isfinite(logit).all() & torch.isfinite(delta).all()})
        return found

    def _sizes(self, images: Sequence[Tensor]) -> list[tuple[int, int]]:
        """Heights and widths in network-input px, without the padding: there, nothing is proposed."""
        return [(int(i.shape[-2] * self.input_scale), int(i.shape[-1] * self.input_scale)) for i in images]
