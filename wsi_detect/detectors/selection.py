"""How raw outputs become detections: threshold, best few, suppression. Shared by one- and two-stage detectors."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from wsi_detect.config import Config


class SelectionConfig(Config):
    """Thresholds and suppression."""

    score_threshold: float = 0.05
    candidates_per_level: int = 1000
    nms_iou: float = 0.6
    nms: Literal["class", "agnostic"] = "class"
    detections_per_image: int = 300


def select(
    boxes: Tensor,
    class_scores: Tensor,
    levels: Sequence[int],
    size: tuple[int, int],
    rule: SelectionConfig,
    *,
    least_side: float | None = None,
) -> dict[str, Tensor]:
    """Detections of one image.

    Args:
        boxes: (A, 4) xyxy, patch px, or (A, K, 4), one for each class.
        class_scores: (A, K) in [0, 1].
        levels: number of rows of each level; they add up to A.
        size: (height, width) of the image in patch px.
        rule: thresholds and suppression.
        least_side: drop boxes that within the image have a shorter side, patch px.

    Returns:
        boxes (N, 4), scores (N,), labels (N,) int64, class_scores (N, K); best first.
    """
    agnostic = rule.nms == "agnostic"
    rows, labels, values = [], [], []
    start = 0
    for count in levels:
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
    chosen = boxes[row] if boxes.ndim == 2 else boxes[row, label]
    chosen = torch.minimum(chosen.clamp(min=0), limit)
    if least_side is not None:
        large = torch.where((chosen[:, 2:] - chosen[:, :2]).amin(dim=1) >= least_side)[0]
        row, label, score, chosen = row[large], label[large], score[large], chosen[large]
    keep = nms(chosen, score, rule.nms_iou) if agnostic else batched_nms(chosen, score, label, rule.nms_iou)
    keep = keep[: rule.detections_per_image]
    return {
        "boxes": chosen[keep],
        "scores": score[keep],
        "labels": label[keep],
        "class_scores": class_scores[row[keep]],
    }
