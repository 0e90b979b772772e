"""One-stage detectors by composition: prepare → backbone → head → losses, or → decode → suppress.

The outside contract is torchvision's: in training `model(images, targets)` gives a dict of losses, in evaluation
`model(images)` gives a list of {"boxes", "scores", "labels"} (and "class_scores"). Images are uint8, or float in
[0, 1], (3, H, W) in patch px; normalisation and the input scale live in here, so every runtime takes the same pixels.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms

from wsi_detect.config import Config
from wsi_detect.detectors.points import PyramidPoints, pyramid_points

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

Target = dict[str, Tensor]


class DenseHead(Protocol):
    """What a head must offer; boxes in and out are network-input px."""

    def __call__(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Levels → raw outputs, each (B, A, ...), points in pyramid order."""
        ...

    def losses(self, outputs: dict[str, Tensor], points: PyramidPoints, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Losses of a batch; targets hold boxes (M, 4), labels (M,), ignore_boxes (I, 4)."""
        ...

    def decode(self, outputs: dict[str, Tensor], points: PyramidPoints) -> tuple[Tensor, Tensor]:
        """Boxes (B, A, 4) and class scores (B, A, K)."""
        ...


class SelectionConfig(Config):
    """How raw outputs become detections."""

    score_threshold: float = 0.05
    candidates_per_level: int = 1000
    nms_iou: float = 0.6
    nms: Literal["class", "agnostic"] = "class"
    detections_per_image: int = 300


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
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, detections in evaluation; see the module's text for the contract.

        Raises:
            ValueError: no targets in training, or a box without area.
        """
        batch = self.prepare(images)
        levels = self.backbone(batch)
        shapes = [(level.shape[-2], level.shape[-1]) for level in levels]
        points = pyramid_points(shapes, self.backbone.strides, batch.device)  # type: ignore[arg-type]
        # Losses and scores in float32 whatever the precision of the convolutions.
        outputs = {name: value.float() for name, value in self.head(levels).items()}
        if self.training:
            if targets is None:
                raise ValueError("targets are needed in training mode")
            losses: dict[str, Tensor] = self.head.losses(  # type: ignore[operator]
                outputs, points, [self._scaled(target, k) for k, target in enumerate(targets)]
            )
            return losses
        boxes, scores = self.head.decode(outputs, points)  # type: ignore[operator]
        return [
            self.select(boxes[k] / self.input_scale, scores[k], points, (image.shape[-2], image.shape[-1]))
            for k, image in enumerate(images)
        ]

    def prepare(self, images: Sequence[Tensor]) -> Tensor:
        """Images (3, H, W) uint8 or float in [0, 1] → one normalised batch, padded right and below to 32s."""
        ready = []
        for image in images:
            pixels = image.float() / 255 if image.dtype == torch.uint8 else image
            if self.input_scale == 0.5 and pixels.shape[-1] % 2 == 0 and pixels.shape[-2] % 2 == 0:
                pixels = F.avg_pool2d(pixels[None], 2)[0]
            elif self.input_scale != 1.0:
                pixels = F.interpolate(
                    pixels[None], scale_factor=self.input_scale, mode="bilinear", antialias=True, align_corners=False
                )[0]
            ready.append((pixels - self.mean) / self.std)  # type: ignore[operator]
        height = -(-max(image.shape[-2] for image in ready) // 32) * 32
        width = -(-max(image.shape[-1] for image in ready) // 32) * 32
        batch = ready[0].new_zeros(len(ready), 3, height, width)
        for slot, image in zip(batch, ready, strict=True):
            slot[:, : image.shape[-2], : image.shape[-1]] = image
        return batch

    def select(
        self, boxes: Tensor, class_scores: Tensor, points: PyramidPoints, size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Detections of one image.

        Args:
            boxes: (A, 4) xyxy, patch px.
            class_scores: (A, K) in [0, 1].
            points: for the sizes of the levels.
            size: (height, width) of the image in patch px.

        Returns:
            boxes (N, 4), scores (N,), labels (N,) int64, class_scores (N, K); best first.
        """
        rule = self.selection
        agnostic = rule.nms == "agnostic"
        rows, labels, values = [], [], []
        start = 0
        for count in points.sizes:
            level = class_scores[start : start + count]
            entries = level.max(dim=1).values if agnostic else level.flatten()
            index = torch.where(entries > rule.score_threshold)[0]
            best, order = entries[index].sort(descending=True, stable=True)
            index = index[order[: rule.candidates_per_level]]
            columns = level.shape[1]
            row = index if agnostic else torch.div(index, columns, rounding_mode="floor")
            rows.append(row + start)
            labels.append(level[row].argmax(dim=1) if agnostic else index % columns)
            values.append(best[: rule.candidates_per_level])
            start += count
        row, label, score = torch.cat(rows), torch.cat(labels), torch.cat(values)
        height, width = size
        limit = boxes.new_tensor([width, height, width, height])
        chosen = torch.minimum(boxes[row].clamp(min=0), limit)
        keep = nms(chosen, score, rule.nms_iou) if agnostic else batched_nms(chosen, score, label, rule.nms_iou)
        keep = keep[: rule.detections_per_image]
        return {
            "boxes": chosen[keep],
            "scores": score[keep],
            "labels": label[keep],
            "class_scores": class_scores[row[keep]],
        }

    def _scaled(self, target: Target, number: int) -> Target:
        boxes = target["boxes"].float()
        if len(boxes) and not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise ValueError(f"image {number} of the batch has a box without area")
        ignore = target.get("ignore_boxes", boxes.new_zeros(0, 4))
        return {
            "boxes": boxes * self.input_scale,
            "labels": target["labels"],
            "ignore_boxes": ignore.float() * self.input_scale,
        }
