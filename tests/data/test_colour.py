"""Colour changes as a matrix: none is none, grey stays grey, glass stays clean, and a usual jitter does the same."""

import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_detect.data.augment import _albumentations
from wsi_detect.data.colour import LUMA, ColourChange, ColourRange, draw, recoloured

MEAN = np.array([200.0, 180.0, 190.0])
FACTOR = st.floats(0.5, 1.5)
HUE = st.floats(-0.5, 0.7)


def colours():
    """A picture of cells' colours on glass: no channel near 0 or 255, so that nothing is cut off."""
    rng = np.random.default_rng(0)
    picture = np.full((64, 64, 3), (205, 203, 207), np.uint8)
    for colour in ((170, 120, 150), (110, 90, 140), (120, 150, 160), (190, 140, 130)):
        y, x = rng.integers(0, 44, 2)
        picture[y : y + 20, x : x + 20] = colour
    return picture + rng.integers(0, 6, picture.shape, np.uint8)


def jittered(name, factor):
    none = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
    return _albumentations().ColorJitter(**{**none, name: (factor, factor)}, p=1.0)(image=colours())["image"]


def test_no_change_is_exactly_none():
    every = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    assert (ColourChange().matrix(MEAN) == np.eye(3, 4)).all()
    assert draw(ColourRange(), np.random.default_rng(1)) == ColourChange()
    assert (recoloured(every, ColourChange()) == every).all()


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        (ColourChange(brightness=1.2), (100, 50, 20), (120, 60, 24)),
        (ColourChange(brightness=1.2), (250, 250, 100), (255, 255, 120)),  # cut, not wrapped
        # The grey of a picture of one colour is 0.299 * 100 + 0.587 * 50 + 0.114 * 20 = 61.5.
        (ColourChange(contrast=2.0), (100, 50, 20), (138, 38, 0)),
        (ColourChange(saturation=0.0), (100, 50, 20), (62, 62, 62)),
        (ColourChange(saturation=1.5), (100, 50, 20), (119, 44, 0)),
        (ColourChange(hue=0.5), (100, 50, 50), (30, 80, 80)),  # opposite on the circle: 65 + 65 - 100 and so on
        (ColourChange(stain=(1.1, 1.0, 0.5)), (155, 50, 155), (145, 50, 205)),
        (ColourChange(stain=(1.1, 0.9, 0.5)), (255, 255, 255), (255, 255, 255)),
    ],
)
def test_each_change_on_one_colour(change, before, after):
    picture = np.full((8, 8, 3), before, np.uint8)
    assert np.abs(recoloured(picture, change)[3, 4].astype(int) - after).max() <= 1


@given(FACTOR, HUE, st.floats(0, 255))
def test_grey_stays_grey_under_saturation_and_hue(saturation, hue, grey):
    matrix = ColourChange(saturation=saturation, hue=hue).matrix(MEAN)
    np.testing.assert_allclose(matrix @ [grey, grey, grey, 1], grey, atol=1e-6)


@given(HUE, st.tuples(*[st.floats(0, 255)] * 3))
def test_hue_keeps_luma_and_goes_no_further_than_across_the_grey_axis(hue, colour):
    turned = ColourChange(hue=hue).matrix(MEAN) @ [*colour, 1]
    assert abs(LUMA @ turned - LUMA @ colour) < 1e-6
    # The circle is one of the opponent space; in RGB it is an ellipse, at most 1.16 times as long as wide.
    assert np.linalg.norm(turned - LUMA @ colour) <= 1.16 * np.linalg.norm(colour - LUMA @ colour) + 1e-6


@given(HUE, st.floats(0, 1), st.floats(0.1, 1))
def test_hue_turns_by_the_angle_asked_for(hue, start, saturation):
    colour = np.array(colorsys.hsv_to_rgb(start, saturation, 0.8)) * 255
    turned = ColourChange(hue=hue).matrix(MEAN) @ [*colour, 1]
    # Out of range or not: lifted to positive values, which moves no hue.
    found = colorsys.rgb_to_hsv(*(turned - turned.min()))[0]
    apart = (found - start - hue + 0.5) % 1 - 0.5
    assert abs(apart) * 360 < 2.4


@given(FACTOR, FACTOR, FACTOR, HUE)
def test_the_order_of_changes_means_nothing(brightness, contrast, saturation, hue):
    def after(mean, **only):
        linear = ColourChange(**only).matrix(mean)
        return lambda colour: linear[:, :3] @ colour + linear[:, 3]

    colour = np.array([90.0, 140.0, 30.0])
    together = ColourChange(brightness, contrast, saturation, hue).matrix(MEAN) @ [*colour, 1]
    steps = [{"brightness": brightness}, {"contrast": contrast}, {"saturation": saturation}, {"hue": hue}]
    for order in (steps, steps[::-1], [steps[2], steps[0], steps[3], steps[1]]):
        mean, value = MEAN, colour
        for only in order:
            change = after(mean, **only)
            mean, value = change(mean), change(value)
        np.testing.assert_allclose(value, together, atol=1e-6)


@pytest.mark.parametrize("factor", [0.8, 1.2])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_usual_jitter_of_the_same_strength_gives_the_same_picture(name, factor):
    usual, ours = jittered(name, factor), recoloured(colours(), ColourChange(**{name: factor}))
    assert np.abs(usual.astype(int) - colours()).max() > 5
    assert np.abs(ours.astype(int) - usual).max() <= 1


@pytest.mark.parametrize("turn", [-0.03, 0.03])
def test_hue_differs_from_a_usual_jitter_in_luma(turn):
    before, usual = colours(), jittered("hue", turn)
    ours = recoloured(before, ColourChange(hue=turn))
    assert np.abs(ours @ LUMA - before @ LUMA).max() < 1.5
    chroma = [picture - (picture @ LUMA)[..., None] for picture in (before, ours, usual)]
    # The usual one goes round a hexagon, in steps of 2 degrees; on glass, which has no colour, the steps are all.
    on_cells = np.ptp(before, axis=2) > 20
    assert np.abs(chroma[1] - chroma[2])[on_cells].mean() < 0.45 * np.abs(chroma[1] - chroma[0])[on_cells].mean()


def test_draws_fill_their_ranges():
    rng = np.random.default_rng(0)
    span = ColourRange(0.2, 0.1, 0.3, 0.03, 0.15)
    drawn = [draw(span, rng) for _ in range(2000)]
    columns = np.array(
        [(c.brightness - 1, c.contrast - 1, c.saturation - 1, c.hue, *np.subtract(c.stain, 1)) for c in drawn]
    )
    limits = np.array([0.2, 0.1, 0.3, 0.03, 0.15, 0.15, 0.15])
    assert (np.abs(columns) <= limits).all()
    assert (np.abs(columns).max(axis=0) > 0.99 * limits).all()
    assert (np.abs(columns.mean(axis=0)) < 0.05 * limits).all()
    # Each factor for itself.
    assert (np.abs(np.corrcoef(columns.T) - np.eye(7)) < 0.08).all()
