"""AP50: answers by hand, then two independent engines as oracles on random fields."""

import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest

from wsi_detect.errors import LabelError, NonFiniteError
from wsi_detect.evaluation.average_precision import ap50, average_precision, to_coco
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import pool

CLASSES = ("NILM", "LSIL", "HSIL")


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [80, 80, 90, 90]


def truth(labels: list[str], rows: list[list[float]], name: str = "a", ignore: list[list[float]] | None = None):
    return FieldTruth(name, 100, 100, boxes(*rows), labels, boxes(*(ignore or [])))


def found(labels: list[str], rows: list[list[float]], scores: list[float], name: str = "a"):
    return FieldPrediction(name, boxes(*rows), np.array(scores), labels)


@pytest.mark.parametrize(
    ("prediction", "field", "expected"),
    [
        (found(["LSIL"], [A], [0.9]), truth(["LSIL"], [A]), {"LSIL": 1.0, "NILM": None, "mean": 1.0, "agnostic": 1.0}),
        (found([], [], []), truth(["LSIL"], [A]), {"LSIL": 0.0, "NILM": None, "mean": 0.0, "agnostic": 0.0}),
        (found(["LSIL"], [A], [0.9]), truth([], []), {"LSIL": None, "mean": None, "agnostic": None}),
        # The right place under the wrong name.
        (found(["NILM"], [A], [0.9]), truth(["LSIL"], [A]), {"LSIL": 0.0, "NILM": None, "mean": 0.0, "agnostic": 1.0}),
        # One cell named twice: the name that scores lower does not count against it where the name does not matter.
        (
            found(["NILM", "LSIL"], [A, A], [0.9, 0.8]),
            truth(["LSIL"], [A]),
            {"LSIL": 1.0, "NILM": None, "agnostic": 1.0},
        ),
        # One of two found, a false positive above it: precision 1/2 up to recall 1/2, 51 of 101 points.
        (
            found(["LSIL", "LSIL"], [FAR, A], [0.9, 0.8]),
            truth(["LSIL", "LSIL"], [A, B]),
            {"LSIL": 0.5 * 51 / 101, "mean": 0.5 * 51 / 101},
        ),
        # The same with the false positive in an area to ignore.
        (
            found(["LSIL", "LSIL"], [FAR, A], [0.9, 0.8]),
            truth(["LSIL", "LSIL"], [A, B], ignore=[[70, 70, 100, 100]]),
            {"LSIL": 51 / 101, "agnostic": 51 / 101},
        ),
        # The mean is over the classes the truth has.
        (
            found(["LSIL"], [A], [0.9]),
            truth(["LSIL", "HSIL"], [A, B]),
            {"LSIL": 1.0, "HSIL": 0.0, "NILM": None, "mean": 0.5},
        ),
    ],
)
def test_by_hand(prediction, field, expected):
    result = ap50([prediction], [field], CLASSES)
    assert set(result) == {*CLASSES, "mean", "agnostic"}
    assert {name: result[name] for name in expected} == pytest.approx(expected)


def test_refusals():
    field = truth(["LSIL"], [A])
    with pytest.raises(NonFiniteError, match="image a"):
        ap50([found(["LSIL"], [A], [float("nan")])], [field], CLASSES)
    with pytest.raises(LabelError, match="no truth: b"):
        ap50([found(["LSIL"], [A], [0.5], "b")], [field], CLASSES)
    with pytest.raises(LabelError, match="twice"):
        ap50([], [field, field], CLASSES)


def random_fields(seed: int) -> tuple[list[FieldPrediction], list[FieldTruth]]:
    """Ten fields: jittered detections, wrong names, duplicates, tied scores, noise, areas to ignore."""
    random = np.random.default_rng(seed)
    truths, predictions = [], []
    for image in range(10):
        corner = random.uniform(0, 400, (30, 2))
        cells = np.hstack([corner, corner + random.uniform(20, 60, (30, 2))])
        labels = random.choice(CLASSES, 30, p=[0.7, 0.2, 0.1]).tolist()
        rows = random.integers(0, 30, 40)
        noise = random.uniform(0, 400, (8, 2))
        guess = np.vstack([cells[rows] + random.normal(0, 5, (40, 4)), np.hstack([noise, noise + 40])])
        guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
        names = [labels[row] if random.random() < 0.7 else str(random.choice(CLASSES)) for row in rows]
        names += random.choice(CLASSES, 8).tolist()
        crowd = noise[:2] if image % 2 else noise[:0]
        truths.append(FieldTruth(f"{image}", 500, 500, cells, labels, np.hstack([crowd - 2, crowd + 45])))
        predictions.append(FieldPrediction(f"{image}", guess, random.uniform(0, 1, 48).round(1), names))
    return predictions, truths


def pycocotools_ap(predictions: list[FieldPrediction], truths: list[FieldTruth]) -> dict[str, float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content, results = to_coco(predictions, truths, {name: {name} for name in CLASSES})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **content}
        coco.createIndex()
        job = COCOeval(coco, coco.loadRes(results), "bbox")
        job.params.maxDets = [1000]
        job.evaluate()
        job.accumulate()
    return {name: float(job.eval["precision"][0, :, k, 0, 0].mean()) for k, name in enumerate(CLASSES)}


@pytest.mark.parametrize("seed", range(4))
def test_three_engines_agree(seed):
    predictions, truths = random_fields(seed)
    ours = ap50(predictions, truths, CLASSES)
    oracle = pycocotools_ap(predictions, truths)
    for name in CLASSES:
        assert 0 < oracle[name] < 1
        assert ours[name] == pytest.approx(oracle[name], abs=1e-12)
        assert average_precision(pool(predictions, truths, {name})) == pytest.approx(oracle[name], abs=1e-12)


def test_weights_count_images_as_often_as_drawn():
    predictions, truths = random_fields(7)
    drawn = [0, 0, 1, 3, 3, 3]
    weights = np.bincount(drawn, minlength=10).astype(float)
    again = [replace(truths[i], image_id=f"{k}") for k, i in enumerate(drawn)]
    # Distinct scores, because the order of equal ones is not the same in the two.
    shifted = [
        FieldPrediction(p.image_id, p.boxes, p.scores + np.arange(48) * 1e-4 + k * 1e-2 / 3, p.labels)
        for k, p in enumerate(predictions)
    ]
    copies = [replace(shifted[i], image_id=f"{k}") for k, i in enumerate(drawn)]
    weighted = average_precision(pool(shifted, truths, {"NILM"}), weights)
    # Copies stand side by side, one before the other: the curve has more points, never a lower envelope.
    assert weighted == pytest.approx(average_precision(pool(copies, again, {"NILM"})), abs=2e-3)
