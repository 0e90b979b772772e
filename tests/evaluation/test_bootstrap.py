"""Resampling by group: whole groups are drawn, the same draws for every run, by hand and against the definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.bootstrap import (
    Interval,
    draws,
    group_numbers,
    paired_replicates,
    percentile_interval,
    percentile_intervals,
)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [([], []), (["b", "a", "b"], [0, 1, 0]), ([7, 7, 7], [0, 0, 0]), (range(3), [0, 1, 2])],
)
def test_groups_are_numbered_as_they_come(groups, expected):
    assert group_numbers(groups).tolist() == expected


def test_images_of_a_group_are_drawn_together_and_as_many_groups_as_there_are():
    groups = ["p1", "p2", "p1", "p3", "p2", "p1"]
    weights = np.array(list(draws(groups, 200, seed=1)))
    assert weights.shape == (200, 6)
    assert (weights[:, [0, 0, 1]] == weights[:, [2, 5, 4]]).all()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()
    # Two groups: each is drawn twice in a quarter of the draws.
    twice = np.array(list(draws(["a", "b", "b"], 4000, seed=0)))[:, 0]
    assert np.bincount(twice.astype(int), minlength=3) / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


@pytest.mark.parametrize("groups", [[], ["a"], ["a", "a", "a"]])
def test_fewer_than_two_groups_give_no_interval(groups):
    assert list(draws(groups, 50, seed=0)) == []
    assert percentile_intervals(lambda w: {"x": 1.0}, len(groups), groups=groups) == {}


@pytest.mark.parametrize(
    ("values", "confidence", "expected"),
    [
        ([], 0.95, Interval(None, None, 0)),
        ([np.nan, np.nan], 0.95, Interval(None, None, 2)),
        ([0.0, 1.0, 2.0, 3.0, 4.0], 0.5, Interval(1.0, 3.0, 0)),
        ([4.0, np.nan, 0.0, 2.0, 1.0, 3.0, np.nan], 0.5, Interval(1.0, 3.0, 2)),
    ],
)
def test_percentiles_by_hand(values, confidence, expected):
    assert percentile_interval(np.array(values), confidence) == expected


def test_undefined_replicates_are_counted():
    # The figure has no value unless image 0 is drawn: of two images in a quarter of the draws.
    interval = percentile_intervals(lambda w: {"x": float(w[0]) or None}, 2, replicates=2000)["x"]
    assert (interval.low, interval.high) == (1.0, 2.0)
    assert interval.undefined / 2000 == pytest.approx(0.25, abs=0.03)


def test_seed_decides():
    def mean(weights):
        return {"mean": float(weights @ np.arange(9.0) / weights.sum())}

    once, again, other = (percentile_intervals(mean, 9, replicates=50, seed=seed) for seed in (3, 3, 4))
    assert once == again != other


def test_runs_are_drawn_together():
    values = np.random.default_rng(0).normal(size=12)
    runs = [lambda w, shift=shift: {"x": float(w @ values / 12) + shift} for shift in (0.0, 0.25)]
    groups = [name for name in "aabbccddeeff"]
    first, second = paired_replicates(runs, groups, replicates=30)
    assert first["x"].std() > 0.1
    assert second["x"] - first["x"] == pytest.approx(np.full(30, 0.25))


def test_every_image_needs_a_group():
    with pytest.raises(LabelError, match="2 groups for 3 images"):
        percentile_intervals(lambda w: {"x": 1.0}, 3, groups=["a", "b"])


def test_copies_of_an_image_do_not_make_its_group_surer():
    """Six patients, each photographed 50 times over: the interval is that of six values, not of three hundred."""
    values = np.random.default_rng(5).normal(size=6)

    def mean_of(x):
        return lambda w: {"mean": float(w @ x / w.sum())}

    many = np.repeat(values, 50)
    plain = percentile_intervals(mean_of(values), 6, replicates=400)["mean"]
    grouped = percentile_intervals(mean_of(many), 300, groups=np.repeat(np.arange(6), 50).tolist(), replicates=400)
    by_image = percentile_intervals(mean_of(many), 300, replicates=400)["mean"]
    assert (grouped["mean"].low, grouped["mean"].high) == pytest.approx((plain.low, plain.high))
    assert by_image.high - by_image.low < (plain.high - plain.low) / 4


def test_draws_are_uniform_over_all_ways_to_draw():
    counts = {key: 0 for key in itertools.product(range(4), repeat=3) if sum(key) == 3}
    for weights in draws("abc", 9000, seed=2):
        counts[tuple(weights.astype(int))] += 1
    # Of 27 ordered draws one gives (3, 0, 0), three give (2, 1, 0), six give (1, 1, 1).
    for key, count in counts.items():
        expected = {(3, 0, 0): 1, (2, 1, 0): 3, (1, 1, 1): 6}[tuple(sorted(key, reverse=True))]
        assert count / 9000 == pytest.approx(expected / 27, abs=0.02)


@given(values=st.lists(st.floats(-5, 5), min_size=0, max_size=20), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_groups_of_one_image_are_images(values, seed):
    x = np.array(values)

    def mean(weights):
        return {"mean": float(weights @ x / weights.sum())}

    names = [f"patient {k}" for k in range(len(x))]
    by_group = percentile_intervals(mean, len(x), groups=names, replicates=20, seed=seed)
    assert by_group == percentile_intervals(mean, len(x), replicates=20, seed=seed)
    # And those of one draw of images after the other.
    random = np.random.default_rng(seed)
    drawn = [x[random.integers(0, len(x), len(x))].mean() for _ in range(20)] if len(x) > 1 else []
    (columns,) = paired_replicates([mean], names, replicates=20, seed=seed)
    assert columns.get("mean", np.zeros(0)) == pytest.approx(drawn)
