"""The matcher on tables worked out by hand."""

import numpy as np
import pytest

from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import IGNORED, UNMATCHED, match, merge_labels, pool

A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [80, 80, 90, 90]
NONE = np.zeros((0, 4))


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


@pytest.mark.parametrize(
    ("found", "scores", "truth", "ignore", "expected"),
    [
        ([], [], [A], [], []),
        ([A], [0.9], [], [], [UNMATCHED]),
        ([A, B], [0.9, 0.8], [A, B], [], [0, 1]),
        ([A, A], [0.5, 0.9], [A], [], [UNMATCHED, 0]),  # the duplicate of lower score is wrong
        ([A, A], [0.9, 0.9], [A], [], [0, UNMATCHED]),  # of equal scores the first has it
        ([[0, 0, 10, 5]], [0.9], [A], [], [0]),  # IoU exactly 0.5
        ([[0, 0, 10, 4.9]], [0.9], [A], [], [UNMATCHED]),
        ([[1, 0, 11, 10]], [0.9], [A, [2, 0, 12, 10]], [], [1]),  # equal overlaps: the last, as COCO
        ([A, FAR], [0.9, 0.8], [A], [[75, 75, 99, 99]], [0, IGNORED]),
        ([A], [0.9], [A], [A], [0]),  # a cell counts even inside an area to ignore
        ([[0, 0, 10, 10]], [0.9], [], [[0, 0, 10, 4.9]], [UNMATCHED]),
    ],
)
def test_match(found, scores, truth, ignore, expected):
    result = match(boxes(*found), np.array(scores), boxes(*truth), boxes(*ignore))
    assert result.tolist() == expected


def test_best_overlap_first_come():
    # The graver overlap belongs to the second detection, but the first, scoring higher, has taken that cell.
    truth = boxes([0, 0, 10, 10], [4, 0, 14, 10])
    found = boxes([3, 0, 13, 10], [4, 0, 14, 10])
    assert match(found, np.array([0.9, 0.8]), truth, NONE).tolist() == [1, UNMATCHED]


@pytest.mark.parametrize(
    ("labels", "scores", "kept"),
    [
        (["NILM", "LSIL"], [0.9, 0.8], ["NILM"]),
        (["NILM", "LSIL"], [0.7, 0.8], ["LSIL"]),
        (["LSIL", "LSIL"], [0.9, 0.8], ["LSIL", "LSIL"]),  # a duplicate stays, and will be a false positive
    ],
)
def test_labels_of_one_cell_are_merged(labels, scores, kept):
    merged = merge_labels(FieldPrediction("a", boxes(A, [1, 0, 11, 10]), np.array(scores), labels))
    assert merged.labels == kept


def test_neighbours_of_another_class_stay():
    found = FieldPrediction("a", boxes(A, [4, 0, 14, 10]), np.array([0.9, 0.8]), ["NILM", "LSIL"])  # IoU 0.43
    assert merge_labels(found).labels == ["NILM", "LSIL"]


def test_pool_orders_all_images_by_score():
    truths = [FieldTruth("a", 99, 99, boxes(A), ["LSIL"]), FieldTruth("b", 99, 99, boxes(B, A), ["LSIL", "NILM"])]
    predictions = [
        FieldPrediction("b", boxes(B, FAR), np.array([0.9, 0.3]), ["LSIL", "LSIL"]),
        FieldPrediction("a", boxes(A), np.array([0.5]), ["LSIL"]),
    ]
    found = pool(predictions, truths, {"LSIL"})
    assert found.scores.tolist() == [0.9, 0.5, 0.3]
    assert found.hits.tolist() == [True, True, False]
    assert found.image.tolist() == [1, 0, 1]
    assert found.cells.tolist() == [1, 1]
