"""Samplers: weights written out, quotas kept, an order that depends on nothing but seed and epoch."""

import numpy as np
import pytest

from wsi_detect.data.rates import rates_table, realised_rates
from wsi_detect.data.repeats import class_repeats, image_frequency, instance_frequency, patch_repeats
from wsi_detect.data.samplers import (
    SAMPLERS,
    EpochSampler,
    class_aware,
    instance_aware,
    repeat_factor,
    square_root,
    uniform,
)
from wsi_detect.errors import ConfigError

# Four patches with class 0, one of them also with class 1; two patches of background.
COUNTS = np.array([[3, 0], [1, 0], [2, 0], [1, 5], [0, 0], [0, 0]])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        pytest.param(uniform(COUNTS), [1 / 6] * 6, id="uniform, natural background"),
        pytest.param(uniform(COUNTS, 0.2), [0.2, 0.2, 0.2, 0.2, 0.1, 0.1], id="uniform, a fifth background"),
        pytest.param(uniform(COUNTS, 0.0), [0.25, 0.25, 0.25, 0.25, 0, 0], id="no background"),
        # Half of 0.8 to each class: class 0 gives 0.1 to each of 4, class 1 gives 0.4 to one.
        pytest.param(class_aware(COUNTS, 0.2), [0.1, 0.1, 0.1, 0.5, 0.1, 0.1], id="class aware"),
        # Per patch 1/2 of class 0 (4 patches) and 1 of class 1 (one patch): 1/2, 1/2, 1/2, 3/2, of 3.
        pytest.param(square_root(COUNTS, 0.4), [0.1, 0.1, 0.1, 0.3, 0.2, 0.2], id="square root"),
        # f = sqrt((1, 1/4) x (7/12, 5/12)); t = 7 makes r of class 0 sqrt(7 / sqrt(7/12)).
        pytest.param(
            instance_aware(COUNTS, 0.0, threshold=7.0),
            np.array([*[(7 / (7 / 12) ** 0.5) ** 0.5] * 3, (7 / (5 / 48) ** 0.5) ** 0.5, 0, 0])
            / (3 * (7 / (7 / 12) ** 0.5) ** 0.5 + (7 / (5 / 48) ** 0.5) ** 0.5),
            id="instance aware, t given",
        ),
        # f = (1, 1/4), t = 4: r = (2, 4).
        pytest.param(repeat_factor(COUNTS, 0.5, threshold=4.0), [0.1, 0.1, 0.1, 0.2, 0.25, 0.25], id="repeat, t given"),
        # t = 16 x 1/4 = 4: the same without a threshold; background has r = 1, of 2 + 2 + 2 + 4 + 1 + 1.
        pytest.param(repeat_factor(COUNTS), [2 / 12, 2 / 12, 2 / 12, 4 / 12, 1 / 12, 1 / 12], id="repeat, natural"),
    ],
)
def test_weights(weights, expected):
    assert weights == pytest.approx(expected)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("background_share", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "counts",
    [COUNTS, np.zeros((3, 2), int), np.ones((3, 2), int), np.array([[1, 0, 0], [0, 0, 0]])],
    ids=["mixed", "background only", "cells only", "a class without cells"],
)
def test_weights_are_a_distribution(name, background_share, counts):
    weights = SAMPLERS[name](counts, background_share)
    assert weights.shape == (len(counts),)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0)
    empty = counts.sum(axis=1) == 0
    if background_share is not None and empty.any() and not empty.all():
        assert weights[empty].sum() == pytest.approx(background_share)


@pytest.mark.parametrize("name", ["class_aware", "instance_aware", "repeat_factor", "square_root"])
def test_the_tail_rises(name):
    rng = np.random.default_rng(0)
    counts = (rng.random((500, 3)) < [0.9, 0.2, 0.02]).astype(int)
    natural, drawn = (
        [row.drawn_share for row in realised_rates(counts, SAMPLERS[sampler](counts), "abc")]
        for sampler in ("uniform", name)
    )
    assert drawn[2] > 2 * natural[2]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: uniform(np.zeros((0, 2), int)),
        lambda: uniform(COUNTS, 1.5),
        lambda: uniform(-COUNTS),
        lambda: repeat_factor(COUNTS, threshold=0.0),
        lambda: instance_aware(COUNTS, threshold=-1.0),
        lambda: EpochSampler(np.zeros(3), 4, 0),
        lambda: EpochSampler(np.ones(3), 1, 0, world=2),
    ],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_equal_weights_show_every_row_once():
    sampler = EpochSampler(np.ones(37), 37, seed=1)
    assert sorted(draw.row for draw in sampler) == list(range(37))


