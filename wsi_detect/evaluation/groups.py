"""What is resampled together: the patients of an evaluation, or its slides, or its fields."""

from collections.abc import Sequence
from typing import Literal

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.fields import FieldTruth

Unit = Literal["patient", "slide", "field"]
UNITS: tuple[Unit, ...] = ("patient", "slide", "field")


def groups_of(truths: Sequence[FieldTruth], unit: Unit | None = None) -> tuple[Unit, list[str]]:
    """Group of each image, by the largest unit that is known of all of them.

    Two fields of one slide are not independent, nor two slides of one patient; a smaller unit gives intervals that are
    too narrow.

    Args:
        truths: one an image.
        unit: take this one, though a larger one may be known.

    Returns:
        The unit, and (F,) patient, slide or field. A field that does not say so is itself.

    Raises:
        LabelError: the unit asked for is not known of every image.
    """
    for name in UNITS if unit is None else (unit,):
        found = [_member(truth, name) for truth in truths]
        known = [member for member in found if member is not None]
        if len(known) == len(found):
            return name, known
    image = truths[found.index(None)].image_id
    raise LabelError(f"image {image}: its {name} is not known; resample by a smaller unit, or say what it is part of")


def _member(truth: FieldTruth, unit: Unit) -> str | None:
    if unit == "patient":
        return truth.patient_id
    return truth.slide_id if unit == "slide" else truth.field_id or truth.image_id
