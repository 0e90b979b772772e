"""The curve under resampling: the same as one by one, and close to it when there are too many detections."""

import numpy as np
import pytest

from wsi_detect.evaluation import steps as module
from wsi_detect.evaluation.average_precision import average_precision, interpolated
from wsi_detect.evaluation.bootstrap import percentile_intervals
from wsi_detect.evaluation.matching import Pool
from wsi_detect.evaluation.steps import Steps


def random_pool(size: int, images: int = 40, seed: int = 0) -> Pool:
    random = np.random.default_rng(seed)
    scores = np.sort(random.random(size).round(4))[::-1]
    image = random.integers(0, images, size)
    # Images differ in how well they go, as fields do.
    hits = random.random(size) < scores * random.random(images)[image]
    cells = np.bincount(image[hits], minlength=images) + random.integers(0, 20, images)
    return Pool(scores, hits, image, cells)


def ap(steps: Steps, weights: np.ndarray) -> float:
    right, wrong = steps.climb(weights)
    return interpolated(right, right + wrong, float(steps.cells @ weights))


def test_few_detections_are_read_one_by_one():
    pool = random_pool(500)
    weights = np.random.default_rng(1).integers(0, 3, 40).astype(float)
    assert ap(Steps.of(pool), weights) == pytest.approx(average_precision(pool, weights), abs=1e-12)
    assert Steps.of(pool).last.sum() == len(set(pool.scores.tolist()))


def test_without_a_detection():
    steps = Steps.of(Pool(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64), np.array([3])))
    assert [part.tolist() for part in steps.climb(np.ones(1))] == [[], []]


def test_steps_move_an_interval_less_than_another_seed_does(monkeypatch):
    monkeypatch.setattr(module, "_ENTRIES", 0)
    pool = random_pool(60_000)
    thin, exact = Steps.of(pool), Steps.exact(pool)
    assert thin.table.shape == (40, 2 * 1024)
    for number, part in enumerate(thin.climb(np.ones(40))):
        assert part[-1] == (pool.hits if number == 0 else ~pool.hits).sum()

    def interval(steps: Steps, seed: int):
        found = percentile_intervals(lambda weights: {"ap": ap(steps, weights)}, 40, replicates=200, seed=seed)["ap"]
        return np.array([found.low, found.high])

    noise = np.abs(interval(exact, 0) - interval(exact, 1)).max()
    assert np.abs(interval(thin, 0) - interval(exact, 0)).max() < 0.2 * noise
