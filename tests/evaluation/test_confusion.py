"""Confusion by hand and beside scikit-learn; costs written out; missed cells and false alarms."""

import numpy as np
import pytest

from wsi_detect.errors import ConfigError, LabelError, UnmappedLabelError
from wsi_detect.evaluation.confusion import FALSE_ALARM, MISSED, calls, gravity_cost, mean_cost
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import IGNORED, UNMATCHED, match

CLASSES = ("NILM", "LSIL", "HSIL")
A, B, C, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [80, 80, 90, 90]
# Moved by a quarter of its side: IoU 0.6 with A.
NEAR_A = [2.5, 0, 12.5, 10]


def boxes(rows) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


def truth(cells: dict[str, list], name: str = "a", ignore=()) -> FieldTruth:
    rows = [(label, box) for label, places in cells.items() for box in places]
    return FieldTruth(name, 100, 100, boxes([box for _, box in rows]), [label for label, _ in rows], boxes(ignore))


def found(rows: list[tuple], name: str = "a") -> FieldPrediction:
    labels, places, scores = zip(*rows, strict=True) if rows else ((), (), ())
    return FieldPrediction(name, boxes(places), np.array(scores, float), list(labels))


@pytest.mark.parametrize(
    ("prediction", "field", "expected"),
    [
        # Columns NILM LSIL HSIL missed; rows the same and the false alarms.
        (found([]), truth({}), np.zeros((4, 4))),
        (found([]), truth({"HSIL": [A]}), {(2, 3): 1}),
        (found([("LSIL", FAR, 0.9)]), truth({}), {(3, 1): 1}),
        (found([("LSIL", A, 0.9)]), truth({"HSIL": [A]}), {(2, 1): 1}),
        (found([("HSIL", A, 0.49)]), truth({"HSIL": [A]}), {(2, 3): 1}),  # below the threshold
        (found([("HSIL", A, 0.5)]), truth({"HSIL": [A]}), {(2, 2): 1}),  # on it
        # Two names for one cell: the higher score has the word, and the other is no false alarm.
        (found([("NILM", A, 0.8), ("HSIL", A, 0.9)]), truth({"HSIL": [A]}), {(2, 2): 1}),
        # One name twice on one cell: the second is a false alarm.
        (found([("HSIL", A, 0.8), ("HSIL", NEAR_A, 0.9)]), truth({"HSIL": [A]}), {(2, 2): 1, (3, 2): 1}),
        (found([("HSIL", FAR, 0.9)]), truth({"NILM": [A]}, ignore=[[70, 70, 99, 99]]), {(0, 3): 1}),
        (
            found([("NILM", A, 0.9), ("LSIL", B, 0.8), ("NILM", FAR, 0.7)]),
            truth({"NILM": [A], "LSIL": [C], "HSIL": [B]}),
            {(0, 0): 1, (1, 3): 1, (2, 1): 1, (3, 0): 1},
        ),
    ],
)
def test_by_hand(prediction, field, expected):
    matrix = np.zeros((4, 4))
    for place, count in expected.items() if isinstance(expected, dict) else ():
        matrix[place] = count
    assert calls([prediction], [field], CLASSES, min_score=0.5).matrix().tolist() == matrix.tolist()


def test_no_image():
    nothing = calls([], [], CLASSES, min_score=0.5)
    assert nothing.matrix().tolist() == np.zeros((4, 4)).tolist()
    assert mean_cost(nothing, gravity_cost(CLASSES)) is None


def test_a_strange_class_is_named():
    with pytest.raises(LabelError, match="cells or detections of 'SCC', which has no row"):
        calls([found([("SCC", A, 0.1)])], [truth({})], CLASSES, min_score=0.5)


def random_fields(seed: int) -> tuple[list[FieldPrediction], list[FieldTruth]]:
    random = np.random.default_rng(seed)
    truths, predictions = [], []
    for image in range(8):
        corner = np.stack(np.meshgrid(np.arange(5) * 40, np.arange(5) * 40), -1).reshape(-1, 2)
        cells = np.hstack([corner, corner + 30]).astype(float)
        labels = random.choice(CLASSES, 25).tolist()
        seen = random.random(25) < 0.8
        names = [label if random.random() < 0.6 else str(random.choice(CLASSES)) for label in labels]
        stray = random.uniform(300, 900, (4, 2))
        places = np.vstack([cells[seen] + random.uniform(-2, 2, (seen.sum(), 4)), np.hstack([stray, stray + 30])])
        called = [name for name, ok in zip(names, seen, strict=True) if ok] + random.choice(CLASSES, 4).tolist()
        truths.append(FieldTruth(f"{image}", 999, 999, cells, labels))
        predictions.append(FieldPrediction(f"{image}", places, random.uniform(0, 1, len(places)), called))
    return predictions, truths


