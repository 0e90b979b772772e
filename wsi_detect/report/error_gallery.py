"""The worst errors of an evaluation as crops: abnormal cells that were missed, and false alarms."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import IGNORED, UNMATCHED, match, merge_labels
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.rois import keep_inside
from wsi_detect.geometry import box_iou
from wsi_detect.report.picture import jpeg_uri
from wsi_detect.taxonomy import gravity, is_abnormal

#: Errors shown of each kind, and of one image.
SHOWN, OF_ONE_IMAGE = 12, 3
_QUALITY = 88
_BEYOND = "#e9edf1"
#: Least field of view, px, and how many times the box it is.
_LEAST, _TIMES = 150, 2.4


@dataclass(frozen=True, slots=True)
class Outline:
    """A box in a crop: xywh in px of the crop, its class, and whether it is the one the crop is about."""

    box: tuple[float, float, float, float]
    label: str
    main: bool


@dataclass(frozen=True, slots=True)
class Mistake:
    """One error.

    Attributes:
        image_id: where.
        label: class of the cell, None where no cell is labelled.
        called: class it was called, None where nothing was marked.
        score: of the mark; of a missed cell the best any abnormal class got, 0 if none.
        box: (4,) xyxy, image px.
    """

    image_id: str
    label: str | None
    called: str | None
    score: float
    box: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Exhibit:
    """An error as it is shown.

    Attributes:
        mistake: the error.
        uri: the picture, None without images.
        side: of the picture, px.
        truth: labels in view.
        marks: marks of the model in view.
    """

    mistake: Mistake
    uri: str | None
    side: int
    truth: list[Outline]
    marks: list[Outline]


def find_mistakes(run: EvaluationRun) -> tuple[list[Mistake], list[Mistake]]:
    """Return abnormal cells missed or called normal, and abnormal marks where no abnormal cell is labelled.

    Misses come gravest first, then the less the model suspected; false alarms gravest call first, then the surest.
    Judged at the score from which the model shows a cell.
    """
    misses: list[Mistake] = []
    alarms: list[Mistake] = []
    for found, truth in zip(*keep_inside(run.predictions, run.truths), strict=True):
        shown = merge_labels(found.take(np.flatnonzero(found.scores >= run.config.min_score)), run.config.merge_iou)
        matches = match(shown.boxes, shown.scores, truth.boxes, truth.ignore)
        misses += _misses(found, shown, truth, matches)
        for row, cell in enumerate(matches.tolist()):
            label = None if cell in (UNMATCHED, IGNORED) else truth.labels[cell]
            if cell != IGNORED and is_abnormal(shown.labels[row]) and not (label and is_abnormal(label)):
                score, box = float(shown.scores[row]), shown.boxes[row]
                alarms.append(Mistake(truth.image_id, label, shown.labels[row], score, box))
    misses.sort(key=lambda m: (-gravity(m.label or "NILM"), m.score, m.image_id))
    alarms.sort(key=lambda m: (-gravity(m.called or "NILM"), -m.score, m.image_id))
    return misses, alarms


def exhibits(run: EvaluationRun, mistakes: Iterable[Mistake], images: Path | None) -> list[Exhibit]:
    """Cut out the first of these errors, no more than a few of one image.

    Args:
        run: they are of.
        mistakes: the worst first.
        images: folder of the fields; None gives exhibits without pictures.

    Raises:
        LabelError: an image is missing or of another size.
    """
    number: dict[str, int] = {}
    chosen = []
    for mistake in mistakes:
        number[mistake.image_id] = number.get(mistake.image_id, 0) + 1
        if number[mistake.image_id] <= OF_ONE_IMAGE:
            chosen.append(mistake)
        if len(chosen) == SHOWN:
            break
    by_id = {t.image_id: (p, t) for p, t in zip(run.predictions, run.truths, strict=True)}
    return [_exhibit(mistake, *by_id[mistake.image_id], run, images) for mistake in chosen]


def _misses(
    found: FieldPrediction, shown: FieldPrediction, truth: FieldTruth, matches: NDArray[np.int64]
) -> list[Mistake]:
    called = {cell: shown.labels[row] for row, cell in enumerate(matches.tolist()) if cell >= 0}
    suspects = found.take(np.flatnonzero([is_abnormal(name) for name in found.labels]))
    missed = []
    for cell, label in enumerate(truth.labels):
        name = called.get(cell)
        if is_abnormal(label) and not (name and is_abnormal(name)):
            near = box_iou(truth.boxes[cell], suspects.boxes)[0] >= 0.5
            best = float(suspects.scores[near].max(initial=0.0))
            missed.append(Mistake(truth.image_id, label, name, best, truth.boxes[cell]))
    return missed


def _exhibit(
    mistake: Mistake, found: FieldPrediction, truth: FieldTruth, run: EvaluationRun, images: Path | None
) -> Exhibit:
    x0, y0, x1, y1 = mistake.box
    side = round(max(_LEAST, _TIMES * max(x1 - x0, y1 - y0)))
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    uri = None
    if images is not None:
        picture = _picture(truth, images, run.config.rescale)
        # Beyond the image there is nothing, which must not look like black.
        crop = Image.new("RGB", (side, side), _BEYOND)
        crop.paste(picture, (-left, -top))
        uri = jpeg_uri(np.asarray(crop), _QUALITY)
    shown = merge_labels(found.take(np.flatnonzero(found.scores >= run.config.min_score)), run.config.merge_iou)
    corner, about_cell = (left, top, side), mistake.label is not None
    truths = _outlines(truth.boxes, truth.labels, corner, mistake.box if about_cell else None)
    marks = _outlines(shown.boxes, shown.labels, corner, mistake.box if mistake.called else None)
    return Exhibit(mistake, uri, side, truths, marks)


def _picture(truth: FieldTruth, images: Path, rescale: float) -> Image.Image:
    """Open an image as it was evaluated."""
    path, size = images / truth.image_id, (truth.width, truth.height)
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except OSError as error:
        raise LabelError(f"{path} cannot be shown: {error}; is it the folder that was evaluated?") from error
    if (round(picture.width * rescale), round(picture.height * rescale)) != size:
        raise LabelError(f"{path} is {picture.width} x {picture.height} px, not the image that was evaluated")
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _outlines(
    boxes: NDArray[np.float64], labels: list[str], corner: tuple[int, int, int], main: NDArray[np.float64] | None
) -> list[Outline]:
    left, top, side = corner
    overlap = np.zeros(len(boxes)) if main is None else box_iou(boxes, main)[:, 0]
    found = []
    for row, (x0, y0, x1, y1) in enumerate(boxes - np.array([left, top, left, top])):
        middle = (x0 + x1) / 2, (y0 + y1) / 2
        if all(0 <= value <= side for value in middle):
            best = bool(overlap[row] >= 0.5 and overlap[row] == overlap.max())
            found.append(Outline((float(x0), float(y0), float(x1 - x0), float(y1 - y0)), labels[row], best))
    return found
