"""From predictions and truth to all figures of a run."""

from dataclasses import replace
from typing import Any

from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.figures import ABNORMAL, MEAN, recall_key
from wsi_detect.evaluation.groups import groups_of
from wsi_detect.evaluation.judgements import Choices, choose, judgements
from wsi_detect.evaluation.parts import Scene
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.rois import keep_inside
from wsi_detect.evaluation.scores import rows_of
from wsi_detect.evaluation.splits import Split, check_apart
from wsi_detect.taxonomy import gravest_first


def evaluate_run(run: EvaluationRun, chosen_on: EvaluationRun | None = None) -> EvaluationRun:
    """Compute the figures of predictions already made.

    Args:
        run: predictions and truth; figures it has are replaced.
        chosen_on: as in `run_on_fields`.

    Raises:
        LabelError: predictions and truths are not of the same images, a unit to resample is not known of every image,
            or the other split shares a member with this one.
        NonFiniteError: a box or a score is NaN or infinite.
    """
    predictions, truths = keep_inside(run.predictions, run.truths)
    names = {*run.classes, *(n for t in truths for n in t.labels), *(n for p in predictions for n in p.labels)}
    columns = lay_out(predictions, truths, run.config.merge_iou)
    scene = Scene(predictions, truths, gravest_first(names), run.config, columns)
    split = Split.of(str(run.about.get("data", "")), groups_of(truths)[1])
    choices = None
    if chosen_on is not None:
        other = keep_inside(chosen_on.predictions, chosen_on.truths)
        choices = choose(*other, scene, str(chosen_on.about.get("data", "")))
        check_apart(choices.split, split, "what is read here")
    rows = rows_of(scene, lambda pools: judgements(scene, pools, split, choices))
    about = dict(run.about) if choices is None else {**run.about, "chosen": _summary(choices)}
    return replace(run, metrics=rows, about={**about, "resampled": groups_of(truths, run.config.resample)[0]})


def flat(run: EvaluationRun) -> dict[str, float | None]:
    """Return the plain figures of a run under the keys of `evaluate_fields`."""
    result: dict[str, float | None] = {"images": len(run.truths)}
    for row in run.metrics:
        name = f"{row['metric']}/{row['label']}"
        if row["metric"] == "recall" and row["label"] == ABNORMAL and row["unit"] == "field":
            name = recall_key(row["threshold"])
        elif row["metric"] != "ap50" or row["subset"] is not None:
            continue
        result[name] = row["value"]
        if row["label"] != MEAN:
            result[f"n/{row['label']}"] = row["n"]
        if run.config.replicates:
            result[f"ci_low/{name}"], result[f"ci_high/{name}"] = row["ci_low"], row["ci_high"]
            result[f"ci_undefined/{name}"] = row["undefined"] or 0
    return result


def _summary(choices: Choices) -> dict[str, Any]:
    """What was chosen where, in plain values."""
    temperatures = {name: found.value for name, found in choices.temperatures.classes.items()}
    point = None if choices.point is None else choices.point.threshold
    return {"split": choices.split.name, "threshold": point, "temperatures": temperatures}
