"""What a cross-validation keeps of a fold: scores of all detections of a field, and to which question each was right.

Enough to read every figure again under any weights of the fields, as a paired bootstrap does, without the boxes. Scores
are kept to four digits, and figures are always read from what is kept, so that a figure of today and one from a file of
last week are the same number. Equal scores in one field stand in the order of the classes.
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
from wsi_detect.evaluation.matching import UNMATCHED, Pool, Question, ask
from wsi_detect.taxonomy import CLASSES, is_abnormal

#: The declared primary endpoint: mean of AP50 over all classes, each on the detections of all fields together.
MACRO = "macro_ap50"
_IOU = 0.5
#: A score is kept as a whole number of these.
_STEPS = 10_000
#: Outcomes of at most three questions, as a letter.
_LETTERS = "abcdefghijklmnopqrstuvwxyzA"


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
        close_iou: where boxes were drawn, an overlap at which the mean over classes is read a second time; None where
            a second reading would say no more than the first.
    """

    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    false_positives: tuple[float, ...] = (1.0, 4.0)
    merge_iou: float = Field(default=0.5, gt=0, le=1)
    detections_per_field: int = Field(default=100, ge=1)
    rare_fields: int = Field(default=10, ge=0)
    rare_false_positives: float = Field(default=1.0, ge=0)
    close_iou: float | None = Field(default=None, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _groups_are_new_names(self) -> "Endpoints":
        members = [name for group in self.groups.values() for name in group]
        taken = sorted(set(self.groups) & {*CLASSES, ABNORMAL})
        if taken or len(set(members)) < len(members) or not set(members) <= set(CLASSES):
            raise ValueError("groups: new names, each for classes of the taxonomy, no class in two of them")
        if self.groups and self.close_iou is not None:
            raise ValueError("close_iou: a class in a group takes part in three questions already; leave out the one")
        return self

    def close(self, name: str) -> str:
        """The question after a class at `close_iou`."""
        return f"{name}@{self.close_iou:g}"

    @property
    def close_macro(self) -> str:
        """The mean over classes at `close_iou`, as `endpoint_figures` calls it."""
        return f"macro_ap{100 * (self.close_iou or 0):g}"


@dataclass(frozen=True, slots=True, eq=False)
class OutOfFold:
    """Matched detections of fields, and what each question makes of them.

    A question is a class, a class whose boxes must fit more closely, a group of classes looked at as one, or all
    abnormal classes. To a question a detection is right, wrong, or no part of it: it lies in an area to ignore, or
    another label of the same cell scored higher.

    Attributes:
        fields: (F,) ids.
        cells: question → (F,) cells to be found in each field.
        asked: class → the questions its detections take part in.
        found: class → for each field (D, 2): scores in ten-thousandths, descending, and outcomes, one digit to base 3
            a question of `asked`, the first the lowest: 0 no part, 1 wrong, 2 right.
    """

    fields: tuple[str, ...]
    cells: Mapping[str, NDArray[np.int64]]
    asked: Mapping[str, tuple[str, ...]]
    found: Mapping[str, tuple[NDArray[np.int64], ...]]

    def to_json(self) -> dict[str, Any]:
        """Plain values: a text a field, a word a detection, its outcomes as a letter; a line each would be long."""
        words = {
            name: [" ".join(f"{score}{_LETTERS[outcome]}" for score, outcome in one) for one in fields]
            for name, fields in self.found.items()
        }
        cells = {name: " ".join(map(str, numbers)) for name, numbers in self.cells.items()}
        asked = {name: list(questions) for name, questions in self.asked.items()}
        return {"fields": list(self.fields), "cells": cells, "asked": asked, "found": words}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "OutOfFold":
        """Read what `to_json` gave.

        Raises:
            DamagedArtifactError: something is missing, or fields and numbers do not go together.
        """
        try:
            fields = tuple(map(str, content["fields"]))
            cells = {name: np.array(text.split(), np.int64) for name, text in content["cells"].items()}
            asked = {name: tuple(map(str, questions)) for name, questions in content["asked"].items()}
            found = {name: tuple(map(_read_words, texts)) for name, texts in content["found"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedArtifactError(f"not a record of out-of-fold detections: {error!r}") from error
        lengths = {*map(len, cells.values()), *map(len, found.values())}
        questions = {name for names in asked.values() for name in names}
        if questions != set(cells) or set(asked) != set(found) or lengths - {len(fields)}:
            raise DamagedArtifactError("a record of out-of-fold detections contradicts itself")
        return cls(fields, cells, asked, found)

    def pools(self) -> dict[str, Pool]:
        """Detections of each question in one order, from the highest score down, as metrics take them."""
        return {question: self._pool(question) for question in self.cells}

    def _pool(self, question: str) -> Pool:
        parts, images = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
        for name, fields in self.found.items():
            if question in self.asked[name]:
                place = 3 ** self.asked[name].index(question)
                parts += [np.column_stack([one[:, 0], one[:, 1] // place % 3]) for one in fields]
                images += [np.full(len(one), k) for k, one in enumerate(fields)]
        rows, image = np.concatenate(parts), np.concatenate(images)
        part = rows[:, 1] > 0
        rows, image = rows[part], image[part]
        order = np.lexsort((image, -rows[:, 0]))
        return Pool(rows[order, 0] / _STEPS, rows[order, 1] == 2, image[order], self.cells[question])


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
        classes: names the detector can answer with, of the taxonomy or, of other material, its own.
        endpoints: the questions.

    Raises:
        LabelError: as `columns.lay_out`; or the truth has a class the detector cannot answer with.
    """
    strangers = sorted({name for truth in truths for name in truth.labels} - set(classes))
    if strangers:
        raise LabelError(f"cells of class {strangers[0]!r}, which the detector does not know, could never be found")
    best = [_best(found, endpoints.detections_per_field) for found in predictions]
    columns = lay_out(best, truths, endpoints.merge_iou)
    joined = {**endpoints.groups, **_abnormal(classes)}
    single = {name: (name,) for name in classes}
    close = {} if endpoints.close_iou is None else {endpoints.close(name): (name,) for name in classes}
    kinds = [(ask(columns, single), _IOU), *((ask(columns, {n: m}, merge=True), _IOU) for n, m in joined.items())]
    kinds += [(ask(columns, close), endpoints.close_iou)] if endpoints.close_iou is not None else []
    members = {**single, **joined, **close}
    asked = {name: tuple(question for question, those in members.items() if name in those) for name in classes}
    outcomes = {question: _outcomes(kind, iou) for kind, iou in kinds for question in kind.names}
    cells = {name: pool.cells for kind, iou in kinds for name, pool in kind.pools(iou).items()}
    detections = columns.detections
    # At least one step, so that a score of nothing is still a detection.
    steps = np.maximum(np.round(detections.scores * _STEPS), 1).astype(np.int64)
    found = {}
    for name, questions in asked.items():
        code = sum((3**k * outcomes[question] for k, question in enumerate(questions)), np.zeros(len(steps), np.int64))
        rows = detections.order[columns.codes({name})[detections.label[detections.order]]]
        table = np.column_stack([steps[rows], code[rows]])
        found[name] = tuple(table[detections.image[rows] == k] for k in range(len(truths)))
    return OutOfFold(tuple(truth.image_id for truth in truths), cells, asked, found)


def join(parts: Sequence[OutOfFold]) -> OutOfFold:
    """Put folds together, fields in alphabetical order, so that runs of other methods have them in the same order.

    Raises:
        LabelError: no fold, a field in two folds, or folds asked other questions.
    """
    names = [name for part in parts for name in part.fields]
    if not parts or len(set(names)) < len(names) or any(dict(part.asked) != dict(parts[0].asked) for part in parts):
        raise LabelError("folds do not go together: none, a field in two of them, or other questions")
    order = np.argsort(np.array(names), kind="stable")
    cells = {name: np.concatenate([part.cells[name] for part in parts])[order] for name in parts[0].cells}
    found = {name: [one for part in parts for one in part.found[name]] for name in parts[0].found}
    in_order = {name: tuple(those[k] for k in order) for name, those in found.items()}
    return OutOfFold(tuple(names[k] for k in order), cells, parts[0].asked, in_order)


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
        `ap50/<class or group>`; `recall@<n>fppi/any_abnormal` where a class can be abnormal; and the mean at
        `close_iou`, under `Endpoints.close_macro`, where that is asked for.
    """
    single = {f"ap50/{name}": average_precision(pools[name], weights) for name in (*classes, *endpoints.groups)}
    recalls = {
        recall_key(n): recall_at(pools[ABNORMAL], n, weights) for n in endpoints.false_positives if ABNORMAL in pools
    }
    macros = {MACRO: _mean([single[f"ap50/{name}"] for name in classes])}
    if endpoints.close_iou is not None:
        close = [average_precision(pools[endpoints.close(name)], weights) for name in classes]
        macros[endpoints.close_macro] = _mean(close)
    return {**macros, **single, **recalls}


def found_cells(pool: Pool, false_positives: float) -> int:
    """How many cells a class's detections find with at most so many false positives a field."""
    return round((recall_at(pool, false_positives) or 0.0) * pool.n_cells)


def _abnormal(classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The question after all abnormal classes; none where the classes are no names of the taxonomy."""
    if not set(classes) <= set(CLASSES):
        return {}
    return {ABNORMAL: tuple(name for name in classes if is_abnormal(name))}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def _best(found: FieldPrediction, limit: int) -> FieldPrediction:
    return found.take(np.argsort(-found.scores, kind="stable")[:limit])


def _outcomes(question: Question, iou: float) -> NDArray[np.int64]:
    """(D,) what a question makes of each detection: 0 no part of it, 1 wrong, 2 right."""
    matches, asked = question.taken(iou)
    match = matches[question.rows]
    result = np.zeros(len(matches), np.int64)
    result[question.rows] = np.where(match == UNMATCHED, 1, np.where(np.append(asked, False)[match], 2, 0))
    return result


def _read_words(text: str) -> NDArray[np.int64]:
    words = text.split()
    return np.array([(int(word[:-1]), _LETTERS.index(word[-1])) for word in words], np.int64).reshape(-1, 2)
