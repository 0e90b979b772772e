"""Feature extractors from torchvision and the pyramid on top of them."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from wsi_detect.errors import ConfigError, MissingArtifactError

#: Stage k of a residual network has stride 2 ** (k + 1) and is called layer k.
_STAGES = ("layer1", "layer2", "layer3", "layer4")


def residual_stages(
    name: str, weights: str | None, last: int, *, frozen_norm: bool
) -> tuple[nn.Module, tuple[int, ...]]:
    """A torchvision residual network cut after stage `last`.

    Args:
        name: any torchvision model with stages layer1 to layer4 (resnet18, resnet50, resnext50_32x4d, ...).
        weights: None for random ones; a path to a `.safetensors` file of the classifier's state; or a torchvision
            weights name such as `DEFAULT`, which torchvision downloads.
        last: 1 to 4; later stages are dropped.
        frozen_norm: batch norm keeps its statistics and scales (usual with pretrained weights and small batches).

    Returns:
        The body (image → dict of C1..C{last}) and the channels of its stages.

    Raises:
        ConfigError: the model has no such stages.
    """
    norm = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
    local = weights is not None and weights.endswith(".safetensors")
    try:
        network = get_model(name, weights=None if local else weights, norm_layer=norm)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"backbone {name!r}: {error}") from error
    if not all(hasattr(network, stage) for stage in _STAGES):
        raise ConfigError(f"backbone {name!r} has no stages layer1 to layer4; take a residual network such as resnet18")
    if local and weights is not None:
        if not Path(weights).is_file():
            raise MissingArtifactError(f"backbone weights {weights} are missing")
        # A frozen norm has no batch counter; everything else must fit exactly.
        state = {k: v for k, v in load_file(weights).items() if not (frozen_norm and k.endswith("num_batches_tracked"))}
        network.load_state_dict(state)
    body = IntermediateLayerGetter(network, {stage: stage for stage in _STAGES[:last]})
    with torch.no_grad():
        was_training = body.training
        channels = tuple(level.shape[1] for level in body.eval()(torch.zeros(1, 3, 64, 64)).values())
        body.train(was_training)
    return body, channels


class FeaturePyramid(nn.Module):
    """Top-down feature pyramid (Lin et al., CVPR 2017) with optional coarser levels P6, P7 from the last one.

    Takes all stages from `first` up, merges them downwards, and gives out the levels in `keep` only: a level that no
    object belongs to costs its whole head.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, *, extra_levels: int = 0, keep: int | None = None
    ) -> None:
        """Make the neck.

        Args:
            in_channels: channels of the stages taken, finest first.
            channels: channels of every level given out.
            extra_levels: further levels by stride-2 convolutions of the coarsest (0 to 2).
            keep: give out only this many levels, finest first; None for all.
        """
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        kept = len(in_channels) if keep is None else min(keep, len(in_channels))
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(kept))
        self.extra = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(extra_levels))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """Stages (B, C_k, H_k, W_k), finest first → levels (B, channels, ...), finest first."""
        merged = [lateral(stage) for lateral, stage in zip(self.lateral, stages, strict=True)]
        for k in range(len(merged) - 2, -1, -1):
            merged[k] = merged[k] + F.interpolate(merged[k + 1], size=merged[k].shape[-2:], mode="nearest")
        levels = [smooth(level) for smooth, level in zip(self.smooth, merged[: len(self.smooth)], strict=True)]
        for k, convolution in enumerate(self.extra):
            # P6 sees the raw P5, later levels a rectified one, as in torchvision's LastLevelP6P7.
            levels.append(convolution(levels[-1] if k == 0 else F.relu(levels[-1])))
        return levels


class PyramidBackbone(nn.Module):
    """Residual stages and a pyramid over them: image → levels, finest first."""

    def __init__(self, body: nn.Module, pyramid: nn.Module, first: int, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.body = body
        self.pyramid = pyramid
        self.first = first
        self.strides = strides

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W), normalised → list of levels."""
        stages: OrderedDict[str, Tensor] = self.body(images)
        levels: list[Tensor] = self.pyramid(list(stages.values())[self.first - 1 :])
        return levels
