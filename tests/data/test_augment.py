"""Augmented boxes lie where the augmented pixels are; equal seeds give equal samples."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_detect.data import augment
from wsi_detect.data.augment import PRESETS, augmenter, sample_seed
from wsi_detect.errors import ConfigError, EnvironmentFaultError, LabelError

CELLS = np.array([[30.0, 40.0, 70.0, 90.0], [150.0, 20.0, 190.0, 60.0], [-20.0, 150.0, 20.0, 190.0]])
LABELS = np.array([0, 1, 2])


def painted(boxes=CELLS, size=200):
    """White glass with a dark rectangle in every box."""
    image = np.full((size, size, 3), 255, np.uint8)
    for x0, y0, x1, y1 in boxes.astype(int):
        image[max(y0, 0) : y1, max(x0, 0) : x1] = 40
    return image


def sample(make, image, boxes, labels, seed):
    """One sample of a patch in memory, (H, W, 3) again, and its targets."""

    def read(window):
        x0, y0, x1, y1 = window
        assert 0 <= x0 < x1 <= image.shape[1]
        assert 0 <= y0 < y1 <= image.shape[0]
        return image[y0:y1, x0:x1]

    planes, targets = make(read, image.shape[1::-1], boxes, labels, seed)
    assert planes.flags.c_contiguous
    assert not np.may_share_memory(planes, image)
    return planes.transpose(1, 2, 0), targets


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("crop_px", [None, 120, 256])
def test_boxes_follow_the_pixels(preset, crop_px):
    make = augmenter(preset, crop_px, min_visible=0.75)
    for seed in range(12):
        image, targets = sample(make, painted(), CELLS, LABELS, seed)
        side = crop_px or 200
        assert image.shape == (side, side, 3)
        assert image.dtype == np.uint8
        dark = np.zeros((side, side), bool)
        every = np.concatenate([targets.boxes, targets.ignore_boxes])
        for x0, y0, x1, y1 in np.round(every).astype(int):
            dark[y0:y1, x0:x1] = True
        wrong = dark != (image.mean(axis=2) < 150)
        perimeter = 2 * float((every[:, 2:] - every[:, :2]).sum()) if len(every) else 0.0
        # Half a pixel of rounding, and the blur of one more, along every edge.
        assert wrong.sum() <= (0 if preset in {"none", "flip"} else 1.5 * perimeter)


@given(
    cell=st.tuples(*[st.integers(20, 60)] * 2, *[st.integers(-30, 180)] * 2),
    crop_px=st.integers(40, 300),
    seed=st.integers(0, 2**32 - 1),
    preset=st.sampled_from(list(PRESETS)),
)
def test_every_dark_pixel_lies_in_a_box_whatever_the_window(cell, crop_px, seed, preset):
    width, height, x0, y0 = cell
    boxes = np.array([[x0, y0, x0 + width, y0 + height]], float)
    if not (x0 < 199 and y0 < 199 and x0 + width > 1 and y0 + height > 1):
        return
    image, targets = sample(augmenter(preset, crop_px), painted(boxes), boxes, np.array([0]), seed)
    assert image.shape == (crop_px, crop_px, 3)
    every = np.concatenate([targets.boxes, targets.ignore_boxes])
    assert ((every >= 0) & (every <= crop_px)).all()
    assert len(every) <= 1
    y, x = np.nonzero(image.mean(axis=2) < 150)
    if len(every):
        # A pixel counts by its centre; half of one for rounding, and half for the blur.
        ax, ay, bx, by = every[0]
        assert ((x + 0.5 >= ax - 1) & (x + 0.5 <= bx + 1) & (y + 0.5 >= ay - 1) & (y + 0.5 <= by + 1)).all()
        assert len(x) > 0.7 * (bx - ax - 2) * (by - ay - 2)
    else:
        # Slivers thinner than a pixel of the patch are no box.
        assert not len(x) or min(np.ptp(x), np.ptp(y)) <= 2


@pytest.mark.parametrize("turn", range(8))
def test_a_turn_moves_boxes_with_pixels(turn):
    image = np.random.default_rng(0).integers(100, 256, (50, 50, 3), np.uint8)
    image[5:15, 30:47] = 0
    planes = augment._turned(image, turn)
    box = augment._moved_boxes(np.array([[30, 5, 47, 15]], np.float32), 1.0, turn, 50)[0].astype(int)
    y, x = np.nonzero(planes.sum(axis=0) == 0)
    assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert sorted(planes[0].ravel()) == sorted(image[..., 0].ravel())


def test_the_eight_turns_are_all_different_and_all_drawn():
    image = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    positions = {augment._turned(image, turn).tobytes() for turn in range(8)}
    drawn = {
        sample(augmenter("flip"), image, np.zeros((0, 4)), np.zeros(0, int), seed)[0].transpose(2, 0, 1).tobytes()
        for seed in range(100)
    }
    assert len(positions) == 8
    assert drawn == positions


@pytest.mark.parametrize(("crop_px", "share"), [(100, 0.0625), (400, 1.0), (600, 1.0)])
def test_only_the_window_is_read_and_it_does_not_leave_the_patch(crop_px, share):
    image = np.full((400, 400, 3), 7, np.uint8)
    windows = []

    def read(window):
        windows.append(window)
        x0, y0, x1, y1 = window
        return image[y0:y1, x0:x1]

    make = augmenter("none", crop_px)
    for seed in range(10):
        planes, _ = make(read, (400, 400), np.zeros((0, 4)), np.zeros(0, int), seed)
        assert (planes == 7).mean() == pytest.approx(min(1, (400 / crop_px) ** 2))
        assert ((planes == 7) | (planes == 255)).all()
    areas = [(x1 - x0) * (y1 - y0) / 400**2 for x0, y0, x1, y1 in windows]
    assert areas == [share] * 10


def test_the_zoom_is_read_at_its_own_size():
    sides = set()

    def read(window):
        sides.add(window[2] - window[0])
        return np.zeros((window[3] - window[1], window[2] - window[0], 3), np.uint8)

    for seed in range(200):
        planes, _ = augmenter("cytology", 100)(read, (400, 400), np.zeros((0, 4)), np.zeros(0, int), seed)
        assert planes.shape == (3, 100, 100)
    assert (min(sides), max(sides)) == (80, 125)


def test_labels_stay_with_their_boxes():
    sizes = {0: 20, 1: 50, 2: 80}
    boxes = np.array([[40, 40, 60, 60], [100, 100, 150, 150], [110, 10, 190, 90]], float)
    make = augmenter("cytology", 200, aim=0.0, min_visible=0.99)
    for seed in range(20):
        _, targets = sample(make, painted(boxes), boxes, np.array([0, 1, 2]), seed)
        for box, label in zip(targets.boxes, targets.labels.tolist(), strict=True):
            assert 0.75 * sizes[label] < box[2] - box[0] < 1.3 * sizes[label]


def test_a_crop_makes_cut_cells_ignored_and_forgets_the_rest():
    boxes = np.array([[0, 0, 10, 10], [45, 45, 55, 55]], float)
    make = augmenter("none", 50, aim=0.0)
    seen = set()
    for seed in range(60):
        _, targets = sample(make, painted(boxes, 100), boxes, np.array([0, 0]), seed)
        seen.add((len(targets.boxes), len(targets.ignore_boxes)))
        assert targets.boxes.shape[1:] == targets.ignore_boxes.shape[1:] == (4,)
    assert {(0, 1), (1, 0)} <= seen


def test_aiming_finds_the_rare_cell():
    common = np.column_stack([np.arange(20) * 10, np.zeros(20), np.arange(20) * 10 + 8, np.full(20, 8)])
    boxes = np.concatenate([common, [[900, 900, 940, 940]]]).astype(float)
    labels = np.array([0] * 20 + [1])
    image = np.full((1000, 1000, 3), 255, np.uint8)
    share = {
        aim: np.mean(
            [1 in sample(augmenter("none", 200, aim=aim), image, boxes, labels, seed)[1].labels for seed in range(100)]
        )
        for aim in (0.0, 1.0)
    }
    assert share[0.0] < 0.15
    assert 0.35 < share[1.0] < 0.65


@pytest.mark.parametrize("preset", list(PRESETS))
def test_empty_boxes_keep_their_shape(preset):
    image, targets = sample(augmenter(preset, 64), painted(), np.zeros((0, 4)), np.zeros(0, np.int64), 3)
    assert image.shape == (64, 64, 3)
    assert targets.boxes.shape == targets.ignore_boxes.shape == (0, 4)
    assert targets.labels.shape == (0,)


def test_equal_seeds_give_equal_samples_and_others_differ():
    make = augmenter("cytology", 100)
    first, again = (
        sample(make, painted(), CELLS, LABELS, 7),
        sample(augmenter("cytology", 100), painted(), CELLS, LABELS, 7),
    )
    assert (first[0] == again[0]).all()
    assert (first[1].boxes == again[1].boxes).all()
    images = {sample(make, painted(), CELLS, LABELS, seed)[0].tobytes() for seed in range(20)}
    assert len(images) == 20


def test_sample_seeds_differ_by_run_epoch_and_position():
    seeds = {sample_seed(run, epoch, position) for run in range(3) for epoch in range(3) for position in range(50)}
    assert len(seeds) == 3 * 3 * 50


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_boxes_that_are_not_finite_never_reach_the_library(bad):
    with pytest.raises(LabelError, match="not finite"):
        sample(augmenter("flip", None), painted(), np.array([[0, 0, bad, 9]]), np.array([0]), 0)


@pytest.mark.parametrize("arguments", [("colour", None), ("flip", 0)])
def test_wrong_settings_are_refused(arguments):
    with pytest.raises(ConfigError):
        augmenter(*arguments)


def test_another_distribution_of_the_same_name_is_refused(monkeypatch):
    monkeypatch.setattr(augment, "_installed", lambda name: name == "albumentationsx")
    augment._albumentations.cache_clear()
    with pytest.raises(EnvironmentFaultError, match="AlbumentationsX"):
        augment._albumentations()
    augment._albumentations.cache_clear()


def test_importing_the_library_asks_nobody_and_comes_late():
    code = (
        "import sys, os; from wsi_detect.data import augment; assert 'albumentations' not in sys.modules;"
        "augment._albumentations(); assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
