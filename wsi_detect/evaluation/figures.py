"""One matching for the plain questions, and their figures under the flat keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.average_precision import average_precision, mean
from wsi_detect.evaluation.columns import Columns, lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.froc import recall_at
from wsi_detect.evaluation.matching import Pool, ask
from wsi_detect.evaluation.settings import EvaluationConfig
from wsi_detect.taxonomy import CLASSES, is_abnormal

ABNORMAL = "any_abnormal"
AGNOSTIC = "agnostic"
MEAN = "mean"

__all__ = ["ABNORMAL", "AGNOSTIC", "MEAN", "EvaluationConfig", "Pools", "make_pools", "pools_of", "recall_key"]


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
    columns = lay_out(predictions, truths, merge_iou)
    return pools_of(columns, classes)


def pools_of(columns: Columns, classes: Sequence[str], limit: int | None = None) -> Pools:
    """Do what `make_pools` does with columns; `limit` is the most detections of an image and a group that count."""
    abnormal = {name for name in CLASSES if is_abnormal(name)}
    every = ask(columns, {AGNOSTIC: columns.names}, merge=True, limit=limit)
    return Pools(
        ask(columns, {name: {name} for name in classes}, limit=limit).pools(),
        every.pools()[AGNOSTIC],
        ask(columns, {ABNORMAL: abnormal}, merge=True, limit=limit).pools()[ABNORMAL],
    )
