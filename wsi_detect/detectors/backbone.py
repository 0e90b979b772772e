"""Feature extractors: the residual networks of torchvision, any pyramid of features of timm, and what reads them."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import get_model
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d

from wsi_detect.errors import ConfigError, MissingArtifactError, MissingExtraError, ModelError

#: Stage k of a network has stride 2 ** (k + 1); a residual one calls it layer k.
_STAGES = ("layer1", "layer2", "layer3", "layer4")

#: Backbones of this beginning come from timm.
TIMM = "timm/"


def stages(name: str, weights: str | None, last: int, *, frozen_norm: bool) -> tuple[nn.Module, tuple[int, ...]]:
    """A feature extractor cut after stage `last`.

    Args:
        name: any torchvision model with stages layer1 to layer4 (resnet18, resnet50, resnext50_32x4d, ...), or `timm/`
            and the name of any timm model that gives features at strides 4, 8, 16 and 32.
        weights: None for random ones; a path to a `.safetensors` file of the classifier's state; or a torchvision
            weights name such as `DEFAULT`, which torchvision downloads (`DEFAULT` alone, for timm).
        last: 1 to 4; later stages are dropped.
        frozen_norm: batch norm keeps its statistics and scales (usual with pretrained weights and small batches).

    Returns:
        The body (image → dict of C1..C{last}) and the channels of its stages.

    Raises:
        ConfigError: the model has no such stages.
        MissingArtifactError: the file of weights is not there.
        ModelError: the file of weights does not fit.
        MissingExtraError: a timm model without timm.
    """
    if name.startswith(TIMM):
        body = _timm_stages(name.removeprefix(TIMM), weights, last, frozen_norm)
    else:
        body = _residual_stages(name, weights, last, frozen_norm)
    was_training = body.training
    try:
        with torch.no_grad():
            channels = tuple(level.shape[1] for level in body.eval()(torch.zeros(1, 3, 64, 64)).values())
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(f"backbone {name!r} does not take images of any size: {error}") from error
    body.train(was_training)
    return body, channels


def _residual_stages(name: str, weights: str | None, last: int, frozen_norm: bool) -> nn.Module:
    local = weights is not None and weights.endswith(".safetensors")
    norm = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
    try:
        network = get_model(name, weights=None if local else weights, norm_layer=norm)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"backbone {name!r}: {error}") from error
    if not all(hasattr(network, stage) for stage in _STAGES):
        raise ConfigError(f"backbone {name!r} has no stages layer1 to layer4; take a residual network such as resnet18")
    if local and weights is not None:
        # A frozen norm has no batch counter; everything else must fit exactly.
        state = {
            k: v for k, v in _read_weights(weights).items() if not (frozen_norm and k.endswith("num_batches_tracked"))
        }
        _load(network, state, weights)
    body: nn.Module = IntermediateLayerGetter(network, {stage: stage for stage in _STAGES[:last]})
    return body


class TimmStages(nn.Module):
    """Features of a timm network at strides 4, 8, 16, 32, as a dict like that of a residual network."""

    def __init__(self, body: nn.Module, frozen_norm: bool) -> None:
        super().__init__()
        self.body = body
        self._frozen = [m for m in body.modules() if isinstance(m, _BatchNorm)] if frozen_norm else []
        for norm in self._frozen:
            norm.requires_grad_(False)
        self.train()

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, 3, H, W) → stage → (B, C, H, W), finest first."""
        return OrderedDict(zip(_STAGES, self.body(images), strict=False))

    def train(self, mode: bool = True) -> Self:
        """Frozen norms stay in evaluation."""
        super().train(mode)
        for norm in self._frozen:
            norm.eval()
        return self


def _timm_stages(name: str, weights: str | None, last: int, frozen_norm: bool) -> nn.Module:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"backbone 'timm/{name}'", "timm") from error
    if weights not in (None, "DEFAULT") and not str(weights).endswith(".safetensors"):
        raise ConfigError(f"weights {weights!r}: a timm backbone takes a .safetensors file or DEFAULT")
    try:
        probe: Any = timm.create_model(name, features_only=True)
        known = probe.feature_info.reduction()
        indices = [known.index(2 ** (k + 1)) for k in range(1, last + 1)]
        body = timm.create_model(name, pretrained=weights == "DEFAULT", features_only=True, out_indices=indices)
    except (RuntimeError, AttributeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"backbone 'timm/{name}' gives no features at strides 4 to {2 ** (last + 1)}: {error}"
        ) from error
    if getattr(body, "output_fmt", "NCHW") not in ("NCHW", None):
        raise ConfigError(f"backbone 'timm/{name}' gives features with channels last; take a convolutional one")
    if weights is not None and weights != "DEFAULT":
        whole = timm.create_model(name)
        _load(whole, _read_weights(weights), weights)
        _load(body, _renamed(body, whole.state_dict(), name), weights)
    return TimmStages(body, frozen_norm)


def _renamed(body: nn.Module, state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """A classifier's state under the names of its feature extractor, which joins the first parts by underscores."""
    flat = {key.replace(".", "_"): value for key, value in state.items()}
    wanted = {key: key.removeprefix("model.").replace(".", "_") for key in body.state_dict()}
    missing = [key for key, plain in wanted.items() if plain not in flat]
    if missing:
        raise ConfigError(f"backbone 'timm/{name}' cannot take a file of weights: no counterpart of {missing[0]!r}")
    return {key: flat[plain] for key, plain in wanted.items()}


def _read_weights(path: str) -> dict[str, Tensor]:
    if not Path(path).is_file():
        raise MissingArtifactError(f"backbone weights {path} are missing")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file ({error})") from error


def _load(network: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit the backbone: {str(error).splitlines()[1].strip()}") from error


class PyramidBackbone(nn.Module):
    """A feature extractor and a neck over it: image → levels, finest first."""

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
