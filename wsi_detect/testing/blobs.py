"""A detector without weights for tests of everything around a detector: dark blobs, the same answer on every machine.

It is a runtime as `inference.RUNTIMES` holds them: `load(bundle, …)`, importable by name in worker processes. The
darker a blob, the graver the class it is called, so that several classes occur.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.detectors.info import CONFIG, DetectorInfo, read_info
from wsi_detect.evaluation.baseline import DarkBlobs
from wsi_detect.inference.detector import Detections, no_detections

CLASSES = ("NILM", "LSIL", "HSIL")


@dataclass(frozen=True, slots=True)
class BlobDetector:
    """Finds dark blobs. Patches (B, H, W, 3) uint8 → one `Detections` each."""

    info: DetectorInfo
    finder: DarkBlobs
    score_threshold: float

    def __call__(self, patches: NDArray[np.uint8]) -> list[Detections]:
        """Look at each patch by itself."""
        return [self._look(patch) for patch in patches]

    def _look(self, patch: NDArray[np.uint8]) -> Detections:
        found = self.finder(patch)
        keep = np.flatnonzero(found.scores > self.score_threshold)
        if not len(keep):
            return no_detections(len(CLASSES))
        keep = keep[np.argsort(-found.scores[keep], kind="stable")]
        scores = found.scores[keep].astype(np.float32)
        labels = np.clip((scores * 2 * len(CLASSES)).astype(np.int64) - 1, 0, len(CLASSES) - 1)
        class_scores = np.full((len(keep), len(CLASSES)), 0.01, np.float32)
        class_scores[np.arange(len(keep)), labels] = scores
        return Detections(found.boxes[keep].astype(np.float32), scores, labels, class_scores)


def write_bundle(folder: Path, *, patch_px: int = 256, mpp: float = 0.25, largest_cell_um: float = 16.0) -> Path:
    """Write the `config.json` of a blob detector: all of a bundle that `load` below needs."""
    info = DetectorInfo(
        model_id="dark-blobs",
        classes=CLASSES,
        patch_px=patch_px,
        mpp=mpp,
        mpp_assumed=False,
        preparation="conventional smear",
        largest_cell_um=largest_cell_um,
        score_threshold=0.1,
        detector={"name": "dark-blobs", "options": {}},
        data_card="none",
    )
    artifact.write_json(folder / CONFIG, info.to_json())
    return folder


def load(
    bundle: Path,
    device: str = "auto",
    *,
    score_threshold: float | None = None,
    nms: Literal["agnostic", "class"] | None = None,
    threads: int | None = None,
) -> BlobDetector:
    """Load a blob detector; `device`, `nms` and `threads` make no difference to it."""
    info = read_info(bundle)
    finder = DarkBlobs(box_px=24.0, min_px=20, max_px=4000, spread=1.0)
    return BlobDetector(info, finder, info.score_threshold if score_threshold is None else score_threshold)
