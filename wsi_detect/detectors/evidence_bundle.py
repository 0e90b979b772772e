"""Bundles of evidence models, in the layout of those of detectors."""

from dataclasses import replace
from pathlib import Path

from wsi_detect.detectors.bundle import fill, identified, packed, write_files
from wsi_detect.detectors.evidence_info import EvidenceInfo, read_evidence_info
from wsi_detect.detectors.heatmap import EvidenceModel, build_evidence_model

__all__ = ["load_evidence", "read_evidence_info", "save_evidence"]


def save_evidence(
    folder: Path, model: EvidenceModel, info: EvidenceInfo, card: str, *, half: bool = False
) -> EvidenceInfo:
    """Write a bundle.

    Args:
        folder: made if absent; its three files are replaced.
        model: classifier and decoder; both are written.
        info: its facts; `model_id` gets the hash of the weights appended, so equal ids mean equal weights.
        card: the model card, Markdown.
        half: keep floating-point weights as float16.

    Returns:
        The facts as written.
    """
    raw, digest = packed(model.state_dict(), half=half)
    written = replace(info, model_id=identified(info.model_id, digest))
    write_files(folder, raw, written.to_json(), card)
    return written


def load_evidence(folder: Path) -> tuple[EvidenceModel, EvidenceInfo]:
    """Read a bundle.

    Returns:
        The model in evaluation mode on the CPU, float32, and its facts. `model.evidence(images)` gives the maps.

    Raises:
        MissingArtifactError: a file is absent.
        ModelError: it is the bundle of a detector, or its weights are unusable.
    """
    info = read_evidence_info(folder)
    options = dict(info.model)
    if options.get("frozen_norm") is None:
        options["frozen_norm"] = bool(options.get("weights"))
    # The bundle has all weights, so the builder must not ask for others.
    options["weights"] = None
    model = build_evidence_model(info.columns, options)
    fill(model, folder)
    return model.eval(), info
