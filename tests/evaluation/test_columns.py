"""Matching and merging on columns are what taking turns one by one gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.evaluation import columns as module
from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import IGNORED, UNMATCHED, ask, match, merge_labels
from wsi_detect.geometry import box_area, box_intersection, box_iou

#: Few places and sizes, so that overlaps tie and boxes coincide.
BOX = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 6), st.integers(1, 6))
BOXES = st.lists(BOX, max_size=12).map(
    lambda rows: np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float64).reshape(-1, 4)
)
SCORES = st.integers(0, 3)


def in_turn(boxes, scores, cells, ignore, threshold):
    """COCO's rule as it is written down: detections in order, each takes the best free cell."""
    result, free = np.full(len(boxes), UNMATCHED), np.ones(len(cells), bool)
    for row in np.argsort(-scores, kind="stable"):
        best, most = UNMATCHED, min(threshold, 1 - 1e-10)
        for cell in range(len(cells)):
            overlap = box_iou(boxes[row], cells[cell])[0, 0]
            if free[cell] and overlap >= most:
                best, most = cell, overlap
        result[row] = best
        if best != UNMATCHED:
            free[best] = False
        elif len(ignore):
            inside = box_intersection(boxes[row], ignore).max() / box_area(boxes[row])[0]
            result[row] = IGNORED if inside >= min(threshold, 1 - 1e-10) else UNMATCHED
    return result


@settings(max_examples=150, deadline=None)
@given(BOXES, BOXES, BOXES, st.data(), st.sampled_from([0.25, 0.5, 0.75, 1.0]))
def test_asking_is_taking_turns(boxes, cells, ignore, data, threshold):
    scores = np.array(data.draw(st.lists(SCORES, min_size=len(boxes), max_size=len(boxes))), float)
    expected = in_turn(boxes, scores, cells, ignore, threshold)
    assert match(boxes, scores, cells, ignore, threshold).tolist() == expected.tolist()


@settings(max_examples=100, deadline=None)
@given(BOXES, st.data())
def test_merging_is_suppression_in_turn(boxes, data):
    size = {"min_size": len(boxes), "max_size": len(boxes)}
    scores = np.array(data.draw(st.lists(SCORES, **size)), float)
    labels = data.draw(st.lists(st.sampled_from(["NILM", "LSIL", "HSIL"]), **size))
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        rivals = [other for other in kept if labels[other] != labels[row]]
        if not any(box_iou(boxes[row], boxes[other])[0, 0] >= 0.5 for other in rivals):
            kept.append(row)
    merged = merge_labels(FieldPrediction("a", boxes, scores, labels))
    assert merged.boxes.tolist() == boxes[kept].tolist()
    assert merged.labels == [labels[row] for row in kept]


@pytest.mark.parametrize("block", [1, 7, 40])
def test_blocks_of_images_change_nothing(monkeypatch, block):
    random = np.random.default_rng(0)
    predictions, truths = [], []
    for image, number in enumerate((6, 0, 9, 4, 0, 11)):
        corner = random.integers(0, 40, (number, 2)).astype(float)
        boxes = np.hstack([corner, corner + 10])
        predictions.append(
            FieldPrediction(
                f"{image}",
                boxes + 3 * (np.arange(number) % 3)[:, None],
                random.random(number),
                ["LSIL", "NILM", "HSIL"] * 9,
            )
        )
        predictions[-1] = predictions[-1].take(np.arange(number))
        truths.append(FieldTruth(f"{image}", 60, 60, boxes, (["LSIL", "HSIL"] * 9)[:number], boxes[:1] + 30))
    question = {"all": {"LSIL", "HSIL", "NILM"}}
    whole = ask(lay_out(predictions, truths), question, merge=True).pools()["all"]
    monkeypatch.setattr(module, "_BLOCK", block)
    parts = ask(lay_out(predictions, truths), question, merge=True).pools()["all"]
    assert whole.hits.any()
    assert not whole.hits.all()
    assert parts.hits.tolist() == whole.hits.tolist()
    assert parts.image.tolist() == whole.image.tolist()


def test_no_image_and_boxes_without_area():
    assert lay_out([], []).images == 0
    flat = FieldPrediction("a", np.array([[5.0, 5.0, 5.0, 9.0]]), np.array([0.9]), ["LSIL"])
    truth = FieldTruth("a", 9, 9, np.array([[0.0, 0.0, 9.0, 9.0]]), ["LSIL"])
    pool = ask(lay_out([flat], [truth]), {"LSIL": {"LSIL"}}).pools()["LSIL"]
    assert (pool.hits.tolist(), pool.n_cells) == ([False], 1)
