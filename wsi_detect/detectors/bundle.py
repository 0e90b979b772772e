"""Model bundles in the Hugging Face folder layout: config.json, model.safetensors, README.md (the model card).

Weights are safetensors: loading one executes nothing. They may be kept in half precision to halve the file; they are
float32 again once loaded.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from wsi_detect import artifact
from wsi_detect.detectors import build_detector
from wsi_detect.detectors.info import CARD, CONFIG, WEIGHTS, DetectorInfo, default_bundle, read_info
from wsi_detect.errors import MissingArtifactError, ModelError
from wsi_detect.losses import LOSSES

__all__ = ["default_bundle", "load_bundle", "put_weights", "read_info", "save_bundle", "trained_weights"]


def save_bundle(folder: Path, model: nn.Module, info: DetectorInfo, card: str, *, half: bool = False) -> DetectorInfo:
    """Write a bundle.

    Args:
        folder: made if absent; its three files are replaced.
        model: the detector; its state is written.
        info: its facts; `model_id` gets the hash of the weights appended, so equal ids mean equal weights.
        card: the model card, Markdown.
        half: keep floating-point weights as float16.

    Returns:
        The facts as written.
    """
    raw, digest = packed(trained_weights(model), half=half)
    written = replace(info, model_id=identified(info.model_id, digest))
    write_files(folder, raw, written.to_json(), card)
    return written


def packed(state: Mapping[str, Tensor], *, half: bool = False) -> tuple[bytes, str]:
    """Weights as the bytes of a safetensors file, and their hash.

    Args:
        state: name → tensor, on any device.
        half: keep floating-point weights as float16.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    raw = save(state)
    return raw, hashlib.sha256(raw).hexdigest()[:12]


def identified(name: str, digest: str) -> str:
    """Name of a model with the hash of its weights instead of any it had."""
    return f"{name.partition('@')[0]}@{digest}"


def write_files(folder: Path, raw: bytes, config: Mapping[str, Any], card: str) -> None:
    """Write the three files of a bundle."""
    artifact.write_bytes(folder / WEIGHTS, raw)
    artifact.write_bytes(folder / CARD, card.encode())
    # Last: a folder is a bundle from the moment it has its config.
    artifact.write_json(folder / CONFIG, dict(config))


def load_bundle(folder: Path, *, any_specimen: bool = False) -> tuple[nn.Module, DetectorInfo]:
    """Read a bundle.

    Args:
        folder: of the bundle.
        any_specimen: see `read_info`.

    Returns:
        The detector in evaluation mode on the CPU, float32, and its facts.

    Raises:
        MissingArtifactError: a file is absent.
        ModelError: the weights are not safetensors, or do not fit the detector named in the config; or it is the bundle
            of another kind of model, or of what is not cells of the cervix.
    """
    info = read_info(folder, any_specimen=any_specimen)
    options = dict(info.detector["options"])
    if options.get("frozen_norm") is None:
        options["frozen_norm"] = bool(options.get("weights"))
    # The bundle has all weights, so the builder must not ask for others.
    options["weights"] = None
    model = build_detector(info.detector["name"], len(info.classes), options)
    fill(model, folder)
    return model.eval(), info


def fill(model: nn.Module, folder: Path) -> None:
    """Put the weights of a bundle into the model its config describes.

    Raises:
        MissingArtifactError: there are none.
        ModelError: they are not safetensors, not finite, or do not fit.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise MissingArtifactError(f"{folder} is not a model bundle: {WEIGHTS} is missing")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file ({error})") from error
    wrong = put_weights(model, state)
    if wrong:
        raise ModelError(f"{path} does not fit the model in {CONFIG}: {len(wrong)} entries differ, first {wrong[0]!r}")
    infinite = [name for name, value in state.items() if not bool(torch.isfinite(value.float()).all())]
    if infinite:
        raise ModelError(f"{path} holds weights that are not finite, first {infinite[0]!r}")


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The state of a detector without what its loss has counted so far: that belongs to a checkpoint of training."""
    own = tuple(f"{name}." for name, module in model.named_modules() if type(module) in LOSSES.values())
    return {name: value for name, value in model.state_dict().items() if not name.startswith(own)}


def put_weights(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Put `trained_weights` into a detector, in its own precision; its loss keeps what it has counted.

    Returns:
        Names that one of the two lacks or has in another shape; if there are any, the detector is as it was.
    """
    expected = trained_weights(model)
    wrong = sorted(set(expected) ^ set(state)) or [k for k in expected if expected[k].shape != state[k].shape]
    if not wrong:
        model.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()}, strict=False)
    return wrong
