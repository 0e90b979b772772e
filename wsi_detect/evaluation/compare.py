"""Run A against run B on the same images: differences of figures, how sure they are, what could have been seen.

Both runs are resampled together (Efron and Tibshirani 1993, chapter 16): a replicate draws groups of images once, and
both runs are read on them, so that what makes a slide hard for both does not count as noise. The share of replicates on
the other side of no difference, doubled, is read like a p-value; Holm (1979) makes it hold for all figures at once.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect import __version__, artifact
from wsi_detect.config import Config
from wsi_detect.errors import ConfigError
from wsi_detect.evaluation.bootstrap import paired_replicates, percentile_interval
from wsi_detect.evaluation.compared_run import ComparedRun
from wsi_detect.evaluation.groups import Unit, groups_of
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.same_truth import check_same_truth
from wsi_detect.schema import COMPARISON
from wsi_detect.taxonomy import gravest_first

JSON_FILE = "comparison.json"
TABLE_FILE = "comparison.parquet"
#: Metrics that are better when lower.
LOWER_IS_BETTER = ("cost", "ece", "brier")
#: 1 - 0.95 is not 0.05 to the last digit.
_ROUNDING = 1e-9


class ComparisonConfig(Config):
    """How to compare.

    Attributes:
        figures: patterns of the figures to compare, such as `ap50/*` or `recall@*/HSIL/*`; `compared_run.name_of` says
            how figures are called. The fewer, the more can be told of each.
        unit: resample patients, slides or fields; the largest unit known of all images, if not given.
        replicates: of the bootstrap.
        confidence: of the intervals; 1 minus it is what the share of a sure difference does not exceed after Holm.
        power: chance with which the smallest detectable difference would be seen.
        seed: of the bootstrap.
    """

    figures: tuple[str, ...] = (
        "ap50/*",
        "recall@*/any_abnormal/*",
        "froc/any_abnormal/*",
        "hit@*",
        "cost/*",
        "auc/*",
        "kappa/*",
        "sensitivity/*",
        "specificity/*",
    )
    unit: Unit | None = None
    replicates: int = Field(default=2000, ge=1)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    power: float = Field(default=0.8, gt=0, lt=1)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two runs; None where it is not defined.

    Attributes:
        figure: its key.
        first: of run A.
        second: of run B.
        difference: B minus A.
        ci_low: lower end of the interval of the difference.
        ci_high: upper end.
        share: of replicates on the far side of 0, doubled, in (0, 1]; small where the difference is sure.
        holm: the share, adjusted for all figures compared.
        detectable: smallest true difference that would be seen with the configured power, by the spread of the
            replicates; None where they do not vary.
        undefined: replicates in which a run had no value.
    """

    figure: str
    first: float | None
    second: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    share: float | None
    holm: float | None
    detectable: float | None
    undefined: int

    def better(self, confidence: float) -> str | None:
        """Return the run that is better, `A` or `B`; None where that is not sure."""
        if not self.difference or self.holm is None or self.holm > 1 - confidence + _ROUNDING:
            return None
        return "B" if (self.difference > 0) != self.figure.startswith(LOWER_IS_BETTER) else "A"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run A against run B.

    Attributes:
        differences: one a figure.
        images: both were evaluated on.
        unit: what was resampled.
        groups: how many of it.
        config: how they were compared.
        about: what was evaluated, of run A and of run B.
    """

    differences: tuple[Difference, ...]
    images: int
    unit: Unit
    groups: int
    config: ComparisonConfig
    about: tuple[dict[str, Any], dict[str, Any]]

    def write(self, folder: Path) -> Path:
        """Write `comparison.parquet` (rows of `schema.COMPARISON`) and `comparison.json`; gives the path of the latter.

        The JSON of another comparison is taken away first and the new one written last: where there is one, both fit.

        Raises:
            OutputBusyError: another run is writing there.
        """
        rows = [asdict(difference) for difference in self.differences]
        counts = {"replicates": self.config.replicates, "groups": self.groups}
        content = {
            "about": {"A": self.about[0], "B": self.about[1]},
            "images": self.images,
            "unit": self.unit,
            "groups": self.groups,
            "config": self.config.model_dump(mode="json"),
            "differences": rows,
            "version": __version__,
        }
        with artifact.lock(folder):
            (folder / JSON_FILE).unlink(missing_ok=True)
            table = artifact.table_of([{**row, **counts} for row in rows], COMPARISON)
            artifact.write_table(folder / TABLE_FILE, table, COMPARISON, {"unit": self.unit})
            artifact.write_json(folder / JSON_FILE, content)
        return folder / JSON_FILE


def compare_runs(first: EvaluationRun, second: EvaluationRun, config: ComparisonConfig | None = None) -> Comparison:
    """Compare two evaluations of the same truth.

    Both are read by the configuration of run A; `min_score`, `slide_rule` and the operating point that was chosen are
    each run's own. A figure that only one of them has is left out.

    Args:
        first: run A.
        second: run B.
        config: how to compare.

    Raises:
        LabelError: the truths differ, the first difference named; or the unit asked for is not known of every image.
        ConfigError: no figure has such a name.
    """
    config = config or ComparisonConfig()
    check_same_truth(first.truths, second.truths)
    unit, groups = groups_of(first.truths, config.unit)
    classes = _classes(first, second)
    sides = [ComparedRun.of(run, first, classes) for run in (first, second)]
    exact = [side.values() for side in sides]
    both = [name for name in exact[0] if name in exact[1]]
    names = [name for name in both if any(fnmatchcase(name, pattern) for pattern in config.figures)]
    if not names:
        metrics = ", ".join(dict.fromkeys(f"{name.partition('/')[0]}/…" for name in both))
        raise ConfigError(f"no figure is called {', '.join(config.figures)}; there are {metrics}")
    drawn = paired_replicates(
        [side.replicate for side in sides], groups, replicates=config.replicates, seed=config.seed
    )
    nothing = np.zeros(0)
    found = []
    for name in names:
        a, b = (side.get(name, nothing) for side in drawn)
        found.append(difference(name, (exact[0][name], exact[1][name]), b - a, config))
    about = (dict(first.about), dict(second.about))
    return Comparison(tuple(with_holm(found)), len(first.truths), unit, len(set(groups)), config, about)


def holm(shares: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down procedure; in the order given."""
    order = np.argsort(shares, kind="stable")
    factors = np.arange(len(shares), 0, -1)
    stepped = np.minimum(np.maximum.accumulate(np.asarray(shares, np.float64)[order] * factors), 1.0)
    result = np.empty(len(shares))
    result[order] = stepped
    return [float(value) for value in result]


