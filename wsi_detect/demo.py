"""The demonstration: real labelled fields on one slide, the whole path with the bundled model, and how it compares."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect.detectors.info import read_info
from wsi_detect.errors import SlideError
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import make_pools
from wsi_detect.evaluation.matching import UNMATCHED, match
from wsi_detect.run import Batch, RunOptions, list_slides, run_batch
from wsi_detect.run.status import NOT_SCREENED
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import gravest_first
from wsi_detect.testing.demo import demo_fields
from wsi_detect.testing.mosaic import Mosaic, build_mosaic
from wsi_detect.testing.painter import boxes_of

#: A found cell counts in the column "found" from this score on.
_SCORE = 0.3
_IOU = 0.5


def run_demo(out: Path, bundle: Path, limit: int | None = None) -> Iterator[str]:
    """Build the mosaic, screen it, compare with the known cells.

    Args:
        out: folder for the slide and the run; earlier results in it are used again where they are fresh.
        bundle: the model.
        limit: take the first so many fields only.

    Yields:
        Lines to print; the last is `report: PATH`.

    Raises:
        SlideError: the slide could not be screened.
    """
    info = read_info(bundle)
    fields, coco = demo_fields()
    mosaic = build_mosaic(fields, coco, out / "mosaic.svs", mpp=info.mpp, limit=limit)
    size = f"{mosaic.width} x {mosaic.height} px"
    yield f"{len(mosaic.fields)} labelled fields on a slide of {size} (a mosaic, not a scan)"
    batch = Batch(out / "work", bundle, options=RunOptions(preparation="conventional smear", overwrite=True))
    (status,) = run_batch(list_slides([mosaic.path]), batch, workers=0)
    if status["status"] == NOT_SCREENED:
        raise SlideError(f"the demonstration slide was not screened: {status['reason']}")
    folder = batch.out / status["slide_id"]
    yield f"model {info.model_id}: {status['cells']} cells, {status['status']}"
    yield ""
    yield from compare(mosaic, CellMap.read(folder / "cells.parquet"))
    yield "Twelve fields measure nothing about a model; its card has the figures. Research use, not a diagnosis."
    yield f"report: {folder / 'report.html'}"


def compare(mosaic: Mosaic, cells: CellMap) -> list[str]:
    """Return a table of known, found and AP50 per class, and the recall of abnormal cells."""
    truths, predictions = _by_field(mosaic, cells)
    names = gravest_first({*(cell.label for cell in mosaic.cells), *cells.counts()})
    pools = make_pools(predictions, truths, names, _IOU)
    figures = pools.figures((1.0, 4.0))
    found = _found(truths, predictions)
    lines = [f"{'class':<14}{'known':>7}{'found':>7}{'AP50':>8}"]
    for name in names:
        known = sum(truth.labels.count(name) for truth in truths)
        lines.append(f"{name:<14}{known:>7}{found.get(name, 0):>7}{_number(figures[f'ap50/{name}']):>8}")
    known = sum(len(truth.labels) for truth in truths)
    lines.append(f"{'any cell':<14}{known:>7}{sum(found.values()):>7}{_number(figures['ap50/agnostic']):>8}")
    lines.append("")
    for allowed in (1, 4):
        recall = _number(figures[f"recall@{allowed}fppi/any_abnormal"])
        lines.append(f"abnormal cells found at {allowed} false positive(s) a field: {recall}")
    lines.append(f"(found: by any name, score {_SCORE} or more, IoU {_IOU} or more)")
    return lines


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.2f}"


def _found(truths: Sequence[FieldTruth], predictions: Sequence[FieldPrediction]) -> dict[str, int]:
    """Count, per true class, the cells something was found on."""
    counts: dict[str, int] = {}
    for truth, prediction in zip(truths, predictions, strict=True):
        sure = prediction.take(np.flatnonzero(prediction.scores >= _SCORE))
        rows = match(sure.boxes, sure.scores, truth.boxes, truth.ignore, _IOU)
        for row in rows[rows > UNMATCHED].tolist():
            counts[truth.labels[row]] = counts.get(truth.labels[row], 0) + 1
    return counts


def _by_field(mosaic: Mosaic, cells: CellMap) -> tuple[list[FieldTruth], list[FieldPrediction]]:
    """Cut slide-wide truth and cells into fields; a box belongs to the field its centre lies in."""
    truth, boxes = boxes_of(mosaic.cells), cells.boxes()
    labels, scores = cells.table["label"].to_pylist(), cells.table["score"].to_numpy().astype(np.float64)
    truths, predictions = [], []
    for field in mosaic.fields:
        offset = np.array([field.x_px, field.y_px] * 2, np.float64)
        known, seen = _inside(truth, field.box), _inside(boxes, field.box)
        names = [mosaic.cells[row].label for row in known]
        truths.append(FieldTruth(field.name, field.width_px, field.height_px, truth[known] - offset, names))
        called = [labels[row] for row in seen]
        predictions.append(FieldPrediction(field.name, boxes[seen] - offset, scores[seen], called))
    return truths, predictions


def _inside(boxes: NDArray[np.float64], area: Sequence[float]) -> NDArray[np.int64]:
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    x0, y0, x1, y1 = area
    return np.flatnonzero((x >= x0) & (x < x1) & (y >= y0) & (y < y1))
