"""Boxes, and the one crossing between the frame of a patch and the frame of its slide.

The rule of frames: in memory, inside a patch, coordinates are *patch px*; on disk and between
stages they are *slide px* (level 0), float64, xyxy, half-open, origin at the top left of the file.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]


class Box(NamedTuple):
    """One axis-parallel box, xyxy; the name of the variable says the frame."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """Extent along x."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Extent along y."""
        return self.y1 - self.y0


@dataclass(frozen=True, slots=True)
class PatchFrame:
    """Where a patch lies on its slide: top-left corner in slide px, and slide px per patch px."""

    x_px: float
    y_px: float
    scale: float

    def to_slide(self, boxes: NDArray[np.floating]) -> Boxes:
        """Boxes (N, 4) xyxy in patch px → (N, 4) float64 in slide px."""
        offset = np.array([self.x_px, self.y_px, self.x_px, self.y_px], dtype=np.float64)
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * self.scale + offset

    def to_patch(self, boxes: NDArray[np.floating]) -> Boxes:
        """Boxes (N, 4) xyxy in slide px → (N, 4) float64 in patch px."""
        offset = np.array([self.x_px, self.y_px, self.x_px, self.y_px], dtype=np.float64)
        return (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) - offset) / self.scale


def box_area(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Areas (N,) of boxes (N, 4) xyxy; a reversed box has area 0."""
    b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    size = np.clip(b[:, 2:] - b[:, :2], 0.0, None)
    return size[:, 0] * size[:, 1]


def box_intersection(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection areas (N, M) of boxes a (N, 4) and b (M, 4), both xyxy in one frame."""
    first = np.asarray(a, dtype=np.float64).reshape(-1, 4)[:, None]
    second = np.asarray(b, dtype=np.float64).reshape(-1, 4)[None]
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    size = np.clip(high - low, 0.0, None)
    return np.asarray(size[..., 0] * size[..., 1])


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over union (N, M) of boxes a (N, 4) and b (M, 4); 0 where the union is empty."""
    shared = box_intersection(a, b)
    union = box_area(a)[:, None] + box_area(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def box_ios(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Intersection over the smaller box (N, M); 0 where either box is empty."""
    shared = box_intersection(a, b)
    smaller = np.minimum(box_area(a)[:, None], box_area(b)[None])
    return np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0)


def clip_boxes(boxes: NDArray[np.floating], width: float, height: float) -> Boxes:
    """Boxes (N, 4) xyxy cut to [0, width] x [0, height]."""
    limit = np.array([width, height, width, height], dtype=np.float64)
    return np.clip(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), 0.0, limit)
