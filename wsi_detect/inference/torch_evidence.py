"""An evidence bundle in PyTorch, on the CPU or a GPU."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_detect.detectors.evidence_bundle import load_evidence
from wsi_detect.inference.torch import device_of

if TYPE_CHECKING:
    from wsi_detect.detectors.evidence_info import EvidenceInfo
    from wsi_detect.detectors.heatmap import EvidenceModel


class TorchEvidence:
    """The model of a bundle as an `EvidenceMapper`."""

    def __init__(self, model: "EvidenceModel", info: "EvidenceInfo", device: torch.device) -> None:
        """Put a model in evaluation mode on a device."""
        self.info = info
        self.device = device
        self._model = model.to(device).eval()

    @torch.inference_mode()
    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Patches (B, H, W, 3) uint8 RGB → evidence (B, H, W) in [0, 1].

        A batch that does not fit into the memory of a GPU is halved until it does.
        """
        if len(patches) == 0:
            return np.zeros(patches.shape[:3], np.float32)
        try:
            return self._forward(patches)
        except torch.OutOfMemoryError:
            if len(patches) == 1:
                raise
        half = len(patches) // 2
        return np.concatenate([self(patches[:half]), self(patches[half:])])

    def _forward(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(np.require(patches, np.uint8, ["C", "W"])).to(self.device).permute(0, 3, 1, 2)
        # TF32 keeps ten bits of a factor, and an algorithm chosen anew for each batch size sums in another order: maps
        # would differ by more than they may.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            found: NDArray[np.float32] = self._model.evidence(batch).float().cpu().numpy()
        return found


def load(bundle: Path, device: str = "auto", *, threads: int | None = None) -> TorchEvidence:
    """Load a bundle for inference.

    Args:
        bundle: folder with config.json and model.safetensors.
        device: a PyTorch device, or "auto" for a GPU where there is one and the CPU elsewhere.
        threads: CPU threads of this process; None leaves PyTorch its own number.

    Raises:
        ModelError: the bundle is unusable, or that of a detector.
        ConfigError: there is no such device.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    model, info = load_evidence(bundle)
    return TorchEvidence(model, info, device_of(device))
