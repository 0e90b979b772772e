"""Painted lesions: no colour tells them, and what is asked for is there."""

import numpy as np
import pytest

from wsi_detect.testing.lesions import paint_lesions


def histogram(values):
    return np.bincount(values // 8, minlength=32) / len(values)


@pytest.mark.parametrize("kind", ["size", "texture"])
def test_colours_of_lesions_are_those_of_the_rest(kind):
    pictures = [paint_lesions(192, lesions=2, kind=kind, seed=k) for k in range(12)]
    for channel in range(3):
        inside = np.concatenate([p.rgb[p.lesion][:, channel] for p in pictures])
        outside = np.concatenate([p.rgb[~p.lesion][:, channel] for p in pictures])
        # Half the sum of differences: the share of px that would have to change colour.
        assert np.abs(histogram(inside) - histogram(outside)).sum() / 2 < 0.03


@pytest.mark.parametrize("kind", ["size", "texture"])
def test_structure_of_lesions_is_another(kind):
    """Dark px have more dark neighbours four px away, or three, in nuclei or clumps that are larger."""
    picture = paint_lesions(192, lesions=1, kind=kind, seed=0, radius=60)
    dark = picture.rgb[..., 0] < (150 if kind == "size" else 114)
    step = 4 if kind == "size" else 2
    again = np.roll(dark, step, axis=1)
    inside = again[dark & picture.lesion].mean()
    outside = again[dark & ~picture.lesion].mean()
    assert inside > outside + 0.15


def test_a_picture_follows_from_its_seed_and_a_negative_one_has_no_lesion():
    one, same, other = (paint_lesions(96, lesions=1, kind="size", seed=k, radius=20) for k in (0, 0, 1))
    assert (one.rgb == same.rgb).all()
    assert (one.rgb != other.rgb).any()
    assert one.lesion.sum() == pytest.approx(np.pi * 20**2, rel=0.4)
    assert not paint_lesions(96, lesions=0, kind="size", seed=0).lesion.any()


def test_lesions_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no room for 9 lesions"):
        paint_lesions(96, lesions=9, kind="size", seed=0)
