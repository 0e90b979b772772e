"""All figures of one evaluation, with their intervals, under the flat keys every report of this package uses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect.config import Config
from wsi_detect.evaluation.average_precision import average_precision, mean
from wsi_detect.evaluation.bootstrap import Interval, percentile_intervals
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth, paired
from wsi_detect.evaluation.froc import recall_at
from wsi_detect.evaluation.matching import Pool, merge_labels, pool
from wsi_detect.taxonomy import CLASSES, is_abnormal

ABNORMAL = "any_abnormal"
AGNOSTIC = "agnostic"
MEAN = "mean"


class EvaluationConfig(Config):
    """How to evaluate.

    Attributes:
        merge_iou: boxes of different classes that overlap so much mean one cell, where the class does not matter.
        false_positives: per image, at which the recall of abnormal cells is read.
        replicates: of the bootstrap; 0 for no intervals.
        confidence: of the intervals.
        seed: of the bootstrap.
        rescale: images and boxes are resized by this factor before the detector sees them.
    """

    merge_iou: float = Field(default=0.5, gt=0, le=1)
    false_positives: tuple[float, ...] = (1.0, 4.0)
    replicates: int = Field(default=1000, ge=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    seed: int = 0
    rescale: float = Field(default=1.0, gt=0.05, lt=20)


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """One matching for every question asked.

    Attributes:
        classes: each class by itself, name → detections and cells of that class.
        agnostic: all cells as one class.
        abnormal: cells and detections of abnormal classes as one class.
    """

    classes: dict[str, Pool]
    agnostic: Pool
    abnormal: Pool

    def counts(self) -> dict[str, int]:
        """Cells of each class in the truth, and of all abnormal ones."""
        return {name: found.n_cells for name, found in self.classes.items()} | {
            AGNOSTIC: self.agnostic.n_cells,
            ABNORMAL: self.abnormal.n_cells,
        }

    def figures(
        self, false_positives: Sequence[float], weights: NDArray[np.floating] | None = None
    ) -> dict[str, float | None]:
        """Every figure under its key.

        Args:
            false_positives: per image, for the recall of abnormal cells.
            weights: (F,) how often each image counts; None counts each once.
        """
        result = {f"ap50/{name}": average_precision(found, weights) for name, found in self.classes.items()}
        result[f"ap50/{MEAN}"] = mean(result.values())
        result[f"ap50/{AGNOSTIC}"] = average_precision(self.agnostic, weights)
        for allowed in false_positives:
            result[recall_key(allowed)] = recall_at(self.abnormal, allowed, weights)
        return result


def recall_key(false_positives: float) -> str:
    """Key of the recall of abnormal cells at so many false positives per image."""
    return f"recall@{false_positives:g}fppi/{ABNORMAL}"


def make_pools(
    predictions: Sequence[FieldPrediction], truths: Sequence[FieldTruth], classes: Sequence[str], merge_iou: float
) -> Pools:
    """Match predictions to truth for each class, for all cells, and for the abnormal ones.

    Where the class does not decide, the labels of one cell are merged first (`matching.merge_labels`). The score that
    calls a cell abnormal is that of its best abnormal label, also where NILM scored higher: the question is at which
    threshold the cell is shown, not what it would be called.
    """
    ordered = paired(predictions, truths)
    abnormal = {name for name in CLASSES if is_abnormal(name)}
    suspects = [found.take(np.flatnonzero([name in abnormal for name in found.labels])) for found in ordered]
    return Pools(
        {name: pool(ordered, truths, {name}) for name in classes},
        pool([merge_labels(found, merge_iou) for found in ordered], truths),
        pool([merge_labels(found, merge_iou) for found in suspects], truths, abnormal),
    )


def with_intervals(
    values: Mapping[str, float | None], pools: Pools, config: EvaluationConfig
) -> dict[str, tuple[float | None, Interval]]:
    """Add the interval of each figure; the mean of a replicate is over the classes drawn into it."""

    def statistic(weights: NDArray[np.float64]) -> dict[str, float | None]:
        return pools.figures(config.false_positives, weights)

    intervals = _bootstrap(statistic, len(pools.agnostic.cells), config)
    nothing = Interval(None, None, 0)
    return {name: (value, intervals.get(name, nothing)) for name, value in values.items()}


def _bootstrap(
    statistic: Callable[[NDArray[np.float64]], dict[str, float | None]], images: int, config: EvaluationConfig
) -> dict[str, Interval]:
    return percentile_intervals(
        statistic, images, replicates=config.replicates, confidence=config.confidence, seed=config.seed
    )
