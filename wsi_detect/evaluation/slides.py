"""The stage evaluate on finished slides: their cells against experts' annotations."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import LabelError
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.results import METRICS_FILE, EvaluationRun
from wsi_detect.evaluation.runs import evaluate_run
from wsi_detect.schema import ANNOTATIONS, BOX_COLUMNS
from wsi_detect.stitching.cell_map import CellMap

_log = logging.getLogger(__name__)


class SlideFacts(NamedTuple):
    """What the cells of a slide do not say: whose it is, and where it was annotated, slide px; None throughout."""

    patient_id: str | None = None
    roi: shapely.Geometry | None = None


def facts_of(patients: Mapping[str, str | None], rois: Mapping[str, shapely.Geometry]) -> dict[str, SlideFacts]:
    """Return the facts of slides; a patient is named after the first of her slides, since no patient's name travels.

    Args:
        patients: slide → patient, None where nobody knows; of all slides at hand, so that splits can be told apart.
        rois: slide → where it was annotated, slide px; a slide that is not named was annotated throughout.
    """
    first: dict[str, str] = {}
    for slide, patient in sorted(patients.items()):
        if patient is not None:
            first.setdefault(patient, f"patient of {slide}")
    names = {slide: first.get(patient) if patient is not None else None for slide, patient in patients.items()}
    return {slide: SlideFacts(names.get(slide), rois.get(slide)) for slide in {*names, *rois}}


def evaluate_cells(
    cells: Sequence[Path],
    annotations: Path,
    out: Path,
    config: EvaluationConfig | None = None,
    *,
    slides: Collection[str] | None = None,
) -> Path:
    """Evaluate the cells of slides as `run_on_cells` does, write the artefact, and return the path of its figures."""
    run_on_cells(cells, annotations, config, slides=slides).write(out)
    return out / METRICS_FILE


def run_on_cells(
    cells: Sequence[Path],
    annotations: Path,
    config: EvaluationConfig | None = None,
    *,
    slides: Collection[str] | None = None,
    facts: Mapping[str, SlideFacts] | None = None,
    about: Mapping[str, Any] | None = None,
    chosen_on: EvaluationRun | None = None,
) -> EvaluationRun:
    """Evaluate the cells of slides against experts' annotations; the image of every figure is a slide.

    Args:
        cells: one `cells.parquet` a slide.
        annotations: table of `schema.ANNOTATIONS`.
        config: how to evaluate; `rescale` has no meaning here.
        slides: ids of the slides that were annotated throughout (or inside their ROIs); None takes those that have an
            annotation. Name them where a slide was annotated and has no cell, or its false positives are not counted.
        facts: patient and ROIs of slides, by id.
        about: what is known of model and data, for `evaluation.json`.
        chosen_on: as in `run_on_fields`.

    Raises:
        LabelError: the annotations have no row, or no `cells.parquet` of an annotated slide is given.
        MissingArtifactError: a table is missing.
    """
    labelled = artifact.read_table(annotations, ANNOTATIONS)
    if not labelled.num_rows:
        raise LabelError(f"{annotations} has no annotation to evaluate against")
    maps = {found.slide.slide_id: found for found in map(CellMap.read, cells)}
    taking_part = sorted(set(labelled["slide_id"].to_pylist()) if slides is None else set(slides))
    missing = [slide for slide in taking_part if slide not in maps]
    if missing:
        raise LabelError(
            f"no cells are given of {len(missing)} annotated slides, of {missing[0]} for one; run it first"
        )
    if set(maps) - set(taking_part):
        _log.warning("%d slides are not annotated and are left out", len(set(maps) - set(taking_part)))
    chosen = [maps[slide] for slide in taking_part]
    truths = [_slide_truth(found, labelled, (facts or {}).get(found.slide.slide_id)) for found in chosen]
    classes = tuple(dict.fromkeys(name for found in chosen for name in found.classes))
    models = sorted({found.model_id for found in chosen})
    known = {"kind": "slides", "data": annotations.stem, "model_id": ", ".join(models), **(about or {})}
    predictions = [_slide_prediction(found) for found in chosen]
    return evaluate_run(EvaluationRun(truths, predictions, classes, config or EvaluationConfig(), known), chosen_on)


def _slide_truth(found: CellMap, labelled: pa.Table, facts: SlideFacts | None) -> FieldTruth:
    slide = found.slide
    boxes, rows = _slide_rows(labelled, slide.slide_id)
    patient, roi = (facts.patient_id, facts.roi) if facts else (None, None)
    size = slide.width_px, slide.height_px
    return FieldTruth(
        slide.slide_id,
        *size,
        boxes,
        rows["label"].to_pylist(),
        patient_id=patient,
        slide_id=slide.slide_id,
        mpp=slide.mpp,
        roi=roi,
    )


def _slide_prediction(found: CellMap) -> FieldPrediction:
    scores = found.table["score"].to_numpy().astype(np.float64)
    labels = found.table["label"].to_pylist()
    return FieldPrediction(found.slide.slide_id, found.boxes(), scores, labels)


def _slide_rows(table: pa.Table, slide: str) -> tuple[NDArray[np.float64], pa.Table]:
    rows = table.filter(pc.equal(table["slide_id"], slide))
    boxes = np.column_stack([rows[name].to_numpy() for name in BOX_COLUMNS]).reshape(-1, 4).astype(np.float64)
    return boxes, rows
