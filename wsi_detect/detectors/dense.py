"""One-stage detectors by composition: prepare → backbone → head → losses, or → decode → suppress.

The outside contract is torchvision's: in training `model(images, targets)` gives a dict of losses, in evaluation
`model(images)` gives a list of {"boxes", "scores", "labels"} (and "class_scores", and "finite", whether all that the
network said of the image is a number). Images are uint8, or float in [0, 1], (3, H, W) in patch px; normalisation and
the input scale live in here.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from wsi_detect.detectors.matching import Target
from wsi_detect.detectors.points import PyramidPoints, pyramid_points
from wsi_detect.detectors.preparation import Preparation
from wsi_detect.detectors.selection import SelectionConfig, select

__all__ = ["DenseDetector", "DenseHead", "DensePart", "SelectionConfig", "Target"]


class DenseHead(Protocol):
    """What a head must offer; boxes in and out are network-input px.

    A point may have several anchors: A is then the number of anchors, those of a point next to each other.
    """

    def __call__(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Levels → raw outputs, each (B, A, ...), points in pyramid order."""
        ...

    def losses(self, outputs: dict[str, Tensor], points: PyramidPoints, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses of a batch; targets hold boxes (M, 4), labels (M,), ignore_boxes (I, 4)."""
        ...

    def decode(self, outputs: dict[str, Tensor], points: PyramidPoints) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) and class scores (B, A, K)."""
        ...


class DenseDetector(nn.Module):
    """A one-stage detector put together from its parts."""

    def __init__(
        self, backbone: nn.Module, head: nn.Module, selection: SelectionConfig, input_scale: float = 1.0
    ) -> None:
        """Put the parts together.

        Args:
            backbone: images → levels; has `strides`.
            head: a `DenseHead`.
            selection: thresholds and suppression.
            input_scale: network-input px per patch px; below 1 the patch is reduced first.
        """
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.selection = selection
        self.input_scale = input_scale
        self.preparation = Preparation(input_scale)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation; see the module's text for the contract.

        Raises:
            ValueError: no targets in training, or a box without area.
        """
        outputs, points = self._outputs(self.prepare(images))
        if self.training:
            if targets is None:
                raise ValueError("targets are needed in training mode")
            losses: dict[str, Tensor] = self.head.losses(  # type: ignore[operator]
                outputs, points, self.preparation.targets(targets)
            )
            return losses
        finite = torch.stack([torch.isfinite(value.flatten(1)).all(dim=1) for value in outputs.values()]).all(dim=0)
        boxes, scores = self.head.decode(outputs, points)  # type: ignore[operator]
        return [
            {
                **self.select(boxes[k] / self.input_scale, scores[k], points, (image.shape[-2], image.shape[-1])),
                "finite": finite[k],
            }
            for k, image in enumerate(images)
        ]

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Images (3, H, W) uint8 or float in [0, 1] → one normalised batch, padded right and below to 32s."""
        batch: Tensor = self.preparation(images)
        return batch

    def dense(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Everything before suppression: pixels (B, 3, H, W) → boxes (B, A, 4) in patch px, class scores (B, A, K)."""
        outputs, points = self._outputs(self.preparation.padded(pixels))
        boxes, scores = self.head.decode(outputs, points)  # type: ignore[operator]
        return boxes / self.input_scale, scores

    def select(
        self, boxes: Tensor, class_scores: Tensor, points: PyramidPoints, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Detections of one image from boxes (A, 4) in patch px and scores (A, K); see `selection.select`."""
        anchors = len(class_scores) // len(points.xy)
        return select(boxes, class_scores, [count * anchors for count in points.sizes], size, self.selection)

    def _outputs(self, batch: Tensor) -> tuple[dict[str, Tensor], PyramidPoints]:
        levels = self.backbone(batch)
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        points = pyramid_points(shapes, self.backbone.strides, batch.device)  # type: ignore[arg-type]
        # Losses and scores in float32 whatever the precision of the convolutions.
        return {name: value.float() for name, value in self.head(levels).items()}, points


class DensePart(nn.Module):
    """What of a detector can become one graph without Python in it: suppression has an output of unknown size."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) → boxes (B, A, 4) in patch px and their scores."""
        boxes, scores = self.detector.dense(pixels)  # type: ignore[operator]
        return boxes, scores
