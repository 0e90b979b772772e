import numpy as np
import pytest

from wsi_detect.geometry import box_iou
from wsi_detect.stitching.agreement import compare_cells


def cells(*rows):
    """Boxes and classes of cells given as (x0, y0, x1, y1, class)."""
    return np.array([row[:4] for row in rows], float).reshape(-1, 4), np.array([row[4] for row in rows], object)


A, B = (0, 0, 10, 10, "NILM"), (100, 0, 110, 10, "HSIL")
MOVED = (0, 3, 10, 13, "NILM")  # IoU with A 70 / 130 = 0.54
FURTHER = (0, 4, 10, 14, "NILM")  # 60 / 140 = 0.43


@pytest.mark.parametrize(
    ("first", "second", "partner"),
    [
        ((), (), []),
        ((A,), (), [-1]),
        ((), (A,), []),
        ((A, B), (B, A), [1, 0]),
        ((A,), (MOVED,), [0]),
        ((A,), (FURTHER,), [-1]),
        # The most alike are one, the other is left alone.
        ((A,), (MOVED, A), [1]),
        ((MOVED, A), (A,), [-1, 0]),
        # Each of a clump finds itself, though it overlaps its neighbour as well.
        ((A, MOVED), (MOVED, A), [1, 0]),
        # Of equal boxes the one of the same class, whatever the order.
        (((*A[:4], "HSIL"), A), (A, (*A[:4], "HSIL")), [1, 0]),
        ((A,), ((*A[:4], "HSIL"),), [0]),
        # A box without area is no cell's second view.
        (((5, 5, 5, 5, "NILM"),), ((5, 5, 5, 5, "NILM"),), [-1]),
    ],
)
def test_cells_are_paired_one_to_one(first, second, partner):
    assert compare_cells(cells(*first), cells(*second)).partner.tolist() == partner


def test_counts():
    first = cells(A, B, (200, 0, 210, 10, "LSIL"), (300, 0, 310, 10, "LSIL"))
    second = cells(A, (*B[:4], "LSIL"), (200, 0, 210, 10, "LSIL"), (400, 0, 410, 10, "NILM"))
    found = compare_cells(first, second)
    assert found.counts() == {
        "first": 4,
        "second": 4,
        "same": 2,
        "renamed": 1,
        "first_only": 1,
        "second_only": 1,
    }
    keys = ("first", "second", "same", "renamed_from", "renamed_to", "first_only", "second_only")
    assert {name: tuple(counts[key] for key in keys) for name, counts in found.by_class().items()} == {
        "HSIL": (1, 0, 0, 1, 0, 0, 0),
        "LSIL": (2, 2, 1, 0, 1, 1, 0),
        "NILM": (1, 2, 1, 0, 0, 0, 1),
    }
    assert list(found.by_class()) == ["HSIL", "LSIL", "NILM"]


def test_crowded_pairs_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 60, (2, 150, 2)).astype(float)
    first, second = (np.hstack([c, c + rng.integers(10, 16, (150, 2))]) for c in corner)
    names = np.full(150, "NILM", object)
    likeness = np.round(box_iou(first, second), 6)
    expected = np.full(150, -1)
    taken = set()
    for i, j in sorted(np.argwhere(likeness >= 0.5).tolist(), key=lambda p: (-likeness[*p], *p)):
        if expected[i] < 0 and j not in taken:
            expected[i] = j
            taken.add(j)
    assert (expected >= 0).sum() > 50
    assert compare_cells((first, names), (second, names)).partner.tolist() == expected.tolist()
