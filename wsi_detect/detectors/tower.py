"""The stack of convolutions that dense heads share, and the layers that end it."""

import math
from typing import Literal

from torch import Tensor, nn

Norm = Literal["group", "batch", "none"]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """A normalisation layer.

    Group norm mixes statistics over the whole map, so the same cell scores differently in a patch and in a larger
    field; batch norm (fixed at inference) does not, and is what a stitched slide wants. Groups are 32, or as many as
    divide the channels.
    """
    if kind == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.Identity()


def conv_tower(channels: int, depth: int, norm: Norm) -> nn.Sequential:
    """`depth` times 3x3 convolution (with bias), normalisation, ReLU; convolutions from N(0, 0.01)."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [output_layer(channels, channels), norm_layer(norm, channels), nn.ReLU()]
    return nn.Sequential(*layers)


def output_layer(channels: int, out: int, *, bias: float = 0.0, side: int = 3) -> nn.Conv2d:
    """A convolution that keeps the size, from N(0, 0.01), with a constant bias."""
    conv = nn.Conv2d(channels, out, side, padding=side // 2)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
    return conv


def rows(level: Tensor, columns: int) -> Tensor:
    """(B, n * columns, H, W) → (B, H * W * n, columns): row by row, the n anchors of a point next to each other."""
    batch, channels, height, width = level.shape
    split = level.reshape(batch, channels // columns, columns, height, width)
    return split.permute(0, 3, 4, 1, 2).reshape(batch, -1, columns)
