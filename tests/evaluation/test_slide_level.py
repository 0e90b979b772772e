"""Slides by hand and beside scikit-learn: scores, AUC with ties, operating points, kappa of grades."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.slide_level import (
    GRADES,
    RULES,
    SlideRule,
    SlideScores,
    auc,
    choose_point,
    grade,
    grades,
    grades_in,
    quadratic_kappa,
    read_point,
    slide_scores,
    slide_scores_in,
)
from wsi_detect.evaluation.splits import Split

VAL, TEST = Split.of("val", ["p1", "p2"]), Split.of("test", ["p3"])


def slides(scores, positive, split=VAL, rule=None) -> SlideScores:
    return SlideScores(split, rule or SlideRule(), np.array(scores, float), np.array(positive, bool))


def found(rows: list[tuple[str, float]], name: str = "a") -> FieldPrediction:
    """Detections side by side, 100 px apart."""
    x = np.arange(len(rows)) * 100.0
    boxes = np.column_stack([x, np.zeros(len(rows)), x + 50, np.full(len(rows), 50.0)])
    return FieldPrediction(name, boxes, np.array([score for _, score in rows], float), [label for label, _ in rows])


def truth(labels: list[str], name: str = "a") -> FieldTruth:
    return FieldTruth(name, 0, 0, np.tile([0.0, 0, 50, 50], (len(labels), 1)), labels)


@pytest.mark.parametrize(
    ("rule", "rows", "expected"),
    [
        ({"name": "max"}, [], 0.0),
        ({"name": "max"}, [("NILM", 0.9)], 0.0),
        ({"name": "max"}, [("NILM", 0.9), ("LSIL", 0.3), ("HSIL", 0.7)], 0.7),
        ({"name": "mean_top", "top": 2}, [], 0.0),
        ({"name": "mean_top", "top": 2}, [("HSIL", 0.8)], 0.4),
        ({"name": "mean_top", "top": 2}, [("HSIL", 0.5), ("LSIL", 0.7), ("LSIL", 0.1)], 0.6),
        ({"name": "count"}, [], 0),
        ({"name": "count"}, [("HSIL", 0.5), ("LSIL", 0.7), ("LSIL", 0.4), ("NILM", 0.9)], 2),
        ({"name": "count", "min_score": 0.1}, [("HSIL", 0.5), ("LSIL", 0.7), ("LSIL", 0.4)], 3),
    ],
)
def test_rules_by_hand(rule, rows, expected):
    scored = slide_scores([found(rows)], [truth(["HSIL"])], SlideRule(**rule), VAL)
    assert scored.scores == pytest.approx([expected])
    assert scored.positive.tolist() == [True]


def test_two_abnormal_names_of_a_cell_count_once():
    box = np.tile([0.0, 0, 50, 50], (3, 1))
    both = FieldPrediction("a", box, np.array([0.9, 0.8, 0.7]), ["NILM", "HSIL", "LSIL"])
    assert slide_scores([both], [truth([])], SlideRule(name="count"), VAL).scores.tolist() == [1.0]


def test_every_rule_can_be_asked_for():
    assert {SlideRule(name=name).name for name in RULES} == {"max", "mean_top", "count"}
    with pytest.raises(ValidationError):
        SlideRule(name="median")


def test_slides_without_detections_or_cells():
    scored = slide_scores([], [truth(["NILM"]), truth([], "b"), truth(["AGC"], "c")], SlideRule(), VAL)
    assert (scored.scores.tolist(), scored.positive.tolist()) == ([0, 0, 0], [False, False, True])


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        ([], [], None),
        ([0.5], [1], None),
        ([0.5, 0.1], [0, 0], None),
        ([0.9, 0.1], [1, 0], 1.0),
        ([0.9, 0.1], [0, 1], 0.0),
        ([0.5, 0.5], [1, 0], 0.5),
        # Pairs: 0.8 above both; 0.4 tied with one, above none of the rest: 2 + 0.5 of 4.
        ([0.8, 0.4, 0.4, 0.6], [1, 1, 0, 0], 2.5 / 4),
    ],
)
def test_auc_by_hand(scores, positive, expected):
    assert auc(slides(scores, positive)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_scikit_learns(seed):
    from sklearn.metrics import roc_auc_score

    random = np.random.default_rng(seed)
    positive = random.random(80) < 0.3
    scores = (random.random(80) + 0.3 * positive).round(1)
    weights = random.integers(0, 4, 80).astype(float)
    assert auc(slides(scores, positive)) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    expected = roc_auc_score(positive, scores, sample_weight=weights)
    assert auc(slides(scores, positive), weights) == pytest.approx(expected, abs=1e-12)
    assert auc(slides(scores, positive), weights * ~positive) is None


@pytest.mark.parametrize(
    ("wanted", "threshold", "sensitivity", "specificity"),
    [
        (0.01, 0.9, 1 / 4, 1.0),
        (0.25, 0.9, 1 / 4, 1.0),
        (0.26, 0.7, 3 / 4, 2 / 3),  # two positives are tied at 0.7, and a negative lies above
        (0.75, 0.7, 3 / 4, 2 / 3),
        (0.8, 0.2, 1.0, 1 / 3),
        (1.0, 0.2, 1.0, 1 / 3),
    ],
)
def test_operating_points_by_hand(wanted, threshold, sensitivity, specificity):
    scored = slides([0.9, 0.7, 0.7, 0.2, 0.8, 0.3, 0.1], [1, 1, 1, 1, 0, 0, 0])
    point = choose_point(scored, wanted)
    assert point.threshold == threshold
    calls = read_point(point, scored, same_split=True)
    assert (calls.sensitivity, calls.specificity) == (pytest.approx(sensitivity), pytest.approx(specificity))
    assert (calls.positives, calls.negatives) == (4, 3)


def test_a_point_is_read_on_another_split():
    point = choose_point(slides([0.9, 0.6, 0.3], [1, 1, 0]), 1.0)
    other = slides([0.7, 0.6, 0.5, 0.1], [1, 0, 1, 0], TEST)
    calls = read_point(point, other)
    assert (calls.sensitivity, calls.specificity) == (0.5, 0.5)
    calls = read_point(point, other, np.array([3.0, 0.0, 1.0, 0.0]))
    assert (calls.sensitivity, calls.specificity, calls.positives, calls.negatives) == (0.75, None, 4, 0)
    calls = read_point(point, slides([], [], TEST))
    assert (calls.sensitivity, calls.specificity) == (None, None)


def test_the_same_split_another_rule_and_an_empty_split_are_refused():
    scored = slides([0.9, 0.3], [1, 0])
    point = choose_point(scored, 0.9)
    for split in (VAL, Split.of("val", ["p8"]), Split.of("test", ["p8", "p1"])):
        with pytest.raises(LabelError, match="the operating point was chosen on split 'val'"):
            read_point(point, slides([0.9], [1], split))
    with pytest.raises(LabelError, match="the slides were scored by"):
        read_point(point, slides([3.0], [1], TEST, SlideRule(name="count")))
    with pytest.raises(LabelError, match="split 'val' has no positive slide"):
        choose_point(slides([0.9], [0]), 0.9)
    for wanted in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="a sensitivity lies in"):
            choose_point(scored, wanted)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.9]), st.booleans()), min_size=1), st.floats(0.01, 1))
@settings(max_examples=80, deadline=None)
def test_the_chosen_threshold_is_the_highest_that_reaches_the_sensitivity(rows, wanted):
    scored = slides([score for score, _ in rows], [flag for _, flag in rows])
    if not scored.positive.any():
        return
    point = choose_point(scored, wanted)
    assert read_point(point, scored, same_split=True).sensitivity >= wanted - 1e-9
    higher = scored.scores[scored.scores > point.threshold]
    for threshold in set(higher.tolist()):
        assert (scored.scores[scored.positive] >= threshold).mean() < wanted


def test_grades_written_out():
    expected = {"NILM": 0, "EMC-45": 0, "CANDIDA": 0, "ASC-US": 1, "LSIL": 2, "AGC": 3, "ASC-H": 4, "AGC-FN": 4}
    expected |= {"HSIL": 5, "AIS": 5, "SCC": 6, "ADC": 6, "OTHER-MN": 6}
    assert {name: grade([name]) for name in expected} == expected
    assert grade(["NILM", "HSIL", "LSIL"]) == 5
    assert grade([]) == 0
    assert len(GRADES) == 6


def test_slides_are_graded_by_what_is_shown():
    predictions = [found([("SCC", 0.2), ("LSIL", 0.5), ("NILM", 0.9)]), found([], "b")]
    real, called = grades(predictions, [truth(["HSIL", "NILM"]), truth([], "b")], 0.5)
    assert (real.tolist(), called.tolist()) == ([5, 0], [2, 0])
    assert [part.tolist() for part in grades([], [], 0.5)] == [[], []]
    assert slide_scores([], [], SlideRule(), VAL).scores.tolist() == []
    ignored = FieldTruth("a", 0, 0, np.zeros((0, 4)), [], np.array([[0.0, 0, 9, 9]]))
    assert grades([], [ignored], 0.5)[0].tolist() == [0]


def test_fields_of_a_slide_count_together():
    predictions = [found([("HSIL", 0.9)]), found([("LSIL", 0.7), ("NILM", 0.8)], "b"), found([("LSIL", 0.4)], "c")]
    truths = [truth(["NILM"]), truth(["SCC"], "b"), truth([], "c"), truth(["LSIL"], "d")]
    columns, of_image = lay_out(predictions, truths), np.array([1, 0, 1, 1])
    scored = slide_scores_in(columns, SlideRule(name="mean_top", top=2), VAL, of_image)
    assert scored.scores == pytest.approx([0.35, 0.65])
    assert scored.positive.tolist() == [True, True]
    real, called = grades_in(columns, 0.5, of_image)
    assert (real.tolist(), called.tolist()) == ([6, 2], [2, 5])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([], [], None),
        ([2, 2], [2, 2], None),  # one category throughout: nothing chance could do otherwise
        ([0, 1, 2], [0, 1, 2], 1.0),
        ([0, 2], [2, 0], -1.0),
        # Observed 0 0 1 4, mean 5/4. Chance, all sixteen pairs of (0, 0, 2, 2) and (0, 0, 1, 0): squares sum to
        # 2 · (0 + 0 + 1 + 0) + 2 · (4 + 4 + 1 + 4) = 28, mean 7/4.
        ([0, 0, 2, 2], [0, 0, 1, 0], 1 - (5 / 4) / (28 / 16)),
    ],
)
def test_kappa_by_hand(first, second, expected):
    kappa = quadratic_kappa(np.array(first, np.int64), np.array(second, np.int64), 3)
    assert kappa == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_kappa_is_scikit_learns(seed):
    from sklearn.metrics import cohen_kappa_score

    random = np.random.default_rng(seed)
    first = random.integers(0, 7, 60)
    second = np.clip(first + random.integers(-2, 3, 60), 0, 6)
    weights = random.integers(0, 3, 60).astype(float)
    labels = list(range(7))
    expected = cohen_kappa_score(first, second, labels=labels, weights="quadratic")
    assert quadratic_kappa(first, second) == pytest.approx(expected, abs=1e-12)
    expected = cohen_kappa_score(first, second, labels=labels, weights="quadratic", sample_weight=weights)
    assert quadratic_kappa(first, second, weights=weights) == pytest.approx(expected, abs=1e-12)
