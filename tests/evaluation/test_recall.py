"""Recall at false positives per image, and intervals."""

import numpy as np
import pytest

from wsi_detect.evaluation.bootstrap import percentile_intervals
from wsi_detect.evaluation.froc import recall_at
from wsi_detect.evaluation.matching import Pool


def pooled(hits, cells, scores=None, image=None) -> Pool:
    n = len(hits)
    return Pool(
        np.array(scores or np.linspace(1, 0.5, n)),
        np.array(hits, bool),
        np.array(image or [0] * n, np.int64),
        np.array(cells, np.int64),
    )


@pytest.mark.parametrize(
    ("hits", "cells", "scores", "allowed", "expected"),
    [
        ([], [0, 0], None, 1, None),  # nothing to find
        ([0, 0], [0], None, 1, None),
        ([], [3], None, 1, 0.0),
        ([1, 1, 1], [4], None, 1, 0.75),
        ([1, 0, 1, 0, 1], [3], None, 1, 2 / 3),
        ([1, 0, 1, 0, 1], [3], None, 2, 1.0),
        ([0, 0, 1], [1], None, 1, 0.0),
        ([1, 0, 1, 0, 1], [2, 1], None, 1, 1.0),  # two images: two false positives are one each
        ([1, 0, 1], [2], [0.9, 0.9, 0.9], 0, 0.0),  # ties are taken whole
        ([1, 0, 1], [2], [0.9, 0.8, 0.8], 0, 0.5),
        ([1, 0, 1], [2], [0.9, 0.8, 0.8], 1, 1.0),
    ],
)
def test_recall(hits, cells, scores, allowed, expected):
    assert recall_at(pooled(hits, cells, scores), allowed) == (None if expected is None else pytest.approx(expected))


def test_recall_under_weights():
    # Image 0: found, one false positive. Image 1: missed, none. Drawn (2, 0): 2 false positives on 2 images.
    pool = pooled([0, 1], [1, 1], image=[0, 0])
    assert recall_at(pool, 0.9, np.array([1.0, 1.0])) == pytest.approx(0.5)
    assert recall_at(pool, 0.9, np.array([2.0, 0.0])) == pytest.approx(0.0)
    assert recall_at(pool, 0.9, np.array([0.0, 2.0])) == pytest.approx(0.0)


def test_interval_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(0).normal(10, 2, 400)

    def statistic(weights):
        return {"mean": float(weights @ values / weights.sum())}

    interval = percentile_intervals(statistic, 400, replicates=2000)["mean"]
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.02)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.02)


def test_same_seed_same_interval_and_missing_classes_are_counted():
    # A class in one image of three: a draw misses it with probability (2/3)³ = 0.296.
    def statistic(weights):
        return {"rare": 1.0 if weights[0] else None}

    first = percentile_intervals(statistic, 3, replicates=1000, seed=5)["rare"]
    assert first == percentile_intervals(statistic, 3, replicates=1000, seed=5)["rare"]
    assert (first.low, first.high) == (1.0, 1.0)
    assert first.undefined == pytest.approx(296, abs=60)
