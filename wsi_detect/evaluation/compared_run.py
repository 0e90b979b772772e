"""One side of a comparison: the figures of a run, by names that the other run's figures have too."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.calibration import Temperature, Temperatures
from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.fields import paired
from wsi_detect.evaluation.figures import pools_of
from wsi_detect.evaluation.groups import groups_of
from wsi_detect.evaluation.judgements import Choices, judgements
from wsi_detect.evaluation.parts import Key, Part, Scene
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.rois import keep_inside
from wsi_detect.evaluation.scores import curves
from wsi_detect.evaluation.slide_level import OperatingPoint
from wsi_detect.evaluation.splits import Split
from wsi_detect.evaluation.steps import Steps

#: Metrics of which there are several, at different thresholds; of the others, runs may have it at another one.
_MANY = ("recall", "hit")


@dataclass(frozen=True, slots=True, eq=False)
class ComparedRun:
    """A run, matched once, to be read under any weights of its images.

    Attributes:
        images: F.
        exact: parts to read the figures themselves from.
        coarse: parts to read replicates from.
    """

    images: int
    exact: tuple[Part, ...]
    coarse: tuple[Part, ...]

    @classmethod
    def of(cls, run: EvaluationRun, like: EvaluationRun, classes: Sequence[str]) -> "ComparedRun":
        """Match a run.

        Args:
            run: to be compared.
            like: the run whose images come in the order that is wanted, and whose configuration is used; only
                `min_score` and `slide_rule` are the run's own.
            classes: to report.
        """
        own = {name: getattr(run.config, name) for name in ("min_score", "slide_rule")}
        config = like.config.model_copy(update=own)
        predictions, truths = keep_inside(paired(run.predictions, like.truths), like.truths)
        scene = Scene(predictions, truths, classes, config, lay_out(predictions, truths, config.merge_iou))
        pools = pools_of(scene.columns, classes, config.max_detections)
        split = Split.of(str(run.about.get("data", "")), groups_of(truths)[1])
        others = judgements(scene, pools, split, _choices(run))
        made = (curves(scene, pools, make) for make in (Steps.exact, Steps.of))
        exact, coarse = ((part, *others) for part in made)
        return cls(len(truths), exact, coarse)

    def values(self) -> dict[str, float | None]:
        """Return every figure under its name."""
        return _named(self.exact, np.ones(self.images))

    def replicate(self, weights: NDArray[np.float64]) -> dict[str, float | None]:
        """Return every figure with each image counted as often as (F,) weights say."""
        return _named(self.coarse, weights)


def name_of(key: Key) -> str:
    """Name of a figure: metric, what it is about, and per what it counts, such as `recall@4/any_abnormal/field`.

    The threshold is part of the name only where there are several.
    """
    metric = f"{key.metric}@{key.threshold:g}" if key.metric in _MANY else key.metric
    return "/".join(filter(None, (metric, key.label, key.subset, key.unit)))


def _named(parts: Sequence[Part], weights: NDArray[np.float64]) -> dict[str, float | None]:
    return {name_of(key): value for part in parts for key, value in part.values(weights).items()}


def _choices(run: EvaluationRun) -> Choices | None:
    """Return what was chosen for a run; that it was chosen on another split was checked when it was evaluated."""
    chosen = run.about.get("chosen")
    if not chosen:
        return None
    split, threshold = Split.of(str(chosen["split"]), []), chosen["threshold"]
    point = None if threshold is None else OperatingPoint(split, run.config.slide_rule, float(threshold))
    values = {name: Temperature(float(value), 0, 0, False) for name, value in chosen["temperatures"].items()}
    return Choices(split, point, Temperatures(split, values))
