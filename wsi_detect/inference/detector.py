"""What every runtime offers: uint8 patches in, detections out."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsi_detect import schema
from wsi_detect.geometry import PatchFrame

if TYPE_CHECKING:
    from wsi_detect.detectors.info import DetectorInfo


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector saw in one patch, best first.

    Attributes:
        boxes: (N, 4) float32, xyxy, patch px.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, index into the detector's classes.
        class_scores: (N, K) float32 in [0, 1].
        finite: False when the network gave a value that is not a number anywhere in this patch. Such a value would
            otherwise vanish below the score threshold, and the patch would look empty.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_scores: NDArray[np.float32]
    finite: bool = True

    def __len__(self) -> int:
        return len(self.scores)

    def is_finite(self) -> bool:
        """Whether the network and every number in here are finite."""
        arrays = (self.boxes, self.scores, self.class_scores)
        return self.finite and all(bool(np.isfinite(array).all()) for array in arrays)


def no_detections(classes: int) -> Detections:
    """Return the typed empty answer of a detector with that many classes."""
    return Detections(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        labels=np.zeros(0, np.int64),
        class_scores=np.zeros((0, classes), np.float32),
    )


class Detector(Protocol):
    """A model bundle ready to run."""

    @property
    def info(self) -> "DetectorInfo":
        """Classes, patch size, resolution and origin of the model."""
        ...

    def __call__(self, patches: NDArray[np.uint8]) -> list[Detections]:
        """Patches (B, H, W, 3) uint8 RGB → one `Detections` each; no patch influences another."""
        ...


def on_slide(found: Detections, frame: PatchFrame, width_px: int, height_px: int) -> Detections:
    """Keep the detections whose centre lies on the slide: a patch larger than its slide is white beside it."""
    boxes = frame.to_slide(found.boxes)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    kept = ((centre >= 0) & (centre < [width_px, height_px])).all(axis=1)
    return replace(
        found,
        boxes=found.boxes[kept],
        scores=found.scores[kept],
        labels=found.labels[kept],
        class_scores=found.class_scores[kept],
    )


def detection_rows(
    slide_id: str, patch_id: int, frame: PatchFrame, found: Detections, classes: tuple[str, ...]
) -> pa.Table:
    """Return the detections of one patch as rows of `schema.DETECTIONS`, in slide px."""
    boxes = frame.to_slide(found.boxes)
    count = len(found)
    columns: dict[str, Any] = {
        "slide_id": [slide_id] * count,
        "patch_id": np.full(count, patch_id, np.int64),
        **{name: boxes[:, k] for k, name in enumerate(schema.BOX_COLUMNS)},
        "label": [classes[label] for label in found.labels],
        "score": found.scores.astype(np.float32),
        "class_scores": list(found.class_scores.astype(np.float32)),
    }
    return pa.table(columns, schema=schema.DETECTIONS)
