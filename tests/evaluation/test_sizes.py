"""AP over ten IoU, by size, by frequency in training, under a limit: by hand."""

import numpy as np
import pytest

from wsi_detect.evaluation.average_precision import (
    by_frequency,
    coco_ap,
    frequency_groups,
    precision_recall,
    size_ranges,
)
from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import ask


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


def scene(found, scores, cells, mpp=None):
    prediction = FieldPrediction("a", boxes(*found), np.array(scores, float), ["LSIL"] * len(found))
    truth = [FieldTruth("a", 500, 500, boxes(*cells), ["LSIL"] * len(cells), mpp=mpp)]
    return lay_out([prediction], truth), truth


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0, 0, 100, 100], 1.0),
        ([0, 0, 100, 80], 0.7),  # IoU 0.8 reaches 0.5, 0.55 … 0.8: seven of ten
        ([0, 0, 100, 50], 0.1),
        ([0, 0, 100, 49], 0.0),
    ],
)
def test_average_over_ten_overlaps(box, expected):
    columns, _ = scene([box], [0.9], [[0, 0, 100, 100]])
    assert coco_ap(ask(columns, {"LSIL": {"LSIL"}, "HSIL": {"HSIL"}})) == {
        "LSIL": pytest.approx(expected),
        "HSIL": None,
    }


SMALL, LARGE, FAR = [0, 0, 20, 20], [100, 100, 180, 180], [300, 300, 320, 320]


@pytest.mark.parametrize(
    ("found", "scores", "expected"),
    [
        # At 0.25 µm/px: 5 µm and 20 µm.
        ([SMALL, LARGE], [0.9, 0.8], (1.0, 1.0)),
        # A large false alarm is no false alarm among small cells.
        ([[300, 300, 380, 380], SMALL], [0.9, 0.8], (1.0, 0.0)),
        # A small one is.
        ([FAR, SMALL], [0.9, 0.8], (0.5, 0.0)),
        ([], [], (0.0, 0.0)),
    ],
)
def test_ranges_in_um(found, scores, expected):
    columns, truth = scene(found, scores, [SMALL, LARGE], mpp=0.25)
    ranges = size_ranges(columns, truth, {"nuclei": (0, 10), "cells": (10, 40)})
    question = ask(columns, {"LSIL": {"LSIL"}})
    assert tuple(coco_ap(question, ranges[name])["LSIL"] for name in ("nuclei", "cells")) == pytest.approx(expected)


def test_a_range_without_a_cell_is_not_defined_and_um_need_mpp():
    columns, truth = scene([SMALL], [0.9], [SMALL], mpp=0.25)
    ranges = size_ranges(columns, truth, {"huge": (100, 200)})
    assert coco_ap(ask(columns, {"LSIL": {"LSIL"}}), ranges["huge"]) == {"LSIL": None}
    columns, truth = scene([SMALL], [0.9], [SMALL])
    assert list(size_ranges(columns, truth, {"huge": (100, 200)})) == ["coco small", "coco medium", "coco large"]


def test_a_limit_counts_the_best_of_an_image_and_a_class():
    columns, _ = scene([FAR, SMALL], [0.9, 0.8], [SMALL])
    assert ask(columns, {"LSIL": {"LSIL"}}, limit=1).pools()["LSIL"].hits.tolist() == [False]
    assert ask(columns, {"LSIL": {"LSIL"}}, limit=2).pools()["LSIL"].hits.tolist() == [False, True]


def test_a_threshold_below_the_floor_is_refused():
    columns, _ = scene([SMALL], [0.9], [SMALL])
    with pytest.raises(ValueError, match=r"below 0\.5"):
        ask(columns, {"LSIL": {"LSIL"}}).pools(0.3)


def test_frequency_in_training():
    training = {"NILM": 5000, "LSIL": 101, "HSIL": 100, "ASC-H": 11, "SCC": 10, "AIS": 0}
    groups = {"NILM": "frequent", "LSIL": "frequent", "HSIL": "common", "ASC-H": "common", "SCC": "rare", "AIS": "rare"}
    assert frequency_groups(training) == groups
    values = {"NILM": 0.9, "LSIL": 0.5, "HSIL": 0.4, "ASC-H": 0.2, "SCC": 0.1, "AIS": None, "ADC": 0.8}
    expected = {"rare": 0.1, "common": pytest.approx(0.3), "frequent": pytest.approx(0.7)}
    assert by_frequency(values, training) == expected
    assert by_frequency({"NILM": 0.9}, {"NILM": 50}, (10, 60)) == {"rare": None, "common": 0.9, "frequent": None}


def test_the_curve_that_is_drawn_averages_to_ap():
    columns, _ = scene([FAR, SMALL], [0.9, 0.8], [SMALL, LARGE])
    recall, precision = precision_recall(ask(columns, {"LSIL": {"LSIL"}}).pools()["LSIL"])
    assert precision[recall <= 0.5].tolist() == [0.5] * 51
    assert not precision[recall > 0.5].any()
