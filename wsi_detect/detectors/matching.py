"""From assignments to losses: what the dense heads have in common in training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.detectors.assign import BACKGROUND, IGNORED, inside_any

#: Boxes (M, 4), labels (M,), ignore_boxes (I, 4) of an image, network-input px.
Target = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Matches:
    """The assignments of a batch with what they stand for.

    Attributes:
        index: (B, A) int64 box of the row's own image, -1 background, -2 ignored.
        positive: (B, A) bool, rows with a box.
        labels: (B, A) int64, 0 where there is no box.
        boxes: (B, A, 4) xyxy, zeros where there is no box.
    """

    index: Tensor
    positive: Tensor
    labels: Tensor
    boxes: Tensor

    def of_image(self, k: int) -> "Matches":
        """Those of one image, as a batch of one."""
        one = slice(k, k + 1)
        return Matches(self.index[one], self.positive[one], self.labels[one], self.boxes[one])


def match_batch(targets: Sequence[Target], assign: Callable[[Tensor], Tensor], centres: Tensor) -> Matches:
    """Assign the boxes of each image.

    Args:
        targets: of each image.
        assign: boxes (M, 4) → (A,) index, -1 or -2.
        centres: (A, 2) of the points or anchors; background whose centre lies in an ignored box is ignored.
    """
    return gather_matches(targets, [assign(target["boxes"]) for target in targets], centres)


def gather_matches(targets: Sequence[Target], assigned: Sequence[Tensor], centres: Tensor) -> Matches:
    """Put assignments (A,) of each image together; `centres` as in `match_batch`."""
    rows, labels, boxes = [], [], []
    for target, index in zip(targets, assigned, strict=True):
        if len(target["ignore_boxes"]):
            hidden = (index == BACKGROUND) & inside_any(centres, target["ignore_boxes"])
            index = torch.where(hidden, index.new_full((), IGNORED), index)
        positive = index >= 0
        label, box = index.new_zeros(index.shape), target["boxes"].new_zeros(len(index), 4)
        label[positive] = target["labels"][index[positive]]
        box[positive] = target["boxes"][index[positive]]
        rows.append(index)
        labels.append(label)
        boxes.append(box)
    index = torch.stack(rows)
    return Matches(index, index >= 0, torch.stack(labels), torch.stack(boxes))


def classify(loss: nn.Module, logits: Tensor, matches: Matches, normaliser: Tensor) -> Tensor:
    """Classification loss of a batch.

    Args:
        loss: a sigmoid loss.
        logits: (B, A, K).
        matches: of the batch; ignored rows do not count.
        normaliser: what the sum is divided by.
    """
    one_hot = F.one_hot(matches.labels, logits.shape[-1]) * matches.positive[..., None]
    image = torch.arange(len(logits), device=logits.device)[:, None].expand_as(matches.index)
    value: Tensor = loss(
        logits.flatten(0, 1),
        one_hot.flatten(0, 1).to(logits.dtype),
        valid=(matches.index != IGNORED).flatten(),
        image=image.flatten(),
        normaliser=normaliser,
    )
    return value
