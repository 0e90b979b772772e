"""Inside the ROIs alone: by the centre, for cells and detections alike."""

import numpy as np
import pytest
import shapely

from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.rois import inside, keep_inside
from wsi_detect.evaluation.runs import evaluate_run

ROI = shapely.union_all([shapely.box(0, 0, 50, 50), shapely.box(100, 100, 150, 150)])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([10, 10, 20, 20], True),
        ([45, 10, 54, 20], True),  # most of it inside, its centre too
        ([46, 10, 56, 20], False),  # its centre half a px outside
        ([45, 10, 55, 20], True),  # on the outline
        ([60, 60, 90, 90], False),  # between the two
        ([110, 110, 190, 120], True),  # reaches out of it, its centre on the outline
    ],
)
def test_by_the_centre(box, expected):
    assert inside(np.array([box], float), ROI).tolist() == [expected]


def test_an_image_without_roi_counts_throughout():
    assert inside(np.array([[500.0, 0, 510, 10]]), None).tolist() == [True]
    assert inside(np.zeros((0, 4)), ROI).tolist() == []


def test_what_lies_outside_is_neither_right_nor_wrong():
    cell, out, wrong = [10, 10, 20, 20], [70, 10, 80, 20], [30, 30, 40, 40]
    boxes = np.array([cell, out], float)
    truth = FieldTruth("a", 200, 200, boxes, ["HSIL", "HSIL"], roi=ROI, mpp=1.0)
    found = FieldPrediction("a", np.array([out, wrong, cell], float), np.array([0.9, 0.8, 0.7]), ["HSIL"] * 3)
    kept = keep_inside([found], [truth])
    assert (kept[0][0].scores.tolist(), kept[1][0].labels) == ([0.8, 0.7], ["HSIL"])
    run = evaluate_run(EvaluationRun([truth], [found], ("HSIL",), EvaluationConfig()))
    rows = {(r["metric"], r["label"], r["threshold"], r["unit"]): r for r in run.metrics if r["subset"] is None}
    # The false alarm inside comes first: precision one half. The cell outside is not among the two to be found.
    assert (rows["ap50", "HSIL", 0.5, None]["value"], rows["ap50", "HSIL", 0.5, None]["n"]) == (0.5, 1)
    # One false alarm on 5,000 µm² of ROI is 200 per mm².
    assert rows["recall", "HSIL", 10.0, "mm2"]["value"] == 0.0