def fewest_replicates(figures: int, confidence: float) -> int:
    """How many replicates it takes for a difference that shows in every one to be sure among so many figures."""
    return max(math.ceil(2 * figures / (1 - confidence) - 1 - _ROUNDING), 1)


def _classes(*runs: EvaluationRun) -> list[str]:
    """Every class that a run can answer with, or that is there."""
    names = {name for run in runs for name in run.classes}
    names |= {name for run in runs for found in run.predictions for name in found.labels}
    return gravest_first(names | {name for truth in runs[0].truths for name in truth.labels})


def difference(
    figure: str, values: tuple[float | None, float | None], drawn: NDArray[np.float64], config: ComparisonConfig
) -> Difference:
    """One figure of two runs, before Holm.

    Args:
        figure: its key.
        values: of run A and of run B.
        drawn: (R,) B minus A in each replicate, NaN where one of them has no value.
        config: its confidence and power are used.
    """
    first, second = values
    known = drawn[~np.isnan(drawn)]
    undefined = len(drawn) - len(known)
    if first is None or second is None or not len(known):
        gap = None if first is None or second is None else second - first
        return Difference(figure, first, second, gap, None, None, None, None, None, undefined)
    interval = percentile_interval(drawn, config.confidence)
    # Both counted with one more, so that a finite number of replicates never says never (Davison and Hinkley 1997).
    share = min(1.0, 2 * (1 + min(int((known <= 0).sum()), int((known >= 0).sum()))) / (len(known) + 1))
    normal = NormalDist()
    reach = normal.inv_cdf((1 + config.confidence) / 2) + normal.inv_cdf(config.power)
    spread = float(known.std(ddof=1)) if len(known) > 1 else 0.0
    detectable = reach * spread if spread else None
    return Difference(
        figure, first, second, second - first, interval.low, interval.high, share, None, detectable, undefined
    )


def with_holm(found: Sequence[Difference]) -> list[Difference]:
    """Differences with their shares adjusted for the number of those that have one."""
    shares = [entry.share for entry in found if entry.share is not None]
    adjusted = iter(holm(shares))
    return [entry if entry.share is None else replace(entry, holm=next(adjusted)) for entry in found]
