"""An evidence model without weights, for tests of everything around one: how dark the neighbourhood of a px is.

It sees a square of `2 * RADIUS + 1` px and no more, gives the same answer on every machine, and travels to processes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.detectors.evidence_info import EvidenceInfo, read_evidence_info
from wsi_detect.detectors.info import CONFIG

RADIUS = 6
#: Mean green of a neighbourhood that is evidence 0 and evidence 1.
_LIGHT, _DARK = 200.0, 80.0


@dataclass(frozen=True, slots=True)
class DarkEvidence:
    """Patches (B, H, W, 3) uint8 → evidence (B, H, W) float32: 0 on clean ground, 1 in the middle of a dark nucleus."""

    info: EvidenceInfo

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Look at each patch by itself."""
        green = patches[..., 1].astype(np.float32)
        for axis in (1, 2):
            pad = [(RADIUS, RADIUS) if k == axis else (0, 0) for k in range(3)]
            green = np.lib.stride_tricks.sliding_window_view(np.pad(green, pad, mode="edge"), 2 * RADIUS + 1, axis)
            green = green.mean(axis=-1)
        return np.asarray(np.clip((_LIGHT - green) / (_LIGHT - _DARK), 0, 1), dtype=np.float32)


def write_bundle(folder: Path, *, patch_px: int = 256, mpp: float = 0.25, model_id: str = "dark") -> Path:
    """Write the `config.json` of a model: all of a bundle that `load` below needs."""
    info = EvidenceInfo(
        model_id=model_id,
        columns=("region",),
        region=("LSIL", "HSIL", "SCC"),
        patch_px=patch_px,
        mpp=mpp,
        mpp_assumed=False,
        preparation="conventional smear",
        margin_px=RADIUS,
        stride_px=1,
        threshold=0.5,
        model={},
        data_card="none",
    )
    artifact.write_json(folder / CONFIG, info.to_json())
    return folder


def load(bundle: Path, device: str = "auto", *, threads: int | None = None) -> DarkEvidence:
    """Load a model; `device` and `threads` make no difference to it."""
    return DarkEvidence(read_evidence_info(bundle))
