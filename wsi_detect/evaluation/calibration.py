"""Whether a score of 0.7 is right seven times in ten, and a temperature for each class that makes it so.

A detection's score is held against whether it has found a cell (`matching.Pool`). Cells nobody found have no score and
take no part: calibration says how far to trust what is shown, not what is missing.

Naeini et al. 2015 (expected and maximum calibration error), Guo et al. 2017 (temperature scaling), Brier 1950.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import NonFiniteError
from wsi_detect.evaluation.fields import FieldPrediction
from wsi_detect.evaluation.matching import Pool
from wsi_detect.evaluation.splits import Split, check_apart

#: Temperatures are looked for between these: further out a score says next to nothing, or all.
COLDEST, HOTTEST = 0.05, 20.0
#: While fitting, scores are kept half a last digit of float32 away from 0 and 1, where a logit is not finite.
_MARGIN = 2.0**-24


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """A reliability curve. A score on an edge belongs to the lower bin, 0 to the lowest.

    Attributes:
        edges: (B + 1,) ascending; bins of equal mass can be empty where scores are tied.
        count: (B,) detections in each bin, as often as drawn.
        mean_score: (B,) NaN in an empty bin.
        hit_share: (B,) share that has found a cell, NaN in an empty bin.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.float64]
    mean_score: NDArray[np.float64]
    hit_share: NDArray[np.float64]

    @property
    def ece(self) -> float | None:
        """Expected calibration error, in [0, 1]; None without a detection."""
        filled = self.count > 0
        return float(np.average(self._gaps[filled], weights=self.count[filled])) if filled.any() else None

    @property
    def mce(self) -> float | None:
        """Maximum calibration error over the bins that are not empty; None without a detection."""
        filled = self.count > 0
        return float(self._gaps[filled].max()) if filled.any() else None

    @property
    def _gaps(self) -> NDArray[np.float64]:
        return np.abs(self.mean_score - self.hit_share)


def reliability(
    pool: Pool,
    bins: int = 10,
    equal: Literal["width", "mass"] = "width",
    weights: NDArray[np.floating] | None = None,
) -> Reliability:
    """Reliability curve of pooled detections.

    Args:
        pool: matched detections, scores in [0, 1].
        bins: how many.
        equal: what bins have in common: their width, or how many detections they hold. The edges are those of the
            pool as it is, so that replicates of a bootstrap share them.
        weights: (F,) how often each image counts; None counts each once.

    Raises:
        NonFiniteError: a score is not in [0, 1].
    """
    _check_scores(pool.scores)
    steps = np.linspace(0.0, 1.0, bins + 1)
    edges = np.quantile(pool.scores, steps) if equal == "mass" and len(pool.scores) else steps
    where = np.searchsorted(edges[1:-1], pool.scores)
    often = np.ones(len(pool.scores)) if weights is None else weights[pool.image]
    count, scores, hits = (
        np.bincount(where, weights=often * values, minlength=bins).astype(np.float64)
        for values in (1.0, pool.scores, pool.hits)
    )
    empty = np.full(bins, np.nan)
    filled = count > 0
    return Reliability(
        edges,
        count,
        np.divide(scores, count, out=empty.copy(), where=filled),
        np.divide(hits, count, out=empty, where=filled),
    )


def brier(pool: Pool, weights: NDArray[np.floating] | None = None) -> float | None:
    """Mean squared distance of score and hit, in [0, 1]; None without a detection. Arguments as in `reliability`."""
    _check_scores(pool.scores)
    often = np.ones(len(pool.scores)) if weights is None else weights[pool.image]
    total = often.sum()
    return float(often @ (pool.scores - pool.hits) ** 2 / total) if total else None


@dataclass(frozen=True, slots=True)
class Temperature:
    """The temperature of one class.

    Attributes:
        value: scores s become s' with logit s' = logit s / value; above 1 the model was too sure.
        detections: it was fitted on.
        hits: those of them that have found a cell.
        at_limit: the best one lies outside [COLDEST, HOTTEST]: 0.5 separates hits from false alarms perfectly, or the
            scores say nothing about them.
    """

    value: float
    detections: int
    hits: int
    at_limit: bool


