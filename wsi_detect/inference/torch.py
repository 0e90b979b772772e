"""The reference runtime: a bundle in PyTorch, on the CPU or a GPU."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_detect.detectors.bundle import load_bundle
from wsi_detect.errors import ConfigError
from wsi_detect.inference.detector import Detections

if TYPE_CHECKING:
    from wsi_detect.detectors.info import DetectorInfo


class TorchDetector:
    """The model of a bundle as a `Detector`."""

    def __init__(self, model: nn.Module, info: "DetectorInfo", device: torch.device) -> None:
        """Put a model in evaluation mode on a device."""
        self.info = info
        self.device = device
        self._model = model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, patches: NDArray[np.uint8]) -> list[Detections]:
        """Patches (B, H, W, 3) uint8 RGB → one `Detections` each.

        A batch that does not fit into the memory of a GPU is halved until it does.
        """
        if len(patches) == 0:
            return []
        try:
            return self._forward(patches)
        except torch.OutOfMemoryError:
            if len(patches) == 1:
                raise
        half = len(patches) // 2
        return self(patches[:half]) + self(patches[half:])

    def _forward(self, patches: NDArray[np.uint8]) -> list[Detections]:
        batch = torch.from_numpy(np.require(patches, np.uint8, ["C", "W"])).to(self.device).permute(0, 3, 1, 2)
        return [_detections(result) for result in self._model(list(batch))]


def load(
    bundle: Path,
    device: str = "auto",
    *,
    score_threshold: float | None = None,
    nms: Literal["agnostic", "class"] | None = None,
    threads: int | None = None,
    any_specimen: bool = False,
) -> TorchDetector:
    """Load a bundle for inference.

    Args:
        bundle: folder with config.json and model.safetensors.
        device: a PyTorch device, or "auto" for a GPU where there is one and the CPU elsewhere.
        score_threshold: report detections above this score; None keeps the bundle's own.
        nms: suppress within a class, or whatever the class; None keeps the model's own.
        threads: CPU threads of this process; None leaves PyTorch its own number.
        any_specimen: take a model of what is not cells of the cervix too; for comparing methods, never for a slide.

    Raises:
        ModelError: the bundle is unusable.
        ConfigError: there is no such device.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    model, info = load_bundle(bundle, any_specimen=any_specimen)
    rule: dict[str, Any] = {"score_threshold": info.score_threshold if score_threshold is None else score_threshold}
    if nms is not None:
        rule["nms"] = nms
    detector: Any = model
    detector.selection = detector.selection.model_copy(update=rule)
    return TorchDetector(model, info, device_of(device))


def device_of(name: str) -> torch.device:
    """Return a device by name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"device {name!r} cannot be used: {reason}") from error
    return device


def _detections(result: dict[str, Tensor]) -> Detections:
    return Detections(
        boxes=result["boxes"].float().cpu().numpy(),
        scores=result["scores"].float().cpu().numpy(),
        labels=result["labels"].cpu().numpy().astype(np.int64),
        class_scores=result["class_scores"].float().cpu().numpy(),
        # A NaN score is above no threshold: without this word the patch would pass as one without cells.
        finite=bool(result["finite"]),
    )
