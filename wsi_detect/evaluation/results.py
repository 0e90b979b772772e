"""The artefact of an evaluation: its figures, and all that computing them again, or others, needs.

A folder holds `evaluation.json` (what was done), `metrics.parquet` (figures), `images.parquet`, `truth.parquet` and
`predictions.parquet`. `evaluation.json` is taken away first and written last: a folder that has it is whole.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from wsi_detect import __version__, artifact
from wsi_detect.config import parse
from wsi_detect.errors import DamagedArtifactError, LabelError
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth, paired
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.schema import (
    BOX_COLUMNS,
    EVALUATED_IMAGES,
    EVALUATED_PREDICTIONS,
    EVALUATED_TRUTH,
    METRICS,
)

EVALUATION = "evaluation.json"
METRICS_FILE = "metrics.parquet"
IMAGES_FILE = "images.parquet"
TRUTH_FILE = "truth.parquet"
PREDICTIONS_FILE = "predictions.parquet"
_FILES = (METRICS_FILE, IMAGES_FILE, TRUTH_FILE, PREDICTIONS_FILE)


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationRun:
    """One detector against one set of labelled images.

    Attributes:
        truths: one an image.
        predictions: one an image, in the order of the truths.
        classes: taxonomy names the detector can answer with; `class_scores` follow them.
        config: how it was evaluated.
        about: what was evaluated, such as `kind` (fields or slides), `model_id`, `data`; plain values for JSON.
        metrics: figures, rows of `schema.METRICS`.
    """

    truths: list[FieldTruth]
    predictions: list[FieldPrediction]
    classes: tuple[str, ...]
    config: EvaluationConfig
    about: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()

    def write(self, folder: Path) -> Path:
        """Write the artefact; what was in the folder of another evaluation is replaced.

        Equal runs give equal bytes.

        Returns:
            Path of `evaluation.json`.

        Raises:
            LabelError: predictions and truths are not of the same images.
            OutputBusyError: another run is writing there.
        """
        predictions = paired(self.predictions, self.truths)
        classes = {"classes": json.dumps(list(self.classes))}
        with artifact.lock(folder):
            artifact.sweep(folder)
            (folder / EVALUATION).unlink(missing_ok=True)
            artifact.write_table(
                folder / METRICS_FILE, artifact.table_of([dict(row) for row in self.metrics], METRICS), METRICS
            )
            artifact.write_table(folder / IMAGES_FILE, _images(self.truths), EVALUATED_IMAGES)
            artifact.write_table(folder / TRUTH_FILE, _cells(self.truths), EVALUATED_TRUTH)
            artifact.write_table(folder / PREDICTIONS_FILE, _found(predictions), EVALUATED_PREDICTIONS, classes)
            content = {
                "about": dict(self.about),
                "classes": list(self.classes),
                "config": self.config.model_dump(mode="json"),
                "files": artifact.sizes(folder, list(_FILES)),
                "version": __version__,
            }
            artifact.write_json(folder / EVALUATION, content)
        return folder / EVALUATION

    @classmethod
    def read(cls, folder: Path) -> "EvaluationRun":
        """Read what `write` wrote.

        Raises:
            MissingArtifactError: the folder holds no finished evaluation.
            DamagedArtifactError: a file is not the one that was written, or does not fit the others.
            SchemaVersionError: it was written under another schema version.
            ConfigError: its configuration is not one of this version.
        """
        content = artifact.read_json(folder / EVALUATION)
        try:
            written = {name: int(content["files"][name]) for name in _FILES}
            classes = tuple(str(name) for name in content["classes"])
            about, values = dict(content["about"]), dict(content["config"])
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedArtifactError(f"{folder / EVALUATION} is not complete ({error!r}); evaluate again") from error
        changed = [n for n in _FILES if not (folder / n).is_file() or (folder / n).stat().st_size != written[n]]
        if changed:
            raise DamagedArtifactError(f"{folder}: {', '.join(changed)} not as written; evaluate again")
        config = parse(values, EvaluationConfig, where=str(folder / EVALUATION))
        metrics = artifact.read_table(folder / METRICS_FILE, METRICS).to_pylist()
        truths = _read_truths(folder)
        predictions = _read_predictions(folder)
        try:
            return cls(truths, paired(predictions, truths), classes, config, about, metrics)
        except LabelError as error:
            raise DamagedArtifactError(f"{folder}: {error}; evaluate again") from error


def _images(truths: Sequence[FieldTruth]) -> pa.Table:
    return artifact.table_of(
        [
            {
                "image_id": truth.image_id,
                "patient_id": truth.patient_id,
                "slide_id": truth.slide_id,
                "field_id": truth.field_id,
                "width_px": truth.width,
                "height_px": truth.height,
                "mpp": truth.mpp,
                "roi": None if truth.roi is None else shapely.to_wkb(truth.roi),
            }
            for truth in truths
        ],
        EVALUATED_IMAGES,
    )


def _cells(truths: Sequence[FieldTruth]) -> pa.Table:
    """Cells of each image, then its areas to ignore."""
    boxes = [part for truth in truths for part in (truth.boxes, truth.ignore)]
    labels = [name for truth in truths for name in (*truth.labels, *([None] * len(truth.ignore)))]
    ids = [truth.image_id for truth in truths for _ in range(len(truth.labels) + len(truth.ignore))]
    return pa.table({"image_id": pa.array(ids, pa.string()), "label": pa.array(labels, pa.string()), **_columns(boxes)})


def _found(predictions: Sequence[FieldPrediction]) -> pa.Table:
    labels = [name for found in predictions for name in found.labels]
    ids = [found.image_id for found in predictions for _ in found.labels]
    scores = [np.zeros(0), *(found.scores for found in predictions)]
    vectors = [_lists(found.class_scores, len(found.labels)) for found in predictions]
    return pa.table(
        {
            "image_id": pa.array(ids, pa.string()),
            "label": pa.array(labels, pa.string()),
            "score": pa.array(np.concatenate(scores).astype(np.float64)),
            "class_scores": pa.chunked_array(vectors, pa.list_(pa.float64())),
            **_columns([found.boxes for found in predictions]),
        }
    )


def _lists(scores: NDArray[np.float64] | None, rows: int) -> pa.Array:
    if scores is None:
        return pa.nulls(rows, pa.list_(pa.float64()))
    values = np.ascontiguousarray(scores, np.float64).reshape(rows, -1)
    offsets = np.arange(rows + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))


def _columns(boxes: Sequence[NDArray[np.float64]]) -> dict[str, pa.Array]:
    stacked = np.concatenate([np.zeros((0, 4)), *boxes]).astype(np.float64)
    return {name: pa.array(column) for name, column in zip(BOX_COLUMNS, stacked.T, strict=True)}


def _read_truths(folder: Path) -> list[FieldTruth]:
    images = artifact.read_table(folder / IMAGES_FILE, EVALUATED_IMAGES).to_pylist()
    table = artifact.read_table(folder / TRUTH_FILE, EVALUATED_TRUTH)
    rows = _rows_by_image(table, [image["image_id"] for image in images], folder / TRUTH_FILE)
    boxes, labels = _boxes_of(table), np.asarray(table["label"].to_pylist(), dtype=object)
    truths = []
    for image, mine in zip(images, rows, strict=True):
        cells = mine[[name is not None for name in labels[mine]]] if len(mine) else mine
        ignore = mine[[name is None for name in labels[mine]]] if len(mine) else mine
        roi = None if image["roi"] is None else shapely.from_wkb(image["roi"])
        size = image["width_px"], image["height_px"]
        facts = {name: image[name] for name in ("patient_id", "slide_id", "field_id", "mpp")}
        names = labels[cells].tolist()
        truths.append(FieldTruth(image["image_id"], *size, boxes[cells], names, boxes[ignore], **facts, roi=roi))
    return truths


def _read_predictions(folder: Path) -> list[FieldPrediction]:
    ids = artifact.read_table(folder / IMAGES_FILE, EVALUATED_IMAGES)["image_id"].to_pylist()
    table = artifact.read_table(folder / PREDICTIONS_FILE, EVALUATED_PREDICTIONS)
    rows = _rows_by_image(table, ids, folder / PREDICTIONS_FILE)
    boxes, scores = _boxes_of(table), table["score"].to_numpy()
    labels = np.asarray(table["label"].to_pylist(), dtype=object)
    vectors = table["class_scores"].combine_chunks()
    return [
        FieldPrediction(image, boxes[mine], scores[mine], labels[mine].tolist(), _vectors(vectors.take(pa.array(mine))))
        for image, mine in zip(ids, rows, strict=True)
    ]


def _vectors(lists: pa.Array) -> NDArray[np.float64] | None:
    if not len(lists) or lists.null_count:
        return None
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float64).reshape(len(lists), -1)


def _rows_by_image(table: pa.Table, ids: Sequence[str], path: Path) -> list[NDArray[np.int64]]:
    """Rows of each image, in their order in the file."""
    place = {name: number for number, name in enumerate(ids)}
    try:
        image = np.array([place[name] for name in table["image_id"].to_pylist()], np.int64)
    except KeyError as error:
        raise DamagedArtifactError(f"{path}: an image that is not in {IMAGES_FILE}: {error}; evaluate again") from error
    order = np.argsort(image, kind="stable")
    return np.split(order, np.searchsorted(image[order], np.arange(1, len(ids)))) if len(ids) else []


def _boxes_of(table: pa.Table) -> NDArray[np.float64]:
    return np.column_stack([table[name].to_numpy() for name in BOX_COLUMNS]).reshape(-1, 4).astype(np.float64)
