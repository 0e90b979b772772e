"""Assignments with the answers written out: none, ties, thresholds; the reference vectors are in test_vectors."""

import pytest
import torch

from wsi_detect.detectors.assign import (
    BACKGROUND,
    IGNORED,
    IoURule,
    assign_adaptive,
    assign_iou,
    assign_nearest_point,
    assign_uniform,
)
from wsi_detect.detectors.points import anchors, per_point, pyramid_points

NONE = torch.zeros(0, 4)


def grid(side=8, stride=8):
    return pyramid_points([(side, side)], [stride], torch.device("cpu"))


def boxes(*rows):
    return torch.tensor(rows).float()


def test_anchors_of_a_point_lie_together_ratio_by_ratio():
    points = pyramid_points([(1, 2)], [8], torch.device("cpu"))
    found = anchors(points, (2.0, 4.0), (1.0, 4.0))
    assert found[:4].tolist() == [[-8, -8, 8, 8], [-16, -16, 16, 16], [-4, -16, 4, 16], [-8, -32, 8, 32]]
    assert found[4].tolist() == [0, -8, 16, 8]
    assert per_point(points, 4).xy[:5].tolist() == [[0, 0]] * 4 + [[8, 0]]
    assert per_point(points, 4).sizes == (8,)


def test_whole_px_anchors_are_cut_and_rounded():
    points = pyramid_points([(1, 1)], [8], torch.device("cpu"))
    # 8 * 1.3 = 10.4 → 10; half of it times sqrt(2) and its inverse, 7.07 and 3.54, rounded.
    assert anchors(points, (1.3,), (2.0,), whole_px=True).tolist() == [[-4, -7, 4, 7]]


