"""An evaluation that reads what was chosen on another split: only where the two share no patient, slide or field."""

import numpy as np
import pytest

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.compare import ComparisonConfig, compare_runs
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.runs import evaluate_run

BOX = np.array([[0.0, 0.0, 40.0, 40.0]])


def run(data: str, rows: list[tuple], patients=True) -> EvaluationRun:
    """Fields given as name, patient, slide, class, score of the one abnormal detection."""
    truths = [
        FieldTruth(name, 100, 100, BOX, [label], patient_id=patient if patients else None, slide_id=slide)
        for name, patient, slide, label, _ in rows
    ]
    found = [FieldPrediction(name, BOX, np.array([score]), ["HSIL"]) for name, *_, score in rows]
    return EvaluationRun(truths, found, ("HSIL", "NILM"), EvaluationConfig(replicates=20), {"data": data})


VAL = [("a", "p1", "s1", "HSIL", 0.9), ("b", "p2", "s2", "HSIL", 0.6), ("c", "p2", "s3", "NILM", 0.2)]
TEST = [("d", "p3", "s4", "HSIL", 0.7), ("e", "p4", "s5", "NILM", 0.65), ("f", "p5", "s6", "HSIL", 0.1)]


def test_the_operating_point_of_one_split_is_read_on_the_other():
    read = evaluate_run(run("test", TEST), run("val", VAL))
    assert (read.about["chosen"]["split"], read.about["chosen"]["threshold"]) == ("val", 0.6)
    values = {row["metric"]: row["value"] for row in read.metrics if row["metric"] in ("sensitivity", "specificity")}
    # From 0.6 up: d of the positive d and f; e, the negative, too.
    assert values == {"sensitivity": 0.5, "specificity": 0.0}
    rows = compare_runs(read, read, ComparisonConfig(replicates=5)).differences
    assert [row.first for row in rows if row.figure.startswith("sens")] == [0.5]


@pytest.mark.parametrize(
    ("changed", "patients", "message"),
    [
        (("d", "p2", "s4"), (True, True), "shares 'p2'"),
        # Only one of the two knows its patients: slides tell.
        (("d", "p9", "s2"), (True, False), "shares 's2'"),
        (("d", "p9", "s2"), (False, True), "shares 's2'"),
    ],
)
def test_splits_that_share_something_are_refused(changed, patients, message):
    test = run("test", [(*changed, "HSIL", 0.7), *TEST[1:]], patients=patients[0])
    with pytest.raises(LabelError, match=message):
        evaluate_run(test, run("val", VAL, patients=patients[1]))


def test_the_same_split_is_refused_by_its_name():
    with pytest.raises(LabelError, match="chosen on split 'val'"):
        evaluate_run(run("val", TEST), run("val", VAL))


def test_first_hits_are_those_of_a_slide_where_slides_are_known():
    """Two fields of one slide: its gallery shows the true cell second."""
    rows = [("a", "p1", "s1", "NILM", 0.9), ("b", "p1", "s1", "HSIL", 0.6), ("c", "p2", "s2", "HSIL", 0.5)]
    found = {
        (row["label"], row["threshold"], row["unit"]): (row["value"], row["n"])
        for row in evaluate_run(run("test", rows)).metrics
        if row["metric"] == "hit"
    }
    assert found["any_abnormal", 1.0, "slide"] == (0.5, 2)
    assert found["any_abnormal", 5.0, "slide"] == (1.0, 2)
