"""The points of a feature pyramid, where each cell of each level looks at, and anchors around them.

Network-input px throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PyramidPoints:
    """All points of a pyramid, level by level, row by row.

    Attributes:
        xy: (A, 2) float32, network-input px.
        stride: (A,) float32, stride of the level a point belongs to.
        sizes: number of points of each level; they add up to A.
    """

    xy: Tensor
    stride: Tensor
    sizes: tuple[int, ...]


def pyramid_points(shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> PyramidPoints:
    """Points at i * stride, the first at (0, 0).

    A 3x3 convolution of stride 2 with padding 1 centres output i on input 2i, so there is no half-stride shift.

    Args:
        shapes: (height, width) of each level's feature map.
        strides: stride of each level in network-input px.
        device: where the tensors live.
    """
    xy, stride = [], []
    for (height, width), step in zip(shapes, strides, strict=True):
        y, x = torch.meshgrid(
            torch.arange(height, device=device) * step, torch.arange(width, device=device) * step, indexing="ij"
        )
        xy.append(torch.stack([x.flatten(), y.flatten()], dim=1))  # (H * W, 2)
        stride.append(torch.full((height * width,), step, device=device))
    sizes = tuple(len(level) for level in xy)
    return PyramidPoints(torch.cat(xy).float(), torch.cat(stride).float(), sizes)


def anchors(
    points: PyramidPoints, sizes: Sequence[float], ratios: Sequence[float] = (1.0,), *, whole_px: bool = False
) -> Tensor:
    """Boxes of given sizes and shapes around every point.

    Args:
        points: the pyramid, A points.
        sizes: sides of the squares of equal area, in strides.
        ratios: height over width.
        whole_px: cut the sides and round the corners to whole px, as torchvision's detectors do.

    Returns:
        (A * ratios * sizes, 4) xyxy; of a point all ratios, of a ratio all sizes.
    """
    side = points.stride[:, None, None] * points.stride.new_tensor(list(sizes))  # (A, 1, S)
    if whole_px:
        side = side.trunc()
    root = points.stride.new_tensor(list(ratios)).sqrt()[:, None]  # (R, 1)
    width, height = side * (1 / root), side * root
    corners = torch.stack([-width, -height, width, height], dim=-1) / 2  # (A, R, S, 4)
    if whole_px:
        corners = corners.round()
    centres = torch.cat([points.xy, points.xy], dim=1)[:, None, None]
    return (centres + corners).reshape(-1, 4)


def per_point(points: PyramidPoints, count: int) -> PyramidPoints:
    """The same pyramid with every point `count` times, one for each of its anchors."""
    sizes = tuple(size * count for size in points.sizes)
    return PyramidPoints(points.xy.repeat_interleave(count, 0), points.stride.repeat_interleave(count), sizes)
