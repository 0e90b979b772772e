"""The page of an evaluation: one HTML file that a stranger can read, without network, script or anything beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wsi_detect import __version__, artifact
from wsi_detect.evaluation.confusion import FALSE_ALARM, MISSED, calls, gravity_cost
from wsi_detect.evaluation.figures import ABNORMAL, Pools, make_pools
from wsi_detect.evaluation.froc import UNITS
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.rois import keep_inside
from wsi_detect.report import evaluation_facts as facts
from wsi_detect.report import evaluation_plots as plots
from wsi_detect.report.error_gallery import exhibits, find_mistakes
from wsi_detect.report.slide_report import environment
from wsi_detect.taxonomy import gravest_first, is_abnormal

PAGE = "evaluation.html"


class CallCell(NamedTuple):
    """One field of the table of calls: how many, of its row in percent, its cost, and how it is coloured."""

    number: int
    share: float | None
    cost: float
    kind: str
    depth: float


class CallRow(NamedTuple):
    """One row of the table of calls."""

    name: str
    total: int
    cells: list[CallCell]
    cost: float


def write_page(folder: Path, images: Path | None = None) -> Path:
    """Write `evaluation.html` beside the artefact it is made from; equal inputs give equal bytes.

    Args:
        folder: of `EvaluationRun.write`.
        images: folder of the fields, for crops of errors; None leaves them without pictures.

    Returns:
        Path of the page.

    Raises:
        ArtifactError: the folder holds no finished evaluation, or a damaged one.
        LabelError: an image is missing or not the one that was evaluated.
    """
    run = EvaluationRun.read(folder)
    predictions, truths = keep_inside(run.predictions, run.truths)
    names = gravest_first({*run.classes, *(n for t in truths for n in t.labels), *_labels(predictions)})
    pools = make_pools(predictions, truths, names, run.config.merge_iou)
    misses, alarms = find_mistakes(run)
    heads, classes = facts.class_table(run)
    page = environment().get_template("evaluation.html").render(
        run=run,
        unit=facts.unit_of(run),
        data=str(run.about.get("data") or f"{facts.unit_of(run)}s"),
        model=str(run.about.get("model") or run.about.get("model_id") or ""),
        counts=_counts(run),
        headlines=facts.headlines(run),
        cautions=facts.cautions(run),
        heads=heads,
        classes=classes,
        curves=_curves(run, pools),
        calls=_calls(run, names),
        called=[*names, MISSED],
        false_alarm=FALSE_ALARM,
        misses=exhibits(run, misses, images),
        alarms=exhibits(run, alarms, images),
        numbers=(len(misses), len(alarms)),
        further=facts.further(run),
        provenance=_provenance(run),
        config=json.dumps(run.config.model_dump(mode="json"), indent=1, sort_keys=True),
        pictures=images is not None,
    )  # fmt: skip
    artifact.write_bytes(folder / PAGE, page.encode())
    return folder / PAGE


def _labels(predictions: Any) -> set[str]:
    return {name for found in predictions for name in found.labels}


def _counts(run: EvaluationRun) -> Mapping[str, Any]:
    """What was looked at: images, cells, and how the intervals were made."""
    truths = keep_inside(run.predictions, run.truths)[1]
    groups = next((row["groups"] for row in run.metrics if row["groups"] is not None), None)
    return {
        "images": len(truths),
        "cells": sum(len(truth.labels) for truth in truths),
        "abnormal": sum(is_abnormal(name) for truth in truths for name in truth.labels),
        "with_abnormal": sum(any(map(is_abnormal, truth.labels)) for truth in truths),
        "rois": sum(truth.roi is not None for truth in truths),
        "groups": groups,
        "level": run.about.get("resampled", "field"),
        "confidence": f"{100 * run.config.confidence:g} %",
    }


def _curves(run: EvaluationRun, pools: Pools) -> Mapping[str, Any]:
    every = {ABNORMAL: pools.abnormal, **pools.classes}
    shown = {name: pool for name, pool in every.items() if pool.n_cells}
    frocs = [(unit, plots.froc_plot(run, shown, unit)) for unit in UNITS]
    return {
        "precision": plots.precision_recall_plot({n: p for n, p in shown.items() if n != ABNORMAL}),
        "froc": [(unit, uri) for unit, uri in frocs if uri],
        "reliability": plots.reliability_plot(every),
        "fewest": plots.FEWEST,
    }


def _calls(run: EvaluationRun, names: list[str]) -> list[CallRow]:
    """The table of calls, each field with its part of the cost."""
    predictions, truths = keep_inside(run.predictions, run.truths)
    config = run.config
    matrix = calls(predictions, truths, names, min_score=config.min_score, merge_iou=config.merge_iou).matrix()
    price = gravity_cost(names, under=config.under, over=config.over)
    most = float((matrix * price).max(initial=0.0)) or 1.0
    rows = []
    for k, name in enumerate([*names, FALSE_ALARM]):
        total = int(matrix[k].sum())
        cells = []
        for j in range(len(names) + 1):
            count, cost = int(matrix[k, j]), float(matrix[k, j] * price[k, j])
            kind = "right" if k == j and k < len(names) else _kind(k, j, names)
            share = matrix[k, j] / total if total and k < len(names) else None
            depth = float(np.sqrt(cost / most)) if kind != "right" else (share or 0.0)
            cells.append(CallCell(count, share, cost, kind, round(depth, 3)))
        rows.append(CallRow(name, total, cells, sum(cell.cost for cell in cells)))
    return rows


def _kind(truth: int, called: int, names: list[str]) -> str:
    """Whether a call is too mild or too grave; names stand gravest first, nothing at all comes last."""
    return "nothing" if truth == called == len(names) else "under" if called > truth else "over"


def _provenance(run: EvaluationRun) -> list[tuple[str, str]]:
    about = run.about
    facts_of = [
        ("Model", about.get("model") or about.get("model_id")),
        ("Trained on", about.get("training_data")),
        ("Preparation it was trained on", about.get("preparation")),
        ("Evaluated on", about.get("data")),
        ("Thresholds chosen on", about.get("chosen", {}).get("split")),
        ("Program", f"wsi-detect {__version__}"),
    ]
    return [(name, str(value)) for name, value in facts_of if value]
