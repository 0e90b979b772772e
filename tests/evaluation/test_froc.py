"""Sensitivity at false positives per field, slide and mm², by hand."""

import numpy as np
import pytest
import shapely

from wsi_detect.evaluation.fields import FieldTruth
from wsi_detect.evaluation.froc import extents, froc, recall_at
from wsi_detect.evaluation.matching import Pool


def truth(name: str, slide=None, field=None, mpp=None, roi=None) -> FieldTruth:
    return FieldTruth(name, 1000, 500, np.zeros((0, 4)), [], slide_id=slide, field_id=field, mpp=mpp, roi=roi)


def pooled(hits, scores, image, cells) -> Pool:
    return Pool(np.array(scores, float), np.array(hits, bool), np.array(image, np.int64), np.array(cells, np.int64))


@pytest.mark.parametrize(
    ("truths", "unit", "expected"),
    [
        ([], "field", []),
        ([truth("a"), truth("b")], "field", [1, 1]),
        # Two images cut from one field are half a field each.
        ([truth("a", field="f"), truth("b", field="f"), truth("c")], "field", [0.5, 0.5, 1]),
        ([truth("a", "s"), truth("b", "s"), truth("c", "t")], "slide", [0.5, 0.5, 1]),
        ([truth("a", "s"), truth("b")], "slide", None),
        # 1000 x 500 px of 2 µm are 2 mm by 1 mm.
        ([truth("a", mpp=2.0)], "mm2", [2.0]),
        # Inside the ROI alone, and of the ROI what lies on the image: 100 x 500 px.
        ([truth("a", mpp=2.0, roi=shapely.box(900, 0, 5000, 600))], "mm2", [0.2]),
        ([truth("a", mpp=2.0), truth("b")], "mm2", None),
        ([truth("a", mpp=2.0, roi=shapely.box(2000, 0, 3000, 10))], "mm2", None),
    ],
)
def test_units_an_image_is(truths, unit, expected):
    found = extents(truths, unit)
    assert found is None if expected is None else found.tolist() == pytest.approx(expected)


def test_an_unknown_unit_is_refused():
    with pytest.raises(ValueError, match="per 'patient'"):
        extents([], "patient")


def test_the_curve_and_its_score_by_hand():
    # Two fields, four cells. Down to 0.9: one found. Down to 0.8 (two tied): two found, one false alarm. Down to 0.5:
    # three false alarms. Down to 0.4: three found.
    pool = pooled([1, 1, 0, 0, 0, 1], [0.9, 0.8, 0.8, 0.6, 0.5, 0.4], [0, 0, 1, 1, 0, 1], [3, 1])
    curve = froc(pool, np.ones(2))
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.6, 0.5, 0.4]
    assert curve.false_positives.tolist() == [0, 0.5, 1, 1.5, 1.5]
    assert curve.sensitivity.tolist() == [0.25, 0.5, 0.5, 0.5, 0.75]
    # At 0.25 a field half way from 0.25 to 0.5, at 1 on the curve, at 8 beyond its end.
    assert curve.score((0.25, 1, 8)) == pytest.approx((0.375 + 0.5 + 0.75) / 3)
    # The same per slide, where both fields are of one: twice the false alarms.
    assert froc(pool, np.array([0.5, 0.5])).false_positives.tolist() == [0, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("allowed", "extent", "expected"),
    [
        (1, None, 0.5),
        (1.5, None, 0.75),
        (1.5, [0.5, 0.5], 0.5),  # one slide: one and a half false alarms in all
        (3, [0.5, 0.5], 0.75),
        (10, [0.1, 0.05], 0.5),  # 0.15 mm²: one and a half
        (20, [0.1, 0.05], 0.75),
    ],
)
def test_sensitivity_per_unit(allowed, extent, expected):
    pool = pooled([1, 1, 0, 0, 0, 1], [0.9, 0.8, 0.8, 0.6, 0.5, 0.4], [0, 0, 1, 1, 0, 1], [3, 1])
    found = recall_at(pool, allowed, extent=None if extent is None else np.array(extent))
    assert found == pytest.approx(expected)


def test_nothing_to_find_and_nothing_found():
    assert froc(pooled([0], [0.5], [0], [0]), np.ones(1)) is None
    curve = froc(pooled([], [], [], [2]), np.ones(1))
    assert (len(curve.thresholds), curve.score()) == (0, 0.0)
