import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_detect.stitching.hilbert import ORDER, curve_order, hilbert_key

SIDE = 1 << ORDER


def along(x, y):
    """Keys of the curve's own squares."""
    return hilbert_key(np.asarray(x) + 0.5, np.asarray(y) + 0.5, SIDE, SIDE)


def one_key(x, y):
    """The textbook's way, one point at a time: find the quarter, turn it upright, go on inside."""
    key, side = 0, SIDE
    while side > 1:
        side //= 2
        right, below = x >= side, y >= side
        key = 4 * key + (3 * right ^ below)
        x, y = x % side, y % side
        if not below:
            x, y = (side - 1 - y, side - 1 - x) if right else (y, x)
    return key


def test_the_first_squares_are_the_curve_of_the_book():
    # Order 2, rows from the top; ORDER is even, so the curve starts as that one does.
    assert along(np.tile(np.arange(4), 4), np.repeat(np.arange(4), 4)).reshape(4, 4).tolist() == [
        [0, 1, 14, 15],
        [3, 2, 13, 12],
        [4, 7, 8, 11],
        [5, 6, 9, 10],
    ]


@pytest.mark.parametrize("side", [1, 2, 8, 32, 64])
@pytest.mark.parametrize("corner", [0, SIDE // 2, SIDE - 64])
def test_every_square_has_its_key_and_neighbours_on_the_curve_touch(side, corner):
    x, y = (axis.ravel() + corner for axis in np.meshgrid(np.arange(side), np.arange(side)))
    keys = along(x, y)
    order = np.argsort(keys)
    assert keys.dtype == np.uint64
    assert np.array_equal(keys[order], keys.min() + np.arange(side * side, dtype=np.uint64))
    assert np.array_equal(np.abs(np.diff(x[order])) + np.abs(np.diff(y[order])), np.ones(side * side - 1))


@given(st.lists(st.tuples(st.integers(0, SIDE - 1), st.integers(0, SIDE - 1)), max_size=20))
def test_the_vectorised_curve_is_the_textbooks(points):
    x, y = np.array(points, dtype=np.int64).reshape(-1, 2).T
    assert along(x, y).tolist() == [one_key(a, b) for a, b in points]


def test_what_lies_outside_counts_as_on_the_edge():
    x, y = np.array([-5.0, 5e9, -1e300, 1000]), np.array([-5.0, -1, 1e300, 1000.0])
    edge = np.array([0.0, 1000, 0, 1000]), np.array([0.0, 0, 1000, 1000])
    assert hilbert_key(x, y, 1000, 400).tolist() == hilbert_key(*edge, 1000, 400).tolist()
    assert hilbert_key(x[:0], y[:0], 1000, 400).shape == (0,)


def test_cells_of_one_square_are_ordered_by_box_then_label_then_score():
    # Centres (8, 8) but for the first, which lies at the curve's start.
    boxes = [(0, 0, 2, 2), (8, 8, 8, 8), (6, 6, 10, 10), (7, 6, 9, 10), (6, 7, 10, 9), *[(6, 6, 10, 10)] * 3]
    label, score = [5, 0, 1, 0, 0, 1, 0, 1], [0.1, 0.9, 0.5, 0.9, 0.9, 0.7, 0.1, 0.5]
    order = curve_order(np.array(boxes, float), np.array(label), np.array(score, np.float32), 100, 100)
    assert order.tolist() == [0, 6, 5, 2, 7, 3, 4, 1]
    assert curve_order(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), 100, 100).tolist() == []
