"""The stack of convolutions that dense heads share."""

from typing import Literal

from torch import nn

Norm = Literal["group", "batch", "none"]


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """A normalisation layer.

    Group norm mixes statistics over the whole map, so the same cell scores differently in a patch and in a larger
    field; batch norm (fixed at inference) does not, and is what a stitched slide wants.
    """
    if kind == "group":
        return nn.GroupNorm(32, channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.Identity()


def conv_tower(channels: int, depth: int, norm: Norm) -> nn.Sequential:
    """`depth` times 3x3 convolution (with bias), normalisation, ReLU; convolutions from N(0, 0.01)."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        conv = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, norm_layer(norm, channels), nn.ReLU()]
    return nn.Sequential(*layers)