def test_rows_are_drawn_in_proportion_to_their_weight():
    weights = np.array([0.5, 0.25, 0.2, 0.05])
    sampler = EpochSampler(weights, 10, seed=3)
    drawn = np.array([np.bincount(sampler.order(epoch), minlength=4) for epoch in range(400)])
    assert (drawn >= np.floor(weights * 10)).all()
    assert (drawn <= np.ceil(weights * 10)).all()
    assert drawn.mean(axis=0) == pytest.approx(weights * 10, abs=0.1)


def test_order_is_a_pure_function_of_seed_and_epoch():
    def make(seed):
        return EpochSampler(np.ones(50), 50, seed)

    one, other = make(1), make(1)
    list(one)
    assert one.order(3).tolist() == other.order(3).tolist()
    assert one.order(3).tolist() != one.order(4).tolist()
    assert one.order(3).tolist() != make(2).order(3).tolist()


def test_processes_share_an_epoch_without_overlap():
    alone = list(EpochSampler(np.ones(30), 30, 5))
    parts = [list(EpochSampler(np.ones(30), 30, 5, rank=rank, world=3)) for rank in range(3)]
    assert [len(part) for part in parts] == [10, 10, 10]
    # The n-th batch of all together is what one process with the joined batch size would draw.
    assert [draw for draws in zip(*parts, strict=True) for draw in draws] == alone


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("start", [0, 1, 7])
def test_processes_go_on_in_the_middle_of_an_epoch(world, start):
    for rank in range(world):
        whole = list(EpochSampler(np.ones(30), 31, 5, rank=rank, world=world))
        again = EpochSampler(np.ones(30), 31, 5, rank=rank, world=world)
        again.start = start
        assert list(again) == whole[start:]
        again.set_epoch(1)
        assert {draw.epoch for draw in again} == {1}


def test_repeat_factors_written_out():
    """Class 0 in 2 of 4 patches and 4 of 5 cells, class 1 in 1 and 1, class 2 nowhere."""
    counts = np.array([[3, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert image_frequency(counts).tolist() == [0.5, 0.25, 0.0]
    assert instance_frequency(counts).tolist() == [0.8, 0.2, 0.0]
    assert instance_frequency(counts * 0).tolist() == [0.0, 0.0, 0.0]
    repeats = class_repeats(image_frequency(counts), 1.0)
    assert repeats.tolist() == pytest.approx([2**0.5, 2.0, 1.0])
    assert patch_repeats(counts, repeats).tolist() == pytest.approx([2**0.5, 2.0, 1.0, 1.0])
    assert class_repeats(image_frequency(counts), 0.1).tolist() == [1.0, 1.0, 1.0]


def test_rare_patches_are_repeated_by_stochastic_rounding():
    """r = 2.5 of one patch against 1 of four: 2 or 3 draws of every 6.5, half of the epochs each."""
    weights = np.array([2.5, 1, 1, 1, 1])
    drawn = [np.bincount(EpochSampler(weights, 13, seed).order(0), minlength=5) for seed in range(200)]
    assert {int(row[0]) for row in drawn} == {5}
    drawn = [np.bincount(EpochSampler(weights, 6, seed).order(0), minlength=5)[0] for seed in range(400)]
    assert set(drawn) == {2, 3}
    assert np.mean(drawn) == pytest.approx(6 * 2.5 / 6.5, abs=0.08)


def test_start_counts_for_one_iteration():
    sampler = EpochSampler(np.ones(10), 10, 0)
    whole = list(sampler)
    sampler.start = 4
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole


def test_rates_of_weights_and_of_drawn_rows():
    rows = realised_rates(COUNTS, class_aware(COUNTS, 0.2), ["NILM", "HSIL"])
    assert [(row.label, row.patches, row.cells) for row in rows] == [
        ("NILM", 4, 7),
        ("HSIL", 1, 5),
        ("background", 2, 0),
    ]
    assert [row.natural_share for row in rows] == pytest.approx([4 / 6, 1 / 6, 2 / 6])
    assert [row.drawn_share for row in rows] == pytest.approx([0.8, 0.5, 0.2])
    assert rows[1].cells_per_patch == pytest.approx(2.5)
    drawn = np.bincount([0, 3, 3, 4], minlength=6)
    assert [row.drawn_share for row in realised_rates(COUNTS, drawn, ["NILM", "HSIL"])] == [0.75, 0.5, 0.25]
    lines = rates_table(rows).splitlines()
    assert lines[3].split() == ["HSIL", "1", "5", "16.7%", "50.0%", "3.00", "2.50"]
