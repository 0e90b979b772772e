"""The parts of an evaluation that are not curves: cost of confusion, calibration, first hits, calls on slides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.bootstrap import group_numbers
from wsi_detect.evaluation.calibration import Reliability, Temperatures, calibrated, fit_temperatures
from wsi_detect.evaluation.columns import Columns, lay_out
from wsi_detect.evaluation.confusion import calls_in, gravity_cost
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import ABNORMAL, Pools, pools_of
from wsi_detect.evaluation.hits import first_hits_in, hit_at
from wsi_detect.evaluation.matching import Pool
from wsi_detect.evaluation.parts import Floats, Key, Part, Scene, Values
from wsi_detect.evaluation.slide_level import (
    OperatingPoint,
    SlideRule,
    SlideScores,
    auc,
    choose_point,
    grades_in,
    quadratic_kappa,
    read_point,
    slide_scores_in,
)
from wsi_detect.evaluation.splits import Split

GRAVEST = "gravest"
#: Bins of equal width of a reliability curve.
BINS = 10


class Choices(NamedTuple):
    """What was chosen on another split, to be read on this one.

    Attributes:
        split: where.
        point: operating point of slides (or fields); None where that split has no positive one.
        temperatures: of the classes.
    """

    split: Split
    point: OperatingPoint | None
    temperatures: Temperatures


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """What is called positive or negative: slides where they are known, else fields.

    Attributes:
        unit: `slide` or `field`.
        scores: of each.
        grades: by their cells, and by their detections, (S,) each.
        of_image: (F,) the slide (or field) of each image.
    """

    unit: str
    scores: SlideScores
    grades: tuple[NDArray[np.int64], NDArray[np.int64]]
    of_image: NDArray[np.int64]

    def weights(self, weights: Floats) -> Floats:
        """How often each slide counts, (S,): as often as its images on average."""
        size = len(self.scores.scores)
        often, number = np.bincount(self.of_image, weights, size), np.bincount(self.of_image, minlength=size)
        return np.asarray(often / np.maximum(number, 1))


def choose(
    predictions: Sequence[FieldPrediction],
    truths: Sequence[FieldTruth],
    scene: Scene,
    split: Split,
) -> Choices:
    """Choose operating point and temperatures on a split.

    Args:
        predictions: of that split, inside ROIs.
        truths: of that split, inside ROIs.
        scene: of the split they will be read on, for the rules and the classes.
        split: to choose on.
    """
    columns = lay_out(predictions, truths, scene.config.merge_iou)
    images = images_of(columns, truths, scene.config.slide_rule, split, scene.config.min_score)
    point = choose_point(images.scores, scene.config.sensitivity) if images.scores.positive.any() else None
    return Choices(split, point, fit_temperatures(pools_of(columns, scene.classes).classes, split))


def images_of(
    columns: Columns,
    truths: Sequence[FieldTruth],
    rule: SlideRule,
    split: Split,
    min_score: float,
) -> Images:
    """Score and grade slides, or fields where the slide of one is not known."""
    slides = [truth.slide_id for truth in truths]
    known = all(slide is not None for slide in slides)
    of_image = group_numbers(slides) if known else np.arange(len(truths))
    scores = slide_scores_in(columns, rule, split, of_image)
    return Images("slide" if known else "field", scores, grades_in(columns, min_score, of_image), of_image)


def judgements(scene: Scene, pools: Pools, split: Split, choices: Choices | None) -> list[Part]:
    """Make the parts.

    Args:
        scene: what was evaluated.
        pools: its matches.
        split: its name and members.
        choices: of another split, None where nothing was chosen.
    """
    abnormal = {ABNORMAL: pools.abnormal}
    images = images_of(scene.columns, scene.truths, scene.config.slide_rule, split, scene.config.min_score)
    parts = [_cost(scene), _calibration("ece", "brier", {**pools.classes, **abnormal}), _hits(scene, images)]
    if choices is not None:
        tempered = calibrated(pools.classes, choices.temperatures, split)
        parts.append(_calibration("ece_calibrated", "brier_calibrated", tempered))
    return [*parts, _images(images, choices.point if choices else None, scene.config.min_score)]


def _cost(scene: Scene) -> Part:
    config = scene.config
    found = calls_in(scene.columns, scene.classes, min_score=config.min_score)
    price = gravity_cost(scene.classes, under=config.under, over=config.over)
    # `confusion.mean_cost`, with the cost of each image added up once for all replicates.
    of_image = np.bincount(found.image, price[found.truth, found.called], found.images)
    key = Key("cost", "all", config.min_score, None, "image")

    def values(weights: Floats) -> Values:
        images = float(weights.sum())
        return {key: float(of_image @ weights) / images if images else None}

    return Part(values, lambda key: len(scene.truths))


def _hits(scene: Scene, images: Images) -> Part:
    first = first_hits_in(scene.columns, images.of_image, ranking="gravity")

    def values(weights: Floats) -> Values:
        often = images.weights(weights)
        return {
            Key("hit", label, float(k), None, images.unit): hit_at(places, first.asked, k, often)
            for label, places in ((ABNORMAL, first.abnormal), (GRAVEST, first.gravest))
            for k in scene.config.hits_at
        }

    return Part(values, lambda key: int(first.asked.sum()))


def _calibration(ece: str, brier: str, pools: Mapping[str, Pool]) -> Part:
    """Calibration errors of each pool; sums are kept by image, so that a replicate costs next to nothing."""
    tables = {label: _sums(pool) for label, pool in pools.items()}

    def values(weights: Floats) -> Values:
        found: Values = {}
        for label, table in tables.items():
            count, scores, hits, squares = np.tensordot(weights, table, 1)
            safe = np.maximum(count, 1e-300)
            curve = Reliability(np.linspace(0, 1, BINS + 1), count, scores / safe, hits / safe)
            found[Key(ece, label)] = curve.ece
            found[Key(brier, label)] = float(squares.sum() / count.sum()) if count.any() else None
        return found

    return Part(values, lambda key: len(pools[key.label].scores))


def _sums(pool: Pool) -> Floats:
    """(F, 4, BINS): detections, their scores, their hits, their squared errors, of each image in each bin."""
    where = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], pool.scores) + pool.image * BINS
    size = len(pool.cells) * BINS
    parts = (np.ones(len(pool.scores)), pool.scores, pool.hits, (pool.scores - pool.hits) ** 2)
    return np.stack([np.bincount(where, part, size).reshape(len(pool.cells), BINS) for part in parts], axis=1)


def _images(images: Images, point: OperatingPoint | None, min_score: float) -> Part:
    unit, (real, called) = images.unit, images.grades

    def values(weights: Floats) -> Values:
        often = images.weights(weights)
        found: Values = {
            Key("auc", ABNORMAL, None, None, unit): auc(images.scores, often),
            Key("kappa", "grade", min_score, None, unit): quadratic_kappa(real, called, weights=often),
        }
        if point is not None:
            read = read_point(point, images.scores, often)
            found[Key("sensitivity", ABNORMAL, point.threshold, None, unit)] = read.sensitivity
            found[Key("specificity", ABNORMAL, point.threshold, None, unit)] = read.specificity
        return found

    return Part(values, lambda key: len(images.scores.scores))
