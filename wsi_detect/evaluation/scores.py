"""Every figure of an evaluation, each with its interval, as rows of `schema.METRICS`.

A figure that is resampled belongs to a part: a function of how often each image counts. All parts see the same draws.
AP over several IoU and AP by size have no interval: a replicate would cost as much as the evaluation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.average_precision import average_precision, by_frequency, coco_ap, interpolated, mean
from wsi_detect.evaluation.average_precision import size_ranges as ranges_of
from wsi_detect.evaluation.bootstrap import Interval, percentile_intervals
from wsi_detect.evaluation.columns import Columns, lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import ABNORMAL, AGNOSTIC, MEAN, Pools, pools_of
from wsi_detect.evaluation.froc import UNITS, extents, highest
from wsi_detect.evaluation.groups import groups_of
from wsi_detect.evaluation.matching import ask
from wsi_detect.evaluation.settings import EvaluationConfig
from wsi_detect.evaluation.steps import Steps

Floats = NDArray[np.float64]


class Key(NamedTuple):
    """What names a figure: the columns of `schema.METRICS` of these names."""

    metric: str
    label: str
    threshold: float | None = None
    subset: str | None = None
    unit: str | None = None


Values = dict[Key, float | None]
#: Takes (F,) how often each image counts.
Part = Callable[[Floats], Values]


class Scene(NamedTuple):
    """What figures are computed from; only what lies inside ROIs.

    Attributes:
        predictions: one a truth.
        truths: one an image.
        classes: names to report, gravest first.
        config: how to evaluate.
    """

    predictions: Sequence[FieldPrediction]
    truths: Sequence[FieldTruth]
    classes: Sequence[str]
    config: EvaluationConfig


def rows_of(scene: Scene, more: Callable[[Scene, Pools], Sequence[Part]] | None = None) -> list[dict[str, Any]]:
    """Compute every figure.

    Args:
        scene: what to compute it from.
        more: makes further parts.

    Returns:
        Rows of `schema.METRICS`.
    """
    columns = lay_out(scene.predictions, scene.truths, scene.config.merge_iou)
    pools = pools_of(columns, scene.classes, scene.config.max_detections)
    further = list(more(scene, pools)) if more else []
    everyone = np.ones(len(scene.truths))
    exact = _joined([_curves(scene, pools, Steps.exact), *further])(everyone)
    fixed = _fixed(scene, columns)
    intervals, groups = _intervals(scene, _joined([_curves(scene, pools, Steps.of), *further]))
    counts = pools.counts()
    return [
        *(_row(key, value, counts, scene, intervals.get(_name(key)), groups) for key, value in exact.items()),
        *(_row(key, value, counts, scene, None, None) for key, value in fixed.items()),
    ]


def _joined(parts: Sequence[Part]) -> Part:
    def all_of(weights: Floats) -> Values:
        return {key: value for part in parts for key, value in part(weights).items()}

    return all_of


def _intervals(scene: Scene, part: Part) -> tuple[dict[str, Interval], int | None]:
    config = scene.config
    if not config.replicates or not scene.truths:
        return {}, None
    _, groups = groups_of(scene.truths, config.resample)
    found = percentile_intervals(
        lambda weights: {_name(key): value for key, value in part(weights).items()},
        len(groups),
        groups=groups,
        replicates=config.replicates,
        confidence=config.confidence,
        seed=config.seed,
    )
    return found, len(set(groups))


def _name(key: Key) -> str:
    return "|".join(map(str, key))


def _row(
    key: Key,
    value: float | None,
    counts: Mapping[str, int],
    scene: Scene,
    interval: Interval | None,
    groups: int | None,
) -> dict[str, Any]:
    """One row: `n` is the number of cells of the label, of images where the figure is about images."""
    about_images = key.metric in ("auc", "kappa", "sensitivity", "specificity", "cost", "hit")
    number = len(scene.truths) if about_images else counts.get(key.label, counts[AGNOSTIC])
    row: dict[str, Any] = {**key._asdict(), "value": value, "n": number}
    row |= {"ci_low": None, "ci_high": None, "undefined": None, "replicates": None, "groups": None}
    if interval is not None:
        row |= {"undefined": interval.undefined, "replicates": scene.config.replicates, "groups": groups}
        if value is not None:
            row |= {"ci_low": interval.low, "ci_high": interval.high}
    return row


def _curves(scene: Scene, pools: Pools, make: Callable[..., Steps]) -> Part:
    """AP at IoU 0.5, recall at false positives, FROC score."""
    classes = {name: make(pool) for name, pool in pools.classes.items()}
    everything, abnormal = make(pools.agnostic), make(pools.abnormal)
    config = scene.config
    allowed = config.false_positives, config.false_positives_per_slide, config.false_positives_per_mm2
    rates = dict(zip(UNITS, allowed, strict=True))
    known = {unit: extent for unit in UNITS if (extent := extents(scene.truths, unit)) is not None}

    def froc(label: str, steps: Steps, weights: Floats) -> Values:
        right, wrong = steps.climb(weights)
        found: Values = {}
        cells = float(steps.cells @ weights)
        right, wrong = right[steps.last], wrong[steps.last]
        for unit, extent in known.items():
            size = float(extent @ weights)
            for rate in rates[unit]:
                key = Key("recall", label, rate, None, unit)
                found[key] = highest(right, wrong, rate * size) / cells if cells else None
            x, y = np.append(0.0, wrong / max(size, 1e-300)), np.append(0.0, right / max(cells, 1e-300))
            score = float(np.interp(config.froc_points, x, y).mean()) if cells and size else None
            found[Key("froc", label, None, None, unit)] = score
        return found

    def values(weights: Floats) -> Values:
        found: Values = {Key("ap50", name, 0.5): _ap(steps, weights) for name, steps in classes.items()}
        found[Key("ap50", MEAN, 0.5)] = mean(found.values())
        found[Key("ap50", AGNOSTIC, 0.5)] = _ap(everything, weights)
        for label, steps in {ABNORMAL: abnormal, **classes}.items():
            found |= froc(label, steps, weights)
        return found

    return values


def _ap(steps: Steps, weights: Floats) -> float | None:
    cells = float(steps.cells @ weights)
    if not cells:
        return None
    right, wrong = steps.climb(weights)
    return interpolated(right, right + wrong, cells)


def _fixed(scene: Scene, columns: Columns) -> Values:
    """Figures without interval: COCO's AP, by size, by frequency in training."""
    config = scene.config
    by_class = ask(columns, {name: {name} for name in scene.classes}, limit=config.max_detections)
    as_one = ask(columns, {AGNOSTIC: columns.names}, merge=True, limit=config.max_detections)
    ranges = {None: None, **ranges_of(columns, scene.truths, config.size_ranges_um)}
    found: Values = {}
    for subset, within in ranges.items():
        values = coco_ap(by_class, within)
        found |= {Key("ap", name, None, subset): value for name, value in values.items()}
        found[Key("ap", MEAN, None, subset)] = mean(values.values())
        found[Key("ap", AGNOSTIC, None, subset)] = coco_ap(as_one, within)[AGNOSTIC]
        if within is not None:
            half = {name: average_precision(pool) for name, pool in by_class.pools(0.5, within).items()}
            found[Key("ap50", MEAN, 0.5, subset)] = mean(half.values())
    limits = config.rare_up_to, config.common_up_to
    plain = {name: found[Key("ap", name)] for name in scene.classes}
    grouped = by_frequency(plain, config.training_counts, limits) if config.training_counts else {}
    return found | {Key("ap", MEAN, None, group): value for group, value in grouped.items()}
