"""Reliability by hand and beside scikit-learn and torchmetrics; temperatures that are known; the split is respected."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.errors import LabelError, NonFiniteError
from wsi_detect.evaluation.calibration import (
    COLDEST,
    HOTTEST,
    brier,
    calibrated,
    fit_temperatures,
    reliability,
)
from wsi_detect.evaluation.fields import FieldPrediction
from wsi_detect.evaluation.matching import Pool
from wsi_detect.evaluation.splits import Split

TRAIN, VAL = Split.of("train", ["p1", "p2"]), Split.of("val", ["p3"])


def pooled(scores, hits, image=None) -> Pool:
    order = np.argsort(-np.asarray(scores, float), kind="stable")
    image = np.zeros(len(order), np.int64) if image is None else np.asarray(image)[order]
    return Pool(np.asarray(scores, float)[order], np.asarray(hits, bool)[order], image, np.array([9, 9]))


def random_pool(seed: int, n: int = 400, temperature: float = 1.0) -> Pool:
    """Detections whose scores are the chance of a hit, made too sure or too timid."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, n)
    hits = random.random(n) < 1 / (1 + np.exp(-logits))
    return pooled(1 / (1 + np.exp(-logits * temperature)), hits, random.integers(0, 2, n))


@pytest.mark.parametrize(
    ("scores", "hits", "equal", "count", "mean_score", "hit_share", "ece", "mce"),
    [
        ([], [], "width", [0, 0], [None, None], [None, None], None, None),
        ([], [], "mass", [0, 0], [None, None], [None, None], None, None),
        # 0.5 is of the lower bin. Gaps 0.3 - 0.5 of two and 0.9 - 1 of one.
        ([0.1, 0.5, 0.9], [1, 0, 1], "width", [2, 1], [0.3, 0.9], [0.5, 1.0], (2 * 0.2 + 0.1) / 3, 0.2),
        ([0.9, 0.7], [1, 0], "width", [0, 2], [None, 0.8], [None, 0.5], 0.3, 0.3),
        # The median of 0.2 0.4 0.9 1.0 is 0.65.
        ([0.2, 0.4, 0.9, 1.0], [0, 1, 1, 1], "mass", [2, 2], [0.3, 0.95], [0.5, 1.0], 0.125, 0.2),
        ([0.0, 1.0], [0, 1], "width", [1, 1], [0.0, 1.0], [0.0, 1.0], 0.0, 0.0),
        # All tied: the edges fall together and the lower bin has them all.
        ([0.4, 0.4], [0, 1], "mass", [2, 0], [0.4, None], [0.5, None], 0.1, 0.1),
    ],
)
def test_reliability_by_hand(scores, hits, equal, count, mean_score, hit_share, ece, mce):
    curve = reliability(pooled(scores, hits), 2, equal)
    assert curve.count.tolist() == count
    nan = [np.nan if value is None else value for value in mean_score]
    assert curve.mean_score == pytest.approx(np.array(nan), nan_ok=True)
    nan = [np.nan if value is None else value for value in hit_share]
    assert curve.hit_share == pytest.approx(np.array(nan), nan_ok=True)
    assert (curve.ece, curve.mce) == pytest.approx((ece, mce))


@pytest.mark.parametrize(
    ("scores", "hits", "expected"),
    [([], [], None), ([1.0, 0.0], [1, 0], 0.0), ([0.8, 0.4], [1, 1], (0.04 + 0.36) / 2), ([0.5], [0], 0.25)],
)
def test_brier_by_hand(scores, hits, expected):
    assert brier(pooled(scores, hits)) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("equal", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_the_curve_is_scikit_learns(seed, equal, strategy):
    from sklearn.calibration import calibration_curve

    pool = random_pool(seed, n=60)
    rounded = pooled(pool.scores.round(1), pool.hits)  # scores on the edges
    for each in (pool, rounded):
        curve = reliability(each, 10, equal)
        share, mean = calibration_curve(each.hits, each.scores, n_bins=10, strategy=strategy)
        filled = curve.count > 0
        assert curve.hit_share[filled] == pytest.approx(share)
        assert curve.mean_score[filled] == pytest.approx(mean)


@pytest.mark.parametrize("seed", range(3))
def test_errors_are_those_of_torchmetrics_and_scikit_learn(seed):
    import torch
    from sklearn.metrics import brier_score_loss
    from torchmetrics.functional.classification import binary_calibration_error

    pool = random_pool(seed)
    scores, hits = torch.from_numpy(pool.scores.copy()), torch.from_numpy(pool.hits.astype(np.int64))
    curve = reliability(pool, 15)
    assert curve.ece == pytest.approx(float(binary_calibration_error(scores, hits, 15, "l1")), abs=1e-6)
    assert curve.mce == pytest.approx(float(binary_calibration_error(scores, hits, 15, "max")), abs=1e-6)
    assert brier(pool) == pytest.approx(brier_score_loss(pool.hits, pool.scores))
    drawn = np.array([2.0, 1.0])
    expected = brier_score_loss(pool.hits, pool.scores, sample_weight=drawn[pool.image])
    assert brier(pool, drawn) == pytest.approx(expected)


def test_weights_are_copies():
    pool = random_pool(1, n=50)
    twice = np.flatnonzero(pool.image == 0)
    copies = pooled(np.append(pool.scores, pool.scores[twice]), np.append(pool.hits, pool.hits[twice]))
    for equal in ("width", "mass"):
        weighted = reliability(pool, 5, equal, np.array([2.0, 1.0]))
        assert weighted.count.sum() == len(copies.scores)
        if equal == "width":
            assert weighted.ece == pytest.approx(reliability(copies, 5, equal).ece)
        assert weighted.edges.tolist() == reliability(pool, 5, equal).edges.tolist()
    assert reliability(pool, 5, "width", np.zeros(2)).ece is None
    assert brier(pool, np.zeros(2)) is None


@pytest.mark.parametrize("seed", range(4))
def test_the_temperature_is_that_of_a_logistic_regression(seed):
    from sklearn.linear_model import LogisticRegression

    pool = random_pool(seed, temperature=1.8)
    fitted = fit_temperatures({"HSIL": pool}, TRAIN).classes["HSIL"]
    logits = np.log(pool.scores / (1 - pool.scores))[:, None]
    peer = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits, pool.hits)
    assert 1 / fitted.value == pytest.approx(peer.coef_[0, 0], rel=1e-5)
    assert (fitted.detections, fitted.hits, fitted.at_limit) == (400, pool.hits.sum(), False)


