"""Two evaluations can be compared where they were held against one truth; what differs first is said."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.fields import FieldTruth


def check_same_truth(first: Sequence[FieldTruth], second: Sequence[FieldTruth]) -> None:
    """Refuse truths that differ in an image, its size, groups or ROI, or in a cell; order does not matter.

    Args:
        first: truths of run A, one an image.
        second: truths of run B.

    Raises:
        LabelError: names the first difference, in the order of `first`.
    """
    theirs = {truth.image_id: truth for truth in second}
    for truth in first:
        if truth.image_id not in theirs:
            raise _different(truth.image_id, "in run A only")
        _check(truth, theirs.pop(truth.image_id))
    if theirs:
        raise _different(next(iter(theirs)), "in run B only")


def _check(a: FieldTruth, b: FieldTruth) -> None:
    facts = ("width", "height", "mpp", "patient_id", "slide_id", "field_id")
    for name in facts:
        if getattr(a, name) != getattr(b, name):
            raise _different(a.image_id, f"{name} is {getattr(a, name)} in run A, {getattr(b, name)} in run B")
    if (a.roi is None) != (b.roi is None) or (a.roi is not None and not shapely.equals(a.roi, b.roi)):
        raise _different(a.image_id, "its labels are complete in one region in run A, in another in run B")
    cells = ((t.boxes, np.array(t.labels, dtype=np.str_)) for t in (a, b))
    _check_boxes(a.image_id, "cell", *(_sorted(*part) for part in cells))
    ignored = ((t.ignore, np.full(len(t.ignore), "")) for t in (a, b))
    _check_boxes(a.image_id, "area to ignore", *(_sorted(*part) for part in ignored))


def _sorted(boxes: NDArray[np.float64], labels: NDArray[np.str_]) -> list[tuple[Any, ...]]:
    order = np.lexsort((labels, *boxes.T[::-1])) if len(boxes) else np.zeros(0, np.int64)
    return [(*boxes[row].tolist(), str(labels[row])) for row in order]


def _check_boxes(image: str, what: str, a: list[tuple[Any, ...]], b: list[tuple[Any, ...]]) -> None:
    if len(a) != len(b):
        raise _different(image, f"{len(a)} times a {what} in run A, {len(b)} in run B")
    for mine, theirs in zip(a, b, strict=True):
        if mine != theirs:
            raise _different(image, f"a {what} is {_say(mine)} in run A, {_say(theirs)} in run B")


def _say(entry: tuple[Any, ...]) -> str:
    return f"{entry[4]} [{', '.join(f'{side:g}' for side in entry[:4])}]".strip()


def _different(image: str, what: str) -> LabelError:
    return LabelError(f"the runs have different truths: image {image}: {what}; evaluate both on the same labels")
