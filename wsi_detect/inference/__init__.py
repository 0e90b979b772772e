"""Patches → detections: the runtimes by name, and the stage that runs one over a patch store."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from wsi_detect.errors import MissingExtraError
from wsi_detect.inference.detector import Detections, Detector

if TYPE_CHECKING:
    from wsi_detect.detectors.evidence_info import EvidenceMapper


class Runtime(Protocol):
    """How a bundle becomes a `Detector`; see `wsi_detect.inference.torch.load` for the arguments."""

    def __call__(
        self,
        bundle: Path,
        device: str = "auto",
        *,
        score_threshold: float | None = None,
        nms: Literal["agnostic", "class"] | None = None,
        threads: int | None = None,
    ) -> Detector:
        """Load a bundle."""
        ...


def _torch(
    bundle: Path,
    device: str = "auto",
    *,
    score_threshold: float | None = None,
    nms: Literal["agnostic", "class"] | None = None,
    threads: int | None = None,
) -> Detector:
    try:
        from wsi_detect.inference.torch import load
    except ModuleNotFoundError as error:
        if error.name in ("torch", "torchvision", "safetensors"):
            raise MissingExtraError("detecting cells with PyTorch", "detect") from error
        raise
    return load(bundle, device, score_threshold=score_threshold, nms=nms, threads=threads)


class EvidenceRuntime(Protocol):
    """How a bundle becomes an `EvidenceMapper`; see `wsi_detect.inference.torch_evidence.load` for the arguments."""

    def __call__(self, bundle: Path, device: str = "auto", *, threads: int | None = None) -> "EvidenceMapper":
        """Load a bundle."""
        ...


def _torch_evidence(bundle: Path, device: str = "auto", *, threads: int | None = None) -> "EvidenceMapper":
    try:
        from wsi_detect.inference.torch_evidence import load
    except ModuleNotFoundError as error:
        if error.name in ("torch", "torchvision", "safetensors"):
            raise MissingExtraError("mapping evidence with PyTorch", "detect") from error
        raise
    return load(bundle, device, threads=threads)


#: Name → `load`; the back end itself is imported when it is asked for.
RUNTIMES: dict[str, Runtime] = {"torch": _torch}

#: The same for evidence models.
EVIDENCE_RUNTIMES: dict[str, EvidenceRuntime] = {"torch": _torch_evidence}

__all__ = ["EVIDENCE_RUNTIMES", "RUNTIMES", "Detections", "Detector", "EvidenceRuntime", "Runtime"]