@pytest.mark.parametrize(
    ("scores", "hits", "value", "at_limit"),
    [
        # One logit, ±ln 9, right three times of four: the chance must become 3/4, whose logit is ln 3: T = ln 9 / ln 3.
        ([0.9, 0.9, 0.9, 0.1], [1, 1, 0, 0], 2.0, False),
        # The same too timid: logit of 0.6 to that of 3/4.
        ([0.6, 0.6, 0.6, 0.6], [1, 1, 1, 0], np.log(1.5) / np.log(3), False),
        ([0.9, 0.1], [1, 0], COLDEST, True),  # perfect: the surer the better
        ([0.9, 0.1], [0, 1], HOTTEST, True),  # wrong way round: the less said the better
    ],
)
def test_temperatures_by_hand(scores, hits, value, at_limit):
    fitted = fit_temperatures({"HSIL": pooled(scores, hits)}, TRAIN).classes["HSIL"]
    assert (fitted.value, fitted.at_limit) == (pytest.approx(value), at_limit)


def test_a_class_that_cannot_tell_has_no_temperature():
    pools = {"NILM": pooled([0.9], [1]), "LSIL": pooled([0.9], [0]), "HSIL": pooled([], [])}
    assert fit_temperatures(pools | {"SCC": pooled([0.5, 0.5], [0, 1])}, TRAIN).classes == {}
    assert fit_temperatures(pools, TRAIN).classes == {}
    assert fit_temperatures({}, TRAIN).classes == {}
    same = calibrated(pools, fit_temperatures(pools, TRAIN), VAL)
    assert {name: pool.scores.tolist() for name, pool in same.items()} == {"NILM": [0.9], "LSIL": [0.9], "HSIL": []}


def test_fitted_on_one_split_it_helps_on_the_other():
    temperatures = fit_temperatures({"HSIL": random_pool(0, 2000, temperature=3.0)}, TRAIN)
    assert temperatures.classes["HSIL"].value == pytest.approx(3.0, rel=0.15)
    before = {"HSIL": random_pool(1, 2000, temperature=3.0)}
    after = calibrated(before, temperatures, VAL)
    assert reliability(after["HSIL"]).ece < reliability(before["HSIL"]).ece / 2
    assert brier(after["HSIL"]) < brier(before["HSIL"])
    assert after["HSIL"].hits.tolist() == before["HSIL"].hits.tolist()
    assert (np.diff(after["HSIL"].scores) <= 0).all()


def test_the_same_split_is_refused_unless_asked_for():
    pools = {"HSIL": random_pool(0)}
    temperatures = fit_temperatures(pools, TRAIN)
    for split in (TRAIN, Split.of("train", ["p7"]), Split.of("test", ["p2", "p9"])):
        with pytest.raises(LabelError, match="the temperature was chosen on split 'train'"):
            calibrated(pools, temperatures, split)
    assert reliability(calibrated(pools, temperatures, TRAIN, same_split=True)["HSIL"]).ece is not None


def test_temperatures_are_applied_to_detections():
    pools = {"HSIL": pooled([0.9, 0.9, 0.9, 0.1], [1, 1, 0, 0])}
    temperatures = fit_temperatures(pools, TRAIN)
    classes = np.array([[0.2, 0.9], [0.9, 0.1], [1.0, 0.0]])
    found = FieldPrediction("a", np.zeros((3, 4)), np.array([0.9, 0.9, 1.0]), ["HSIL", "NILM", "NILM"], classes)
    changed = temperatures.apply(found, ("NILM", "HSIL"))
    assert changed.scores == pytest.approx([0.75, 0.9, 1.0])
    # 0.1 lies as far below one half as 0.9 above.
    assert changed.class_scores == pytest.approx(np.array([[0.2, 0.75], [0.9, 0.25], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="2 columns of class scores, 0 classes"):
        temperatures.apply(found)
    nothing = temperatures.apply(FieldPrediction("b", np.zeros((0, 4)), np.zeros(0), []))
    assert nothing.scores.shape == (0,)


@pytest.mark.parametrize("score", [-0.1, 1.5, np.nan])
def test_scores_that_are_no_probability_are_refused(score):
    pool = Pool(np.array([score, 0.5]), np.array([True, False]), np.zeros(2, np.int64), np.array([1]))
    for call in (reliability, brier, lambda p: fit_temperatures({"HSIL": p}, TRAIN)):
        with pytest.raises(NonFiniteError, match=r"not in \[0, 1\]"):
            call(pool)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_every_detection_is_in_one_bin_and_errors_are_ordered(rows, bins):
    pool = pooled([score for score, _ in rows], [hit for _, hit in rows])
    for equal in ("width", "mass"):
        curve = reliability(pool, bins, equal)
        assert curve.count.sum() == len(rows)
        assert 0 <= curve.ece <= curve.mce + 1e-12 <= 1 + 1e-9
