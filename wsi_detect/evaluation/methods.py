"""Methods against a baseline on the same out-of-fold fields: what was reached, how sure it is, what could be seen.

Every method is read on the same fields, with the same seeds as the baseline, and all are resampled together. Seeds are
averaged, not resampled: an interval says how figures vary with the fields, not with the luck of a training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.bootstrap import Interval, Statistic, paired_replicates, percentile_interval
from wsi_detect.evaluation.compare import ComparisonConfig, Difference, difference, with_holm
from wsi_detect.evaluation.matching import Pool
from wsi_detect.evaluation.out_of_fold import MACRO, Endpoints, OutOfFold, endpoint_figures

Seeds = Mapping[int, OutOfFold]
_Columns = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class MethodFigures:
    """One method.

    Attributes:
        name: of the method.
        figures: endpoint → mean over its seeds, None where undefined.
        intervals: endpoint → interval of that mean.
        by_seed: seed → endpoint → value.
        shared: seeds it has in common with the baseline: those of the differences.
        differences: endpoint → method minus baseline over the shared seeds; empty for the baseline itself. Holm's
            adjustment is over methods, within an endpoint.
    """

    name: str
    figures: Mapping[str, float | None]
    intervals: Mapping[str, Interval]
    by_seed: Mapping[int, Mapping[str, float | None]]
    shared: tuple[int, ...]
    differences: Mapping[str, Difference]


def compare_methods(
    methods: Mapping[str, Seeds],
    baseline: str,
    classes: Sequence[str],
    endpoints: Endpoints,
    groups: Mapping[str, int],
    config: ComparisonConfig,
) -> list[MethodFigures]:
    """Compare methods.

    Args:
        methods: name → seed → detections of all fields, out of fold; a method without a seed is left out.
        baseline: one of the names; without a seed of it there are no differences.
        classes: over which the macro average runs.
        endpoints: the questions.
        groups: field → number of the patient, slide or field that is resampled.
        config: replicates, seed, confidence and power.

    Raises:
        LabelError: methods were read on other fields, or other cells.
    """
    known = {name: seeds for name, seeds in methods.items() if seeds}
    runs = {(name, seed): found for name, seeds in known.items() for seed, found in seeds.items()}
    if not runs:
        return []
    _check_same_fields(list(runs.values()))
    statistics = [_statistic(found.pools(), classes, endpoints) for found in runs.values()]
    fields = next(iter(runs.values())).fields
    drawn = paired_replicates(
        statistics, [groups[name] for name in fields], replicates=config.replicates, seed=config.seed
    )
    once = np.ones(len(fields))
    values = {key: statistic(once) for key, statistic in zip(runs, statistics, strict=True)}
    columns = dict(zip(runs, drawn, strict=True))
    rows = [
        _row(name, seeds, known.get(baseline, {}), baseline, (values, columns), config) for name, seeds in known.items()
    ]
    return _with_holm_over_methods(rows)


def _statistic(pools: Mapping[str, Pool], classes: Sequence[str], endpoints: Endpoints) -> Statistic:
    return lambda weights: endpoint_figures(pools, classes, endpoints, weights)


def _row(
    name: str,
    seeds: Seeds,
    others: Seeds,
    baseline: str,
    read: tuple[Mapping[tuple[str, int], Mapping[str, float | None]], Mapping[tuple[str, int], _Columns]],
    config: ComparisonConfig,
) -> MethodFigures:
    values, columns = read
    mine = [(name, seed) for seed in seeds]
    figures = list(values[mine[0]])
    shared = tuple(seed for seed in seeds if seed in others)
    differences = {}
    for figure in figures if name != baseline and shared else ():
        a, b = ([(who, seed) for seed in shared] for who in (baseline, name))
        pair = _mean([values[key][figure] for key in a]), _mean([values[key][figure] for key in b])
        gap = _column(columns, b, figure) - _column(columns, a, figure)
        differences[figure] = difference(figure, pair, gap, config)
    return MethodFigures(
        name,
        {figure: _mean([values[key][figure] for key in mine]) for figure in figures},
        {figure: percentile_interval(_column(columns, mine, figure), config.confidence) for figure in figures},
        {seed: values[name, seed] for seed in seeds},
        shared,
        differences,
    )


def _with_holm_over_methods(rows: Sequence[MethodFigures]) -> list[MethodFigures]:
    adjusted: dict[str, dict[str, Difference]] = {row.name: {} for row in rows}
    for figure in dict.fromkeys(figure for row in rows for figure in row.differences):
        those = [row for row in rows if figure in row.differences]
        for row, found in zip(those, with_holm([row.differences[figure] for row in those]), strict=True):
            adjusted[row.name][figure] = found
    return [
        MethodFigures(row.name, row.figures, row.intervals, row.by_seed, row.shared, adjusted[row.name]) for row in rows
    ]


def _check_same_fields(runs: Sequence[OutOfFold]) -> None:
    first = runs[0]
    for other in runs[1:]:
        same = other.fields == first.fields and set(other.cells) == set(first.cells)
        if not same or any((other.cells[name] != first.cells[name]).any() for name in first.cells):
            raise LabelError("methods were not read on the same fields and cells; they cannot be compared")


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _column(
    columns: Mapping[tuple[str, int], _Columns], keys: Sequence[tuple[str, int]], figure: str
) -> NDArray[np.float64]:
    nothing = np.zeros(0)
    return np.asarray(np.mean([columns[key].get(figure, nothing) for key in keys], axis=0))


__all__ = ["MACRO", "MethodFigures", "Seeds", "compare_methods"]
