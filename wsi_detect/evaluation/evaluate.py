"""The stage evaluate on labelled fields of any size: a detector is shown each of them whole."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_detect.errors import LabelError, NonFiniteError
from wsi_detect.evaluation.fields import FieldDetector, FieldPrediction, FieldTruth, check_finite, read_fields
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.runs import evaluate_run, flat

if TYPE_CHECKING:
    from wsi_detect.detectors.info import DetectorInfo

_log = logging.getLogger(__name__)


class _PatchDetections(Protocol):
    # What `inference.Detections` looks like from here; this room lies below that one.
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_scores: NDArray[np.float32]

    def is_finite(self) -> bool: ...


class _PatchDetector(Protocol):
    @property
    def info(self) -> "DetectorInfo": ...

    def __call__(self, patches: NDArray[np.uint8]) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class WholeImage:
    """A patch detector shown whole images of any size, one at a time."""

    detector: _PatchDetector

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the model."""
        return tuple(self.detector.info.classes)

    def __call__(self, image: NDArray[np.uint8]) -> FieldPrediction:
        """Image (H, W, 3) uint8 RGB → cells in image px.

        Raises:
            NonFiniteError: the network gave a value that is not finite.
        """
        found: _PatchDetections = self.detector(image[None])[0]
        if not found.is_finite():
            raise NonFiniteError("the model gave a value that is not finite")
        labels = [self.classes[k] for k in found.labels]
        boxes, scores = found.boxes.astype(np.float64), found.scores.astype(np.float64)
        return FieldPrediction("", boxes, scores, labels, found.class_scores.astype(np.float64))


def predict_fields(
    detector: FieldDetector, truths: Sequence[FieldTruth], images: Path, rescale: float = 1.0
) -> tuple[list[FieldPrediction], list[FieldTruth]]:
    """Show a detector every field.

    Args:
        detector: takes a whole image.
        truths: fields whose `image_id` is a file name.
        images: folder of the files.
        rescale: resize images and boxes by this factor first.

    Returns:
        Predictions, and the truth in the px they are in (the truth given, if nothing was rescaled).

    Raises:
        LabelError: a file is missing, or is not of the size the truth says.
        NonFiniteError: the detector gave a box or a score that is not finite.
    """
    predictions, scaled = [], []
    for number, truth in enumerate(truths, start=1):
        pixels, field = _load(truth, images, rescale)
        found = replace(detector(pixels), image_id=truth.image_id)
        check_finite(found)
        predictions.append(found)
        scaled.append(field)
        _log.debug("field %d of %d: %d cells", number, len(truths), len(found.scores))
    return predictions, scaled


def evaluate_fields(
    detector: FieldDetector, coco: Path, images: Path, config: EvaluationConfig | None = None
) -> dict[str, float | None]:
    """Evaluate a detector on labelled fields; one forward for each whole image.

    Classes are matched by name. A class the truth does not have is None. A class the detector does not know has average
    precision 0: its cells were not found under their name.

    Args:
        detector: takes a whole image; `WholeImage(detector)` for a model bundle that was loaded.
        coco: truth, a COCO file whose categories are taxonomy names.
        images: folder of its files.
        config: how to evaluate.

    Returns:
        `ap50/<class>`, `ap50/mean` (over the classes of the truth), `ap50/agnostic`, `recall@<n>fppi/any_abnormal`,
        `n/<class>`; for each figure `ci_low/…`, `ci_high/…` and `ci_undefined/…`, the number of replicates in which it
        had no value; and `images`.

    Raises:
        LabelError: the truth is not usable, or a file is missing or of another size.
        NonFiniteError: the detector gave a box or a score that is not finite.
    """
    run = run_on_fields(detector, coco, images, config)
    return flat(run)


def run_on_fields(
    detector: FieldDetector,
    coco: Path,
    images: Path,
    config: EvaluationConfig | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    chosen_on: EvaluationRun | None = None,
) -> EvaluationRun:
    """Evaluate a detector on labelled fields and keep everything: what `evaluate_fields` does, as an artefact.

    Args:
        detector: takes a whole image.
        coco: truth, a COCO file whose categories are taxonomy names; see `fields.read_fields`.
        images: folder of its files.
        config: how to evaluate.
        about: what is known of model and data, for `evaluation.json`.
        chosen_on: an evaluation of another split, from which operating point and temperatures are taken.

    Raises:
        LabelError: the truth is not usable, a file is missing or of another size, or the other split is the same one.
        NonFiniteError: the detector gave a box or a score that is not finite.
    """
    config = config or EvaluationConfig()
    truths = read_fields(coco)
    if not truths:
        raise LabelError(f"{coco} names no image")
    predictions, truths = predict_fields(detector, truths, images, config.rescale)
    facts = {"kind": "fields", "data": coco.stem, **(about or {})}
    return evaluate_run(EvaluationRun(truths, predictions, tuple(detector.classes), config, facts), chosen_on)


def evaluate_predictions(
    predictions: Sequence[FieldPrediction],
    truths: Sequence[FieldTruth],
    classes: Sequence[str],
    config: EvaluationConfig,
) -> dict[str, float | None]:
    """Compute the figures of `evaluate_fields` from predictions already made; `classes` are the detector's."""
    return flat(evaluate_run(EvaluationRun(list(truths), list(predictions), tuple(classes), config)))


def _load(truth: FieldTruth, images: Path, rescale: float) -> tuple[NDArray[np.uint8], FieldTruth]:
    path = images / truth.image_id
    if not path.is_file():
        raise LabelError(f"{path} is named in the truth and does not exist; is --images the right folder?")
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.size != (truth.width, truth.height):
        raise LabelError(
            f"{path} is {image.width} x {image.height} px, the truth says {truth.width} x {truth.height}; "
            "its boxes would lie in the wrong place"
        )
    if rescale == 1.0:
        return np.asarray(image), truth
    size = (max(1, round(image.width * rescale)), max(1, round(image.height * rescale)))
    # Both axes by what they really became, so that boxes stay on their cells.
    factor = np.array([size[0] / image.width, size[1] / image.height] * 2)
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=None))
    scaled = replace(
        truth, width=size[0], height=size[1], boxes=truth.boxes * factor, ignore=truth.ignore * factor
    )  # fmt: skip
    return pixels, scaled
