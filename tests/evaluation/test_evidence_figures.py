"""Maps held against boxes: truth, pointing game, ceiling and floor, with the answers written out."""

import numpy as np
import pytest

from wsi_detect.evaluation.evidence_figures import ellipses, evidence_figures, oracle_map, pointing

NONE = np.zeros((0, 4))


def test_an_ellipse_is_inscribed_in_its_box():
    mask = ellipses(np.array([[1.0, 0.0, 5.0, 4.0]]), (5, 6)).astype(int)
    assert mask.tolist() == [
        [0, 0, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_an_ellipse_has_the_area_of_one_and_may_reach_beyond_the_image():
    assert ellipses(np.array([[10.0, 20.0, 110.0, 80.0]]), (100, 120)).sum() == pytest.approx(np.pi * 50 * 30, rel=2e-3)
    cut = ellipses(np.array([[-50.0, -30.0, 50.0, 30.0], [500.0, 500.0, 600.0, 600.0]]), (100, 120))
    assert cut.sum() == pytest.approx(np.pi * 50 * 30 / 4, rel=1e-2)
    assert not ellipses(NONE, (4, 4)).any()


@pytest.mark.parametrize(
    ("highest", "expected"),
    [([(1, 1)], 1.0), ([(3, 3)], 0.0), ([(1, 1), (3, 3)], 0.5), ([(1, 1), (1, 2), (2, 2), (0, 0)], 0.75)],
)
def test_pointing_game(highest, expected):
    shown = np.zeros((4, 4), np.float32)
    for place in highest:
        shown[place] = 0.9
    assert pointing(shown, np.array([[1.0, 1.0, 3.0, 3.0]])) == expected


def test_the_oracle_falls_from_the_centre():
    shown = oracle_map(np.array([[0.0, 0.0, 5.0, 5.0]]), (5, 9), 4.0)
    assert shown[2, :8].tolist() == pytest.approx([0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])
    assert shown.dtype == np.float32
    assert not oracle_map(NONE, (3, 3), 4.0).any()


def test_a_perfect_map_and_a_blind_one():
    boxes = [np.array([[2.0, 2.0, 10.0, 10.0]]), NONE]
    masks = [ellipses(found, (16, 16)) for found in boxes]
    share = 100 * masks[0].sum() / 512
    perfect = evidence_figures([mask.astype(np.float32) for mask in masks], boxes)
    assert (perfect.pxap, perfect.pxap_region, perfect.best_dice) == (100.0, 100.0, 100.0)
    assert (perfect.pointing, perfect.negative_mean) == (100.0, 0.0)
    assert (perfect.prevalence, perfect.prevalence_region) == (pytest.approx(share), pytest.approx(2 * share))
    blind = evidence_figures([np.full((16, 16), 0.5, np.float32)] * 2, boxes)
    assert (blind.pxap, blind.pxap_region) == (pytest.approx(share), pytest.approx(2 * share))
    assert blind.negative_mean == pytest.approx(50)
    # Every px is the highest: the share of the box.
    assert blind.pointing == pytest.approx(100 * 64 / 256)


def test_the_oracle_of_equal_boxes_is_perfect_and_noise_is_chance():
    rng = np.random.default_rng(0)
    boxes = [np.array([[20.0, 20.0, 60.0, 60.0], [100.0, 30.0, 140.0, 70.0]]), NONE]
    oracle = evidence_figures([oracle_map(found, (160, 160), 40.0) for found in boxes], boxes)
    assert oracle.pxap == pytest.approx(100, abs=0.1)
    noise = evidence_figures([rng.random((160, 160), dtype=np.float32) for _ in boxes], boxes)
    assert noise.pxap == pytest.approx(noise.prevalence, abs=0.5)


def test_what_the_truth_does_not_define_is_none():
    none = evidence_figures([np.zeros((4, 4), np.float32)], [NONE])
    assert (none.pxap, none.pxap_region, none.best_dice, none.pointing) == (None, None, None, None)
    assert (none.negative_mean, none.prevalence, none.prevalence_region) == (0.0, 0.0, None)
    all_region = evidence_figures([np.ones((4, 4), np.float32)], [np.array([[0.0, 0.0, 4.0, 4.0]])])
    assert all_region.negative_mean is None