@dataclass(frozen=True, slots=True)
class Temperatures:
    """Temperatures of classes, and where they come from.

    Attributes:
        split: they were fitted on.
        classes: name → temperature; a class that had no hit or no false alarm, or only scores of 0.5, is not there, and
            its scores stay.
    """

    split: Split
    classes: dict[str, Temperature]

    def apply(self, prediction: FieldPrediction, classes: Sequence[str] = ()) -> FieldPrediction:
        """Return the detections of one image with scores at these temperatures.

        The order within a class stays, between classes it can change.

        Args:
            prediction: of a detector.
            classes: names of the columns of `class_scores`; needed where it has them.

        Raises:
            ValueError: `class_scores` has another number of columns.
        """
        scores = np.asarray(prediction.scores, np.float64)
        changed = replace(prediction, scores=_scaled(scores, self._values(prediction.labels)))
        if prediction.class_scores is None:
            return changed
        if prediction.class_scores.shape[1] != len(classes):
            raise ValueError(f"{prediction.class_scores.shape[1]} columns of class scores, {len(classes)} classes")
        return replace(changed, class_scores=_scaled(prediction.class_scores, self._values(classes)))

    def _values(self, names: Sequence[str]) -> NDArray[np.float64]:
        known = self.classes
        return np.array([known[name].value if name in known else 1.0 for name in names], np.float64)


def fit_temperatures(pools: Mapping[str, Pool], split: Split) -> Temperatures:
    """Fit a temperature to each class by maximum likelihood of its detections' being hits.

    The likelihood is concave in 1/T, so its slope has one zero, which is found by halving.

    Args:
        pools: class → its matched detections.
        split: they are of.

    Raises:
        NonFiniteError: a score is not in [0, 1].
    """
    return Temperatures(split, {name: _fit(pool) for name, pool in pools.items() if _tells(pool)})


def calibrated(
    pools: Mapping[str, Pool], temperatures: Temperatures, split: Split, *, same_split: bool = False
) -> dict[str, Pool]:
    """Return the pools of a split with scores at temperatures fitted on another.

    Args:
        pools: class → its matched detections.
        temperatures: of `fit_temperatures`.
        split: the pools are of.
        same_split: allow the split the temperatures were fitted on; what is read there flatters.

    Raises:
        LabelError: the two splits are the same or share a member, and nobody allowed it.
    """
    if not same_split:
        check_apart(temperatures.split, split, "the temperature")
    known = temperatures.classes
    return {
        name: replace(pool, scores=_scaled(pool.scores, known[name].value)) if name in known else pool
        for name, pool in pools.items()
    }


def _tells(pool: Pool) -> bool:
    _check_scores(pool.scores)
    return bool(pool.hits.any() and not pool.hits.all() and (pool.scores != 0.5).any())


def _fit(pool: Pool) -> Temperature:
    inside = np.clip(pool.scores, _MARGIN, 1 - _MARGIN)
    logits = np.log(inside) - np.log1p(-inside)

    def slope(log_temperature: float) -> float:
        chance = 1 / (1 + np.exp(-logits * np.exp(-log_temperature)))
        return float(logits @ (chance - pool.hits))

    # The slope of the negative log-likelihood in 1/T: positive where T is too cold, negative where it is too hot.
    cold, hot = np.log(COLDEST), np.log(HOTTEST)
    at_limit = slope(cold) <= 0 or slope(hot) >= 0
    while not at_limit and hot - cold > 1e-12:
        middle = (cold + hot) / 2
        cold, hot = (middle, hot) if slope(middle) > 0 else (cold, middle)
    value = (COLDEST if slope(cold) <= 0 else HOTTEST) if at_limit else float(np.exp((cold + hot) / 2))
    return Temperature(value, len(pool.hits), int(pool.hits.sum()), at_limit)


def _scaled(scores: NDArray[np.float64], temperature: float | NDArray[np.float64]) -> NDArray[np.float64]:
    # The sigmoid of the divided logit without a logarithm, so that 0 and 1 stay what they are.
    yes, no = scores ** (1 / temperature), (1 - scores) ** (1 / temperature)
    return np.asarray(yes / (yes + no), np.float64)


def _check_scores(scores: NDArray[np.float64]) -> None:
    if not ((scores >= 0) & (scores <= 1)).all():
        raise NonFiniteError("a score is not in [0, 1]; calibration is about probabilities")