ROW = boxes([0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [30, 0, 40, 10])


@pytest.mark.parametrize(
    ("rule", "wanted", "expected"),
    [
        # IoU with the box: 1, 0.43, 0.11, 0.
        (IoURule(0.5, 0.4, "none"), [[0, 0, 10, 10]], [0, IGNORED, BACKGROUND, BACKGROUND]),
        (IoURule(0.5, 0.5, "none"), [[0, 0, 10, 10]], [0, BACKGROUND, BACKGROUND, BACKGROUND]),
        (IoURule(0.5, (0.05, 0.4), "none"), [[0, 0, 10, 10]], [0, IGNORED, BACKGROUND, IGNORED]),
        # Two anchors share a box's best IoU of 2/3.
        (IoURule(0.9, 0.3, "own"), [[2, 0, 12, 10]], [0, 0, BACKGROUND, BACKGROUND]),
        (IoURule(0.9, 0.3, "own", ties=False), [[2, 0, 12, 10]], [0, IGNORED, BACKGROUND, BACKGROUND]),
        (IoURule(0.9, 0.3, "own", least=0.7), [[2, 0, 12, 10]], [IGNORED, IGNORED, BACKGROUND, BACKGROUND]),
        # A box whose best anchor prefers another: it stays without one, or takes it.
        (IoURule(0.5, 0.4, "own"), [[0, 0, 10, 10], [0, 0, 3, 10]], [0, IGNORED, BACKGROUND, BACKGROUND]),
        (IoURule(0.5, 0.4, "forced"), [[0, 0, 10, 10], [0, 0, 3, 10]], [1, IGNORED, BACKGROUND, BACKGROUND]),
        # A box that touches no anchor claims none.
        (IoURule(0.5, 0.4, "forced"), [[70, 70, 80, 80]], [BACKGROUND] * 4),
    ],
)
def test_iou(rule, wanted, expected):
    assert assign_iou(ROW, boxes(*wanted), rule).tolist() == expected


def test_nothing_to_assign():
    points, squares = grid(), anchors(grid(), (2.0,))
    everything = [
        assign_iou(squares, NONE, IoURule()),
        assign_adaptive(squares, points.sizes, NONE),
        assign_nearest_point(points, NONE),
        assign_uniform(squares, squares, NONE).matched,
    ]
    assert [found.tolist() for found in everything] == [[BACKGROUND] * 64] * 4
    assert assign_iou(NONE, boxes([0, 0, 4, 4]), IoURule()).tolist() == []
    assert assign_adaptive(NONE, (0,), boxes([0, 0, 4, 4])).tolist() == []
    assert len(assign_uniform(NONE, NONE, boxes([0, 0, 4, 4])).row) == 0


def test_adaptive_takes_candidates_above_mean_and_deviation():
    points = grid(4, 8)
    # Candidates of a box on one anchor: it, and by index its neighbours at equal distance.
    found = assign_adaptive(anchors(points, (2.0,)), points.sizes, boxes([0, 0, 16, 16]), nearest=3)
    assert torch.where(found == 0)[0].tolist() == [5]
    assert found.unique().tolist() == [BACKGROUND, 0]


def test_adaptive_with_one_candidate_takes_it():
    points = pyramid_points([(1, 1)], [8], torch.device("cpu"))
    assert assign_adaptive(anchors(points, (2.0,)), (1,), boxes([-4, -4, 6, 6])).tolist() == [0]


def test_adaptive_wants_the_centre_inside():
    points = pyramid_points([(1, 2)], [8], torch.device("cpu"))
    # Centres at x = 0 and 8; the box begins right of the first.
    found = assign_adaptive(anchors(points, (8.0,)), (2,), boxes([1, -4, 6, 4]))
    assert found.tolist() == [BACKGROUND, BACKGROUND]


def test_the_nearest_point_of_the_level_of_its_size():
    points = pyramid_points([(8, 8), (4, 4)], [8, 16], torch.device("cpu"))
    # 32 px are level log2(32 / 4) = 3, stride 8; 64 px level 4, stride 16; anything larger the last.
    small, large, huge = [7, 7, 39, 39], [0, 0, 64, 64], [-900, -900, 964, 964]
    found = assign_nearest_point(points, boxes(small, large))
    assert torch.where(found >= 0)[0].tolist() == [3 * 8 + 3, 64 + 2 * 4 + 2]
    assert found[found >= 0].tolist() == [0, 1]
    # Of two boxes at the same distance, the first; the nearer one, whatever its place.
    assert assign_nearest_point(points, boxes(large, huge)).max() == 0
    assert assign_nearest_point(points, boxes([2, 2, 66, 66], large))[64 + 10] == 1
    assert int((assign_nearest_point(points, boxes(small), nearest=1000) >= 0).sum()) == 64


def test_uniform_pairs_and_their_order():
    squares = boxes([1, 0, 11, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10])
    predicted = boxes([0, 0, 10, 10], [20, 0, 30, 10], [19, 0, 29, 10], [60, 0, 70, 10])
    pairs = assign_uniform(squares, predicted, boxes([20, 0, 30, 10]), k=1)
    assert (pairs.row.tolist(), pairs.box.tolist(), pairs.valid.tolist()) == ([1, 1], [0, 0], [True, True])
    # The third prediction fits (IoU 0.82) but is nobody's: neither positive nor background.
    assert pairs.matched.tolist() == [BACKGROUND, 0, IGNORED, BACKGROUND]
    # The next anchor, 19 px away, has no IoU with the box: as a pair it is not valid, and the row is ignored.
    two = assign_uniform(squares, predicted, boxes([20, 0, 30, 10]), k=2)
    assert two.row.tolist() == [1, 1, 2, 0]
    assert two.valid.tolist() == [True, True, False, False]
    assert two.matched.tolist() == [IGNORED, 0, IGNORED, BACKGROUND]
    assert len(assign_uniform(squares, predicted, boxes([20, 0, 30, 10]), k=9).row) == 8


def test_of_two_boxes_that_claim_a_row_the_later_pair_wins():
    squares = boxes([0, 0, 10, 10])
    wanted = boxes([0, 0, 10, 10], [1, 0, 11, 10])
    assert assign_uniform(squares, squares, wanted, k=1).matched.tolist() == [1]


def test_predictions_that_are_no_numbers_are_the_last_to_be_taken():
    """The loss will be none either, and training stops on that with its own message."""
    squares = boxes([0, 0, 10, 10], [20, 0, 30, 10])
    lost = torch.full((2, 4), torch.nan)
    assert assign_uniform(squares, lost, boxes([20, 0, 30, 10]), k=1).row.tolist() == [0, 1]