@pytest.mark.parametrize("seed", range(3))
def test_the_matrix_is_scikit_learns(seed):
    from sklearn.metrics import confusion_matrix

    predictions, truths = random_fields(seed)
    real, called, often = [], [], []
    weights = np.random.default_rng(seed).integers(0, 4, 8).astype(float)
    for image, (prediction, field) in enumerate(zip(predictions, truths, strict=True)):
        shown = prediction.take(np.flatnonzero(prediction.scores >= 0.4))
        rows = match(shown.boxes, shown.scores, field.boxes, field.ignore)
        assert IGNORED not in rows
        pairs = [(field.labels[r] if r != UNMATCHED else "-", n) for r, n in zip(rows, shown.labels, strict=True)]
        pairs += [(label, "-") for k, label in enumerate(field.labels) if k not in rows]
        real += [a for a, _ in pairs]
        called += [b for _, b in pairs]
        often += [weights[image]] * len(pairs)
    result = calls(predictions, truths, CLASSES, min_score=0.4)
    labels = [*CLASSES, "-"]
    assert result.matrix().tolist() == confusion_matrix(real, called, labels=labels).tolist()
    weighted = confusion_matrix(real, called, labels=labels, sample_weight=often)
    assert result.matrix(weights).tolist() == weighted.tolist()
    assert result.matrix()[:3].sum() == 8 * 25
    assert mean_cost(result, gravity_cost(CLASSES), weights) == pytest.approx(
        (weighted * gravity_cost(CLASSES)).sum() / weights.sum()
    )


def test_costs_written_out():
    # Gravity: NILM 0, LSIL 5, HSIL 8.
    assert gravity_cost(CLASSES).tolist() == [[0, 5, 8, 0], [10, 0, 3, 10], [16, 6, 0, 16], [0, 5, 8, 0]]
    assert gravity_cost(CLASSES, under=1, over=0).tolist() == [[0, 0, 0, 0], [5, 0, 0, 5], [8, 3, 0, 8], [0] * 4]
    assert gravity_cost(["HSIL", "AIS"])[:2, :2].tolist() == [[0, 0], [0, 0]]  # equals in gravity
    assert gravity_cost([]).tolist() == [[0]]


def test_single_costs_can_be_set():
    overrides = {("HSIL", "NILM"): 100.0, ("LSIL", MISSED): 7.0, (FALSE_ALARM, "HSIL"): 0.5}
    cost = gravity_cost(CLASSES, overrides=overrides)
    assert (cost[2, 0], cost[1, 3], cost[3, 2]) == (100, 7, 0.5)
    assert cost[2, 1] == gravity_cost(CLASSES)[2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"under": 1, "over": 2}, "under-calling must cost at least"),
        ({"under": 1, "over": -1}, "under-calling must cost at least"),
        ({"under": float("nan")}, "under-calling must cost at least"),
        ({"overrides": {("SCC", "NILM"): 1.0}}, "no cost of 'SCC' called 'NILM'"),
        ({"overrides": {(MISSED, "NILM"): 1.0}}, "no cost of 'missed' called 'NILM'"),
        ({"overrides": {(FALSE_ALARM, MISSED): 1.0}}, "no cost of 'false alarm' called 'missed'"),
        ({"overrides": {("HSIL", "NILM"): -1.0}}, "negative or not finite"),
        ({"overrides": {("HSIL", "NILM"): float("nan")}}, "negative or not finite"),
    ],
)
def test_wrong_costs_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        gravity_cost(CLASSES, **options)


def test_names_outside_the_taxonomy_have_no_cost():
    with pytest.raises(UnmappedLabelError, match="wart"):
        gravity_cost(["wart"])


def test_mean_cost_by_hand():
    # Image a: an HSIL called LSIL, 6. Image b: a false LSIL, 5.
    truths = [truth({"HSIL": [A]}), truth({}, "b")]
    result = calls([found([("LSIL", A, 0.9)]), found([("LSIL", FAR, 0.9)], "b")], truths, CLASSES, min_score=0.5)
    cost = gravity_cost(CLASSES)
    assert mean_cost(result, cost) == pytest.approx(5.5)
    assert mean_cost(result, cost, np.array([2.0, 0.0])) == pytest.approx(6.0)
    assert mean_cost(result, cost, np.array([1.0, 3.0])) == pytest.approx(21 / 4)
    assert mean_cost(result, cost, np.zeros(2)) is None
    with pytest.raises(ValueError, match="shape"):
        mean_cost(result, gravity_cost(["NILM"]))
