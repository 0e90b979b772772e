"""PxAP: worked numbers, the empty cases, and what is refused."""

import numpy as np
import pytest

from wsi_detect.errors import NonFiniteError
from wsi_detect.evaluation.pixel_ap import PixelFigures, pixel_figures

MASK = np.array([[1, 1, 0, 0]])


@pytest.mark.parametrize(
    ("scores", "pxap", "dice", "miou"),
    [
        pytest.param([0.9, 0.8, 0.2, 0.1], 100.0, 100.0, 100.0, id="perfect"),
        pytest.param([0.1, 0.2, 0.8, 0.9], 100 * (0.5 / 3 + 0.5 / 2), 200 / 3, 25.0, id="upside down"),
        # 0.9 is right (precision 1, recall 1/2), then one wrong, then the other right at precision 2/3.
        pytest.param([0.9, 0.5, 0.7, 0.1], 100 * (0.5 + 0.5 * 2 / 3), 80.0, 100 * (2 / 3 + 1 / 2) / 2, id="one wrong"),
        pytest.param([0.5, 0.5, 0.5, 0.5], 50.0, 200 / 3, 25.0, id="all the same"),
        pytest.param([1.0, 1.0, 0.0, 0.0], 100.0, 100.0, 100.0, id="the ends of the scale"),
    ],
)
def test_worked_numbers(scores, pxap, dice, miou):
    found = pixel_figures([(np.array([scores]), MASK)])
    assert found.pxap == pytest.approx(pxap)
    assert found.best_dice == pytest.approx(dice)
    assert found.best_miou == pytest.approx(miou)
    assert found.prevalence == 50.0


def test_pixels_are_pooled_over_images_of_any_size():
    rng = np.random.default_rng(0)
    scores, mask = rng.random((6, 8)), rng.integers(0, 2, (6, 8))
    whole = pixel_figures([(scores, mask)])
    parts = pixel_figures([(scores[:2], mask[:2]), (scores[2:, :3], mask[2:, :3]), (scores[2:, 3:], mask[2:, 3:])])
    assert parts == whole


def test_a_random_map_comes_to_the_prevalence():
    rng = np.random.default_rng(1)
    mask = rng.random((400, 400)) < 0.2
    found = pixel_figures([(rng.random((400, 400)), mask)])
    assert found.pxap == pytest.approx(found.prevalence, abs=0.6)


def test_what_is_undefined_is_none():
    zeros, ones = np.zeros((2, 2)), np.ones((2, 2))
    assert pixel_figures([]) == PixelFigures(None, None, None, None)
    assert pixel_figures([(ones, zeros.astype(int))]) == PixelFigures(None, None, None, 0.0)
    everything = pixel_figures([(ones, ones.astype(int))])
    assert (everything.pxap, everything.best_miou, everything.prevalence) == (100.0, None, 100.0)


@pytest.mark.parametrize(
    ("scores", "mask", "step", "error"),
    [
        (np.zeros((1, 3)), MASK, 0.001, ValueError),
        (np.array([[0.0, 1.5, 0, 0]]), MASK, 0.001, ValueError),
        (np.array([[0.0, -0.1, 0, 0]]), MASK, 0.001, ValueError),
        (np.array([[0.0, np.nan, 0, 0]]), MASK, 0.001, NonFiniteError),
        (np.zeros((1, 4)), MASK * 255, 0.001, ValueError),
        (np.zeros((1, 4)), MASK, 0.0, ValueError),
        (np.zeros((1, 4)), MASK, 1.0, ValueError),
    ],
)
def test_what_is_refused(scores, mask, step, error):
    with pytest.raises(error):
        pixel_figures([(scores, mask)], step)
