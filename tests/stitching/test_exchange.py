"""Views of two patches paired for the best sum of likenesses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from wsi_detect.stitching.exchange import Rivals, best_sum

# Candidates (view here, view there, likeness in hundredths), the most alike first; what going by that order chooses;
# what has the best sum.
TABLE = {
    "nothing": ([], [], []),
    "one pair": ([(0, 0, 50)], [0], [0]),
    "no rivals": ([(0, 0, 60), (1, 1, 50)], [0, 1], [0, 1]),
    "the most alike are right": ([(0, 0, 90), (1, 1, 80), (0, 1, 40), (1, 0, 35)], [0, 1], [0, 1]),
    "both swap": ([(0, 1, 70), (0, 0, 65), (1, 1, 64), (1, 0, 31)], [0, 3], [1, 2]),
    "one makes way for two": ([(0, 1, 70), (0, 0, 65), (1, 1, 64)], [0], [1, 2]),
    "equal sums stay": ([(0, 1, 60), (0, 0, 50), (1, 1, 50), (1, 0, 40)], [0, 3], [0, 3]),
    "the better of two ways": ([(0, 1, 70), (0, 0, 60), (0, 2, 55), (1, 1, 50)], [0], [1, 3]),
    "two clumps at once": (
        [(0, 1, 70), (2, 3, 69), (0, 0, 65), (1, 1, 64), (2, 2, 63), (3, 3, 62)],
        [0, 1],
        [2, 3, 4, 5],
    ),
    "one exchange opens the next": (
        [(0, 1, 70), (1, 2, 69), (0, 0, 65), (1, 1, 64), (2, 2, 63), (1, 0, 31)],
        [0, 1],
        [2, 3, 4],
    ),
}


def rivals(candidates):
    one, other, worth = np.array(candidates, dtype=np.int64).reshape(-1, 3).T
    return Rivals(one, other, worth, np.arange(len(worth)))


def greedy(known):
    chosen, ones, others = np.zeros(len(known.one), dtype=bool), set(), set()
    for k, (a, b) in enumerate(zip(known.one.tolist(), known.other.tolist(), strict=True)):
        if a not in ones and b not in others:
            chosen[k] = True
            ones.add(a)
            others.add(b)
    return chosen


@pytest.mark.parametrize("name", TABLE)
def test_table(name):
    candidates, first, expected = TABLE[name]
    known = rivals(candidates)
    begun = greedy(known)
    assert np.flatnonzero(begun).tolist() == first
    assert np.flatnonzero(best_sum(known, begun)).tolist() == expected
    assert np.flatnonzero(begun).tolist() == first, "what is given stays as it is"


@given(seed=st.integers(0, 2**32 - 1), number=st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_no_view_twice_and_never_a_smaller_sum(seed, number):
    rng = np.random.default_rng(seed)
    ends = np.unique(rng.integers(0, 12, (number, 2)), axis=0)
    worth = np.sort(rng.integers(30, 100, len(ends)))[::-1]
    known = Rivals(*rng.permutation(ends).T, worth, np.arange(len(ends)))
    begun = greedy(known)
    chosen = best_sum(known, begun)
    for view in (known.one, known.other):
        assert len(np.unique(view[chosen])) == chosen.sum()
    assert worth[begun].sum() <= worth[chosen].sum() <= _most(known)
    assert (best_sum(known, chosen) == chosen).all()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_two_cells_side_by_side_get_the_best_there_is(seed):
    """Where two views here meet two there, every choice is an exchange or two away."""
    rng = np.random.default_rng(seed)
    ends = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])[rng.permutation(4)[: rng.integers(1, 5)]]
    worth = np.sort(rng.integers(30, 100, len(ends)))[::-1]
    known = Rivals(*ends.T, worth, np.arange(len(ends)))
    assert worth[best_sum(known, greedy(known))].sum() == _most(known)


def _most(known):
    table = np.zeros((known.one.max() + 1, known.other.max() + 1), dtype=np.int64)
    table[known.one, known.other] = known.worth
    return table[linear_sum_assignment(table, maximize=True)].sum()
