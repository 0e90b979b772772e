"""Hit@k by hand: which crop of the gallery is the first true one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.hits import RANKINGS, first_hits, first_hits_in, hit_at

A, B, C, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [80, 80, 90, 90]


def boxes(rows) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


def truth(cells: dict[str, list], name: str = "a", ignore=()) -> FieldTruth:
    return FieldTruth(name, 100, 100, boxes([box for box in cells.values()]), list(cells), boxes(ignore))


def found(rows: list[tuple], name: str = "a") -> FieldPrediction:
    labels, places, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return FieldPrediction(name, boxes(places), np.array(scores, float), list(labels))


@pytest.mark.parametrize(
    ("prediction", "field", "ranking", "expected"),
    [
        ([], truth({}), "score", (False, 0, 0)),
        ([("HSIL", A, 0.9)], truth({}), "score", (False, 0, 0)),
        ([("HSIL", A, 0.9)], truth({"NILM": A}), "score", (False, 0, 0)),
        ([], truth({"LSIL": A}), "score", (True, 0, 0)),
        # A NILM takes no place in the list of the abnormal.
        ([("NILM", FAR, 0.9), ("LSIL", A, 0.2)], truth({"LSIL": A}), "score", (True, 1, 1)),
        # Called graver than it is: a true abnormal all the same.
        ([("HSIL", FAR, 0.9), ("HSIL", A, 0.2)], truth({"LSIL": A}), "score", (True, 2, 2)),
        # The first true one is the LSIL; the gravest cell, the HSIL, comes third, under another name.
        (
            [("LSIL", A, 0.9), ("LSIL", FAR, 0.8), ("ASC-US", B, 0.7)],
            truth({"LSIL": A, "HSIL": B, "NILM": C}),
            "score",
            (True, 1, 3),
        ),
        # In the gallery's order classes come before scores.
        (
            [("LSIL", A, 0.9), ("HSIL", FAR, 0.3), ("SCC", B, 0.1)],
            truth({"LSIL": A, "HSIL": B}),
            "gravity",
            (True, 1, 1),
        ),
        (
            [("LSIL", A, 0.9), ("HSIL", FAR, 0.3), ("HSIL", B, 0.1)],
            truth({"LSIL": A, "HSIL": B}),
            "gravity",
            (True, 2, 2),
        ),
        ([("LSIL", A, 0.9), ("HSIL", FAR, 0.3)], truth({"LSIL": A, "HSIL": B}), "gravity", (True, 2, 0)),
        # HSIL and AIS are equals: either is the gravest.
        ([("LSIL", C, 0.9), ("AIS", B, 0.5)], truth({"HSIL": A, "AIS": B, "LSIL": C}), "score", (True, 1, 2)),
        # On a NILM cell, and a duplicate of a found one: both take a place and are not true.
        (
            [("LSIL", C, 0.9), ("LSIL", A, 0.8), ("LSIL", A, 0.7), ("LSIL", B, 0.6)],
            truth({"LSIL": A, "HSIL": B, "NILM": C}),
            "score",
            (True, 2, 4),
        ),
        # Two abnormal names of one cell are one crop.
        ([("LSIL", A, 0.9), ("HSIL", A, 0.8), ("HSIL", B, 0.7)], truth({"HSIL": B}), "score", (True, 2, 2)),
        (
            [("HSIL", FAR, 0.9), ("HSIL", A, 0.8)],
            truth({"HSIL": A}, ignore=[[70, 70, 99, 99]]),
            "score",
            (True, 1, 1),
        ),
    ],
)
def test_first_true_crop(prediction, field, ranking, expected):
    first = first_hits([found(prediction)], [field], ranking=ranking)
    assert (bool(first.asked[0]), int(first.abnormal[0]), int(first.gravest[0])) == expected


@pytest.mark.parametrize(
    ("k", "weights", "expected"),
    [
        (0, None, 0.0),
        (1, None, 1 / 3),
        (2, None, 1 / 3),
        (3, None, 2 / 3),
        (99, None, 2 / 3),
        (1, [2.0, 0.0, 1.0, 5.0], 2 / 3),
        (1, [0.0, 0.0, 0.0, 4.0], None),
    ],
)
def test_share_by_hand(k, weights, expected):
    # First crops at 1, 3 and never; the fourth image has nothing to show.
    places, asked = np.array([1, 3, 0, 0]), np.array([True, True, True, False])
    share = hit_at(places, asked, k, None if weights is None else np.array(weights))
    assert share == pytest.approx(expected)


def test_no_image():
    first = first_hits([], [])
    assert hit_at(first.abnormal, first.asked, 5) is None
    assert first.gravest.tolist() == []


def test_an_image_without_a_prediction_shows_nothing():
    first = first_hits([], [truth({"HSIL": A})])
    assert hit_at(first.abnormal, first.asked, 10) == 0.0


def test_equal_scores_keep_their_order():
    prediction = found([("LSIL", A, 0.5), ("HSIL", B, 0.5), ("LSIL", C, 0.5)])
    fields = [truth({"LSIL": A}), truth({"HSIL": B}), truth({"LSIL": C})]
    places = {
        ranking: [int(first_hits([prediction], [field], ranking=ranking).abnormal[0]) for field in fields]
        for ranking in RANKINGS
    }
    assert places == {"score": [1, 2, 3], "gravity": [2, 1, 3]}


def test_images_are_looked_at_one_by_one():
    predictions = [
        found([("HSIL", FAR, 0.9), ("HSIL", A, 0.1)], "a"),
        found([], "b"),
        found([("LSIL", A, 0.8), ("HSIL", B, 0.7)], "c"),
    ]
    truths = [truth({"HSIL": A}, "a"), truth({"LSIL": A}, "b"), truth({"LSIL": A, "HSIL": B}, "c"), truth({}, "d")]
    first = first_hits(predictions, truths)
    assert first.asked.tolist() == [True, True, True, False]
    assert first.abnormal.tolist() == [2, 0, 1, 0]
    assert first.gravest.tolist() == [2, 0, 2, 0]


def test_fields_of_a_slide_share_a_gallery():
    predictions = [found([("LSIL", A, 0.5), ("HSIL", FAR, 0.4)], "a"), found([("HSIL", FAR, 0.9)], "b")]
    predictions += [found([("HSIL", B, 0.2)], "c")]
    truths = [truth({"LSIL": A}, "a"), truth({}, "b"), truth({"HSIL": B}, "c"), truth({}, "d")]
    of_image = np.array([0, 0, 0, 1])
    first = first_hits_in(lay_out(predictions, truths), of_image)
    assert (first.asked.tolist(), first.abnormal.tolist(), first.gravest.tolist()) == ([True, False], [2, 0], [4, 0])
    first = first_hits_in(lay_out(predictions, truths), of_image, ranking="gravity")
    assert (first.abnormal.tolist(), first.gravest.tolist()) == ([3, 0], [3, 0])


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12), st.integers(0, 7))
@settings(max_examples=50, deadline=None)
def test_more_crops_never_show_less(rows, k):
    places = np.array([place for place, _ in rows])
    asked = np.array([flag for _, flag in rows])
    now, more = hit_at(places, asked, k), hit_at(places, asked, k + 1)
    assert (now is None) == (more is None) == (not asked.any())
    assert now is None or 0 <= now <= more <= 1
