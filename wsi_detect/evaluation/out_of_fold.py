"""What a cross-validation keeps of a fold: per field and question the scores of all detections and which were right.

Enough to read every figure again under any weights of the fields, as a paired bootstrap does, and a fiftieth of the
boxes it came from. Scores are kept to four digits, and figures are always read from what is kept, so that a figure of
today and one from a file of last week are the same number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wsi_detect.config import Config
from wsi_detect.errors import DamagedArtifactError, LabelError
from wsi_detect.evaluation.average_precision import average_precision
from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import ABNORMAL, recall_key
from wsi_detect.evaluation.froc import recall_at
from wsi_detect.evaluation.matching import Pool, ask
from wsi_detect.taxonomy import CLASSES, is_abnormal

#: The declared primary endpoint: mean of AP50 over all classes, each on the detections of all fields together.
MACRO = "macro_ap50"
#: A score is kept as a whole number of these.
_STEPS = 10_000


class Endpoints(Config):
    """What is read from out-of-fold detections.

    Attributes:
        groups: name → classes looked at as one class, each with an AP50 of its own.
        false_positives: per field, at which the recall of abnormal cells is read.
        merge_iou: boxes of different classes that overlap so much mean one cell, within a group and among abnormal
            classes.
        detections_per_field: that count, those that score highest.
        rare_fields: a class that occurs in at most so many fields is given as counts only.
        rare_false_positives: of that class per field, allowed where its cells are counted.
    """

    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    false_positives: tuple[float, ...] = (1.0, 4.0)
    merge_iou: float = Field(default=0.5, gt=0, le=1)
    detections_per_field: int = Field(default=100, ge=1)
    rare_fields: int = Field(default=10, ge=0)
    rare_false_positives: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _groups_are_new_names(self) -> "Endpoints":
        members = [name for group in self.groups.values() for name in group]
        taken = sorted(set(self.groups) & {*CLASSES, ABNORMAL})
        if taken or len(set(members)) < len(members) or not set(members) <= set(CLASSES):
            raise ValueError("groups: new names, each for classes of the taxonomy, no class in two of them")
        return self


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """Matched detections of fields, by question: every class, every group of classes, all abnormal ones.

    Attributes:
        fields: (F,) ids.
        cells: question → (F,) cells to be found in each field.
        scores: question → for each field the scores of its detections, descending, in ten-thousandths; one that found
            a cell as it is, any other as its negative.
    """

    fields: tuple[str, ...]
    cells: Mapping[str, NDArray[np.int64]]
    scores: Mapping[str, tuple[NDArray[np.int64], ...]]

    def to_json(self) -> dict[str, Any]:
        """Plain values: a text a field, since a line a number would be five times as long."""
        found = {name: [" ".join(map(str, one)) for one in fields] for name, fields in self.scores.items()}
        cells = {name: " ".join(map(str, numbers)) for name, numbers in self.cells.items()}
        return {"fields": list(self.fields), "cells": cells, "scores": found}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "OutOfFold":
        """Read what `to_json` gave.

        Raises:
            DamagedArtifactError: something is missing, or fields and numbers do not go together.
        """
        try:
            fields = tuple(map(str, content["fields"]))
            cells = {name: _numbers(text) for name, text in content["cells"].items()}
            scores = {name: tuple(map(_numbers, texts)) for name, texts in content["scores"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedArtifactError(f"not a record of out-of-fold detections: {error!r}") from error
        lengths = {*map(len, cells.values()), *map(len, scores.values())}
        if set(cells) != set(scores) or lengths - {len(fields)}:
            raise DamagedArtifactError("a record of out-of-fold detections contradicts itself")
        return cls(fields, cells, scores)

    def pools(self) -> dict[str, Pool]:
        """Detections of each question in one order, from the highest score down, as metrics take them."""
        return {name: _pool(self.scores[name], self.cells[name]) for name in self.scores}


def out_of_fold(
    predictions: Sequence[FieldPrediction],
    truths: Sequence[FieldTruth],
    classes: Sequence[str],
    endpoints: Endpoints,
) -> OutOfFold:
    """Match detections to cells at IoU 0.5 and keep what the endpoints need.

    Args:
        predictions: at most one a field.
        truths: one a field.
        classes: taxonomy names the detector can answer with.
        endpoints: the questions.

    Raises:
        LabelError: as `columns.lay_out`; or the truth has a class the detector cannot answer with.
    """
    strangers = sorted({name for truth in truths for name in truth.labels} - set(classes))
    if strangers:
        raise LabelError(f"cells of class {strangers[0]!r}, which the detector does not know, could never be found")
    best = [_best(found, endpoints.detections_per_field) for found in predictions]
    columns = lay_out(best, truths, endpoints.merge_iou)
    pools = ask(columns, {name: {name} for name in classes}).pools()
    for name, members in {**endpoints.groups, ABNORMAL: [name for name in classes if is_abnormal(name)]}.items():
        pools |= ask(columns, {name: members}, merge=True).pools()
    scores = {name: tuple(_kept(pool, k) for k in range(len(truths))) for name, pool in pools.items()}
    cells = {name: pool.cells for name, pool in pools.items()}
    return OutOfFold(tuple(truth.image_id for truth in truths), cells, scores)


def join(parts: Sequence[OutOfFold]) -> OutOfFold:
    """Put folds together, fields in alphabetical order, so that runs of other methods have them in the same order.

    Raises:
        LabelError: no fold, a field in two folds, or folds asked other questions.
    """
    names = [name for part in parts for name in part.fields]
    if not parts or len(set(names)) < len(names) or any(set(part.cells) != set(parts[0].cells) for part in parts):
        raise LabelError("folds do not go together: none, a field in two of them, or other questions")
    order = np.argsort(np.array(names), kind="stable")
    cells = {name: np.concatenate([part.cells[name] for part in parts])[order] for name in parts[0].cells}
    scores = {name: [one for part in parts for one in part.scores[name]] for name in parts[0].scores}
    return OutOfFold(
        tuple(names[k] for k in order), cells, {name: tuple(all_[k] for k in order) for name, all_ in scores.items()}
    )


def endpoint_figures(
    pools: Mapping[str, Pool],
    classes: Sequence[str],
    endpoints: Endpoints,
    weights: NDArray[np.floating] | None = None,
) -> dict[str, float | None]:
    """Every endpoint under given weights of the fields.

    Args:
        pools: see `OutOfFold.pools`.
        classes: over which the macro average runs.
        endpoints: the questions.
        weights: (F,) how often each field counts; None counts each once.

    Returns:
        `MACRO`, None as soon as one class has no cell, since a mean over fewer classes is another figure;
        `ap50/<class or group>`, `recall@<n>fppi/any_abnormal`.
    """
    single = {f"ap50/{name}": average_precision(pools[name], weights) for name in (*classes, *endpoints.groups)}
    values = [single[f"ap50/{name}"] for name in classes]
    known = [value for value in values if value is not None]
    recalls = {recall_key(n): recall_at(pools[ABNORMAL], n, weights) for n in endpoints.false_positives}
    return {MACRO: float(np.mean(known)) if known and len(known) == len(values) else None, **single, **recalls}


def found_cells(pool: Pool, false_positives: float) -> int:
    """How many cells a class's detections find with at most so many false positives a field."""
    return round((recall_at(pool, false_positives) or 0.0) * pool.n_cells)


def _best(found: FieldPrediction, limit: int) -> FieldPrediction:
    return found.take(np.argsort(-found.scores, kind="stable")[:limit])


def _kept(pool: Pool, image: int) -> NDArray[np.int64]:
    mine = pool.image == image
    # At least one step, so that a wrong detection of score 0 still has a sign.
    steps = np.maximum(np.round(pool.scores[mine] * _STEPS), 1).astype(np.int64)
    return np.asarray(np.where(pool.hits[mine], steps, -steps), np.int64)


def _pool(scores: Sequence[NDArray[np.int64]], cells: NDArray[np.int64]) -> Pool:
    signed = np.concatenate([np.zeros(0, np.int64), *scores])
    image = np.repeat(np.arange(len(scores)), [len(one) for one in scores])
    order = np.argsort(-np.abs(signed), kind="stable")
    return Pool(np.abs(signed[order]) / _STEPS, signed[order] > 0, image[order], cells)


def _numbers(text: str) -> NDArray[np.int64]:
    return np.array([int(word) for word in text.split()], np.int64)
