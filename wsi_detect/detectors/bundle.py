"""Model bundles in the Hugging Face folder layout: config.json, model.safetensors, README.md (the model card).

Weights are safetensors: loading one executes nothing. They may be kept in half precision to halve the file; they are
float32 again once loaded.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from wsi_detect import artifact
from wsi_detect.detectors import build_detector
from wsi_detect.detectors.info import CARD, CONFIG, WEIGHTS, DetectorInfo, default_bundle, read_info
from wsi_detect.errors import MissingArtifactError, ModelError

__all__ = ["default_bundle", "load_bundle", "read_info", "save_bundle"]


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
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if half:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    raw = save(state)
    stem = info.model_id.partition("@")[0]
    written = replace(info, model_id=f"{stem}@{hashlib.sha256(raw).hexdigest()[:12]}")
    artifact.write_bytes(folder / WEIGHTS, raw)
    artifact.write_bytes(folder / CARD, card.encode())
    # Last: a folder is a bundle from the moment it has its config.
    artifact.write_json(folder / CONFIG, written.to_json())
    return written


def load_bundle(folder: Path) -> tuple[nn.Module, DetectorInfo]:
    """Read a bundle.

    Returns:
        The detector in evaluation mode on the CPU, float32, and its facts.

    Raises:
        MissingArtifactError: a file is absent.
        ModelError: the weights are not safetensors, or do not fit the detector named in the config.
    """
    info = read_info(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise MissingArtifactError(f"{folder} is not a model bundle: {WEIGHTS} is missing")
    options = dict(info.detector["options"])
    if options.get("frozen_norm") is None:
        options["frozen_norm"] = bool(options.get("weights"))
    # The bundle has all weights, so the builder must not ask for others.
    options["weights"] = None
    model = build_detector(info.detector["name"], len(info.classes), options)
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"{path} is not a safetensors file ({error})") from error
    expected = model.state_dict()
    wrong = sorted(set(expected) ^ set(state)) or [k for k in expected if expected[k].shape != state[k].shape]
    if wrong:
        raise ModelError(
            f"{path} does not fit the detector in {CONFIG}: {len(wrong)} entries differ, first {wrong[0]!r}"
        )
    infinite = [name for name, value in state.items() if not bool(torch.isfinite(value.float()).all())]
    if infinite:
        raise ModelError(f"{path} holds weights that are not finite, first {infinite[0]!r}")
    model.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()})
    return model.eval(), info
