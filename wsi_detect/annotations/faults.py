"""What is wrong with annotations, row by row; and what of it a declared repair mends."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.annotations.annotation import Annotation
from wsi_detect.geometry import Box

#: A box may stick out of its image by this much, px, from rounding; it is cut without a word.
_ROUNDING_PX = 1.0

#: Faults a message lists before it only counts.
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one annotation.

    Attributes:
        entry: its place among the annotations judged.
        row: its place in the file, from 1.
        annotation_id: as the file has it.
        problem: in words.
        doubled: whether another annotation at its place is kept instead.
    """

    entry: int
    row: int
    annotation_id: str
    problem: str
    doubled: bool = False

    def __str__(self) -> str:
        return f"row {self.row} (id {self.annotation_id}): {self.problem}"


def find_faults(annotations: Sequence[Annotation], gravities: Sequence[int]) -> list[Fault]:
    """Judge annotations of any number of images, all of them at once.

    Not finite; without area; outside the image, or reaching beyond it; an outline that crosses itself; said to be wrong
    by the importer; at the place of another by the same annotator. Of several at one place all but one are faulty: the
    gravest stays, of equals the first.

    Args:
        annotations: of one file.
        gravities: what `taxonomy.gravity` says of each.
    """
    boxes = np.array([entry.box for entry in annotations], dtype=np.float64).reshape(-1, 4)
    sizes = np.array([entry.image_size or (np.inf, np.inf) for entry in annotations], dtype=np.float64).reshape(-1, 2)
    problems = [entry.problem for entry in annotations]
    # The first that holds is said.
    for words, rows in (
        ("box {} is not finite", ~np.isfinite(boxes).all(axis=1)),
        ("box {} has no area", ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)),
        ("box {} lies outside its image{}", _outside(boxes, sizes)),
        ("box {} reaches beyond its image{}", _beyond(boxes, sizes)),
        ("its outline crosses itself, or has no area", _crossing(annotations)),
    ):
        for k in np.flatnonzero(rows).tolist():
            if problems[k] is None:
                text = "[{:g}, {:g}, {:g}, {:g}]".format(*boxes[k])
                of = "" if np.isinf(sizes[k, 0]) else " of {:g} x {:g} px".format(*sizes[k])
                problems[k] = words.format(text, of)
    doubled = dict(_doubled(annotations, gravities, problems))
    for k, first in doubled.items():
        other = annotations[first]
        same = "the same" if other.source_label == annotations[k].source_label else f"{other.source_label!r} there"
        problems[k] = f"lies exactly where row {other.row} says {same}"
    return [
        Fault(k, annotations[k].row, annotations[k].annotation_id, problem, k in doubled)
        for k, problem in enumerate(problems)
        if problem is not None
    ]


def mended(annotation: Annotation) -> Annotation | None:
    """Mend what can be, of an annotation that has a fault; None if nothing of it is left.

    Corners the wrong way round are exchanged; a box that reaches beyond its image is cut to it, its outline too; an
    outline that crosses itself is read by the even-odd rule, and the box is that of the outline.
    """
    if annotation.problem is not None or not np.isfinite(annotation.box).all():
        return None
    x0, y0, x1, y1 = annotation.box
    entry = replace(annotation, box=Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
    if entry.geometry is not None:
        shape = shapely.from_wkb(entry.geometry)
        if not shape.is_valid:
            parts = [part for part in shapely.get_parts(shapely.make_valid(shape)) if part.area > 0]
            shape = shapely.union_all(parts)
        if shape.is_empty:
            return None
        entry = replace(entry, geometry=bytes(shapely.to_wkb(shape)), box=Box(*shape.bounds))
    return fitted(entry)


def fitted(annotation: Annotation) -> Annotation | None:
    """Cut an annotation to its image, where that has a size; None if nothing of it is left."""
    if annotation.image_size is None:
        return annotation if annotation.box.width > 0 and annotation.box.height > 0 else None
    width, height = annotation.image_size
    box = annotation.box
    if box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height and box.x1 > box.x0 and box.y1 > box.y0:
        return annotation
    cut = Box(max(box.x0, 0.0), max(box.y0, 0.0), min(box.x1, float(width)), min(box.y1, float(height)))
    if not (cut.width > 0 and cut.height > 0):
        return None
    entry = replace(annotation, box=cut)
    if entry.geometry is None:
        return entry
    shape = shapely.intersection(shapely.from_wkb(entry.geometry), shapely.box(*cut))
    parts = [part for part in shapely.get_parts(shape) if part.area > 0]
    if not parts:
        return None
    shape = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
    return replace(entry, geometry=bytes(shapely.to_wkb(shape)), box=Box(*shape.bounds))


def listed(faults: Sequence[Fault]) -> str:
    """Return faults as one sentence; the twentieth is the last that is told."""
    more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
    return f"{len(faults)} broken annotations: {'; '.join(map(str, faults[:_LISTED]))}{more}"


def _outside(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    beyond = (boxes[:, 2:] <= 0) | (boxes[:, :2] >= sizes)
    return np.asarray(beyond.any(axis=1) & np.isfinite(sizes[:, 0]))


def _beyond(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    beyond = (boxes[:, :2] < -_ROUNDING_PX) | (boxes[:, 2:] > sizes + _ROUNDING_PX)
    return np.asarray(beyond.any(axis=1) & np.isfinite(sizes[:, 0]))


def _crossing(annotations: Sequence[Annotation]) -> NDArray[np.bool_]:
    found = np.zeros(len(annotations), bool)
    rows = [k for k, entry in enumerate(annotations) if entry.geometry is not None]
    shapes = shapely.from_wkb(np.array([annotations[k].geometry for k in rows], dtype=object))
    found[rows] = ~shapely.is_valid(shapes) | ~(shapely.area(shapes) > 0)
    return found


def _doubled(
    annotations: Sequence[Annotation], gravities: Sequence[int], problems: Sequence[str | None]
) -> list[tuple[int, int]]:
    """Pairs of places: one too many, and the one that stays."""
    kept: dict[tuple[object, ...], int] = {}
    found: list[tuple[int, int]] = []
    order = sorted(range(len(annotations)), key=lambda k: -gravities[k])
    for k in order:
        if problems[k] is None:
            entry = annotations[k]
            first = kept.setdefault((entry.image, entry.box, entry.annotator), k)
            if first != k:
                found.append((k, first))
    return found
