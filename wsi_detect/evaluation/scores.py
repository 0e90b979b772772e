"""Every figure of an evaluation, each with its interval, as rows of `schema.METRICS`.

A figure that is resampled belongs to a part: a function of how often each image counts. All parts see the same draws.
AP over several IoU and AP by size have no interval: a replicate would cost as much as the evaluation.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from wsi_detect.evaluation.average_precision import (
    average_precision,
    by_frequency,
    coco_ap,
    frequency_groups,
    interpolated,
    mean,
)
from wsi_detect.evaluation.average_precision import size_ranges as ranges_of
from wsi_detect.evaluation.bootstrap import Interval, percentile_intervals
from wsi_detect.evaluation.columns import Columns
from wsi_detect.evaluation.figures import ABNORMAL, AGNOSTIC, MEAN, Pools, pools_of
from wsi_detect.evaluation.froc import UNITS, extents, highest
from wsi_detect.evaluation.groups import groups_of
from wsi_detect.evaluation.matching import Pool, Within, ask
from wsi_detect.evaluation.parts import Floats, Key, Part, Scene, Values
from wsi_detect.evaluation.steps import Steps


def rows_of(scene: Scene, more: Callable[[Pools], Sequence[Part]] | None = None) -> list[dict[str, Any]]:
    """Compute every figure.

    Args:
        scene: what to compute it from.
        more: makes further parts from the matches.

    Returns:
        Rows of `schema.METRICS`; those without interval come last.

    Raises:
        LabelError: a unit to resample was declared that is not known of every image.
    """
    columns = scene.columns
    pools = pools_of(columns, scene.classes, scene.config.max_detections)
    further = list(more(pools)) if more else []
    everyone = np.ones(len(scene.truths))
    intervals, groups = _intervals(scene, [curves(scene, pools, Steps.of), *further])
    rows = []
    for part in (curves(scene, pools, Steps.exact), *further):
        for key, value in part.values(everyone).items():
            rows.append(_row(key, value, part.number(key), intervals.get(key.text), groups, scene.config.replicates))
    return rows + [_row(key, value, number, None, None, 0) for key, (value, number) in _fixed(scene, columns).items()]


def _intervals(scene: Scene, parts: Sequence[Part]) -> tuple[dict[str, Interval], int | None]:
    """Return the interval of each figure, and how many groups were drawn from; one group tells nothing."""
    config = scene.config
    if not config.replicates:
        return {}, None
    groups = groups_of(scene.truths, config.resample)[1]

    def statistic(weights: Floats) -> dict[str, float | None]:
        return {key.text: value for part in parts for key, value in part.values(weights).items()}

    found = percentile_intervals(
        statistic,
        len(groups),
        groups=groups,
        replicates=config.replicates,
        confidence=config.confidence,
        seed=config.seed,
    )
    return found, len(set(groups))


def _row(
    key: Key, value: float | None, number: int, interval: Interval | None, groups: int | None, replicates: int
) -> dict[str, Any]:
    row: dict[str, Any] = {**key._asdict(), "value": value, "n": number}
    row |= {"ci_low": None, "ci_high": None, "undefined": None, "replicates": None, "groups": None}
    if interval is not None:
        row |= {"undefined": interval.undefined, "replicates": replicates, "groups": groups}
        if value is not None:
            row |= {"ci_low": interval.low, "ci_high": interval.high}
    return row


def curves(scene: Scene, pools: Pools, make: Callable[[Pool], Steps]) -> Part:
    """AP at IoU 0.5, recall at false positives, FROC score; `make` is `Steps.of` for replicates, `Steps.exact` else."""
    classes = {name: make(pool) for name, pool in pools.classes.items()}
    everything, abnormal = make(pools.agnostic), make(pools.abnormal)
    config = scene.config
    allowed = config.false_positives, config.false_positives_per_slide, config.false_positives_per_mm2
    rates = dict(zip(UNITS, allowed, strict=True))
    known = {unit: extent for unit in UNITS if (extent := extents(scene.truths, unit)) is not None}

    def froc(label: str, steps: Steps, climbed: tuple[Floats, Floats], weights: Floats) -> Values:
        right, wrong = climbed
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
        climbed = {name: steps.climb(weights) for name, steps in classes.items()}
        found: Values = {Key("ap50", name, 0.5): _ap(classes[name], climbed[name], weights) for name in classes}
        found[Key("ap50", MEAN, 0.5)] = mean(found.values())
        found[Key("ap50", AGNOSTIC, 0.5)] = _ap(everything, everything.climb(weights), weights)
        found |= froc(ABNORMAL, abnormal, abnormal.climb(weights), weights)
        for name, steps in classes.items():
            found |= froc(name, steps, climbed[name], weights)
        return found

    counts = pools.counts()
    return Part(values, lambda key: counts.get(key.label, counts[AGNOSTIC]))


def _ap(steps: Steps, climbed: tuple[Floats, Floats], weights: Floats) -> float | None:
    cells = float(steps.cells @ weights)
    right, wrong = climbed
    return interpolated(right, right + wrong, cells) if cells else None


def _fixed(scene: Scene, columns: Columns) -> dict[Key, tuple[float | None, int]]:
    """Figures without interval, and the cells each is about: COCO's AP, by size, by frequency in training."""
    config = scene.config
    by_class = ask(columns, {name: {name} for name in scene.classes}, limit=config.max_detections)
    as_one = ask(columns, {AGNOSTIC: columns.names}, merge=True, limit=config.max_detections)
    ranges: list[tuple[str | None, Within | None]] = [(None, None)]
    ranges += ranges_of(columns, scene.truths, config.size_ranges_um).items()
    found: dict[Key, tuple[float | None, int]] = {}
    for subset, within in ranges:
        values, counts = coco_ap(by_class, within), _counts(columns, scene.classes, within)
        total = sum(counts.values())
        found |= {Key("ap", name, None, subset): (value, counts[name]) for name, value in values.items()}
        found[Key("ap", MEAN, None, subset)] = mean(values.values()), total
        found[Key("ap", AGNOSTIC, None, subset)] = coco_ap(as_one, within)[AGNOSTIC], total
        if within is not None:
            half = (average_precision(pool) for pool in by_class.pools(0.5, within).values())
            found[Key("ap50", MEAN, 0.5, subset)] = mean(half), total
    return found | _by_frequency(scene, found)


def _by_frequency(scene: Scene, found: Mapping[Key, tuple[float | None, int]]) -> dict[Key, tuple[float | None, int]]:
    training, limits = scene.config.training_counts, (scene.config.rare_up_to, scene.config.common_up_to)
    if not training:
        return {}
    plain = {name: found[Key("ap", name)] for name in scene.classes}
    values = by_frequency({name: value for name, (value, _) in plain.items()}, training, limits)
    groups = frequency_groups(training, limits)
    return {
        Key("ap", MEAN, None, group): (value, sum(n for name, (_, n) in plain.items() if groups.get(name) == group))
        for group, value in values.items()
    }


def _counts(columns: Columns, classes: Sequence[str], within: Within | None) -> dict[str, int]:
    """Cells of each class, of the sizes that count."""
    cells = columns.cells
    asked = cells.label >= 0 if within is None else (cells.label >= 0) & ~within.outside(within.cells)
    number = np.bincount(cells.label[asked], minlength=len(columns.names)).tolist()
    known = dict(zip(columns.names, number, strict=True))
    return {name: known.get(name, 0) for name in classes}
