"""Necks: stages of a backbone in, levels of one width out. By name, for every detector."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

#: Where levels coarser than the last stage come from: its level of the pyramid (RetinaNet, FCOS), the stage itself
#: (RepPoints), or every second value of the level (Faster R-CNN).
Extra = Literal["output", "input", "pool"]


class FeaturePyramid(nn.Module):
    """Top-down feature pyramid (Lin et al., CVPR 2017) with optional coarser levels P6, P7.

    Takes all stages from `first` up, merges them downwards, and gives out the levels in `keep` only: a level that no
    object belongs to costs its whole head.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        extra_levels: int = 0,
        keep: int | None = None,
        extra_from: Extra = "output",
    ) -> None:
        """Make the neck.

        Args:
            in_channels: channels of the stages taken, finest first.
            channels: channels of every level given out.
            extra_levels: further levels of half the resolution each (0 to 2).
            keep: give out only this many levels, finest first; None for all.
            extra_from: what the first further level is made of.
        """
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        kept = len(in_channels) if keep is None else min(keep, len(in_channels))
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(kept))
        self.extra = _extra(in_channels[-1], channels, extra_levels, extra_from)
        self.extra_levels = extra_levels
        self.extra_from = extra_from
        _start(self)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Stages (B, C_k, H_k, W_k), finest first → levels (B, channels, ...), finest first."""
        merged = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        for k in range(len(merged) - 2, -1, -1):
            merged[k] = merged[k] + _enlarged(merged[k + 1], merged[k])
        levels = [smooth(level) for smooth, level in zip(self.smooth, merged[: len(self.smooth)], strict=True)]
        return _with_extra(levels, stages[-1], self)


class TwoProngedPyramid(nn.Module):
    """Features handed on in both directions, after TPNet (Wang, Zhang, ACM MM 2020, arXiv 2008.03511). RECONSTRUCTION.

    From the paper's abstract: a top-down pyramid gives fine levels meaning and leaves coarse levels without detail; so
    features are to be transferred backward and forward between neighbouring levels. The modules could not be read.
    Ours: with x_k the lateral convolution of stage k, first downwards t_k = conv3x3(x_k + enlarge(t_{k+1})), then
    upwards o_k = x_k + conv3x3(t_k + conv3x3 of stride 2 (o_{k-1})): every level keeps a residual of its own input.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        extra_levels: int = 0,
        keep: int | None = None,
        extra_from: Extra = "output",
    ) -> None:
        """Make the neck; arguments as in `FeaturePyramid`."""
        super().__init__()
        kept = len(in_channels) if keep is None else min(keep, len(in_channels))
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.downward = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.step = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(kept - 1))
        self.upward = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(kept))
        self.extra = _extra(in_channels[-1], channels, extra_levels, extra_from)
        self.extra_levels = extra_levels
        self.extra_from = extra_from
        _start(self)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Stages (B, C_k, H_k, W_k), finest first → levels (B, channels, ...), finest first."""
        own = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        down: list[Tensor] = []
        for level, convolution in zip(reversed(own), reversed(self.downward), strict=True):
            down.append(convolution(level + _enlarged(down[-1], level) if down else level))
        down.reverse()
        levels: list[Tensor] = []
        for k, convolution in enumerate(self.upward):
            merged = down[k] + _fitted(self.step[k - 1](levels[-1]), down[k]) if levels else down[k]
            levels.append(own[k] + convolution(merged))
        return _with_extra(levels, stages[-1], self)


class DilatedEncoder(nn.Module):
    """The encoder of YOLOF (Chen et al., CVPR 2021, section 4.1): one level sees objects of all sizes.

    A projection (1x1, then 3x3, each with normalisation and no activation), then residual bottlenecks of growing
    dilation.
    """

    def __init__(
        self, in_channels: int, channels: int, dilations: Sequence[int], norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1), norm(channels), nn.Conv2d(channels, channels, 3, padding=1),
            norm(channels),
        )  # fmt: skip
        self.blocks = nn.ModuleList(_bottleneck(channels, dilation, norm) for dilation in dilations)
        _start(self.project)

    def forward(self, level: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, channels, H, W)."""
        encoded: Tensor = self.project(level)
        for block in self.blocks:
            encoded = encoded + block(encoded)
        return encoded


#: Name → class of (in_channels, channels, extra_levels, keep, extra_from).
NECKS: dict[str, Callable[..., nn.Module]] = {"fpn": FeaturePyramid, "two_pronged": TwoProngedPyramid}


def _bottleneck(channels: int, dilation: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    middle = channels // 4
    layers: list[nn.Module] = []
    for conv in (
        nn.Conv2d(channels, middle, 1),
        nn.Conv2d(middle, middle, 3, padding=dilation, dilation=dilation),
        nn.Conv2d(middle, channels, 1),
    ):
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, norm(conv.out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


def _extra(stage: int, channels: int, count: int, source: Extra) -> nn.ModuleList:
    if source == "pool":
        return nn.ModuleList()
    widths = [stage if source == "input" else channels, *[channels] * count][:count]
    return nn.ModuleList(nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in widths)


def _with_extra(levels: list[Tensor], stage: Tensor, neck: nn.Module) -> list[Tensor]:
    if neck.extra_from == "pool":
        for _ in range(neck.extra_levels):  # type: ignore[arg-type]
            levels.append(F.max_pool2d(levels[-1], 1, 2))
        return levels
    for k, convolution in enumerate(neck.extra):  # type: ignore[arg-type]
        # P6 sees the raw P5 (or C5), later levels a rectified one, as in torchvision's LastLevelP6P7.
        source = stage if neck.extra_from == "input" else levels[-1]
        levels.append(convolution(source if k == 0 else F.relu(levels[-1])))
    return levels


def _enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    return F.interpolate(coarse, size=fine.shape[-2:], mode="nearest")


def _fitted(level: Tensor, other: Tensor) -> Tensor:
    """Halving an odd side rounds up here and may round down in a backbone."""
    return level[..., : other.shape[-2], : other.shape[-1]]


def _start(neck: nn.Module) -> None:
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, a=1)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
