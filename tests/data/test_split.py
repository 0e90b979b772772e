"""Splits: nobody on two sides, classes alike, rare ones first."""

import numpy as np
import pytest

from wsi_detect.data.split import check_leak, grouped_folds, grouped_split, read_splits
from wsi_detect.errors import LabelError


def patients():
    """300 items of 60 patients; class 2 is rare and sits in six patients."""
    rng = np.random.default_rng(4)
    groups = [f"P{k // 5:02d}" for k in range(300)]
    labels = np.column_stack([rng.integers(5, 20, 300), rng.integers(0, 3, 300), np.zeros(300, int)])
    labels[::50, 2] = 10
    return groups, labels


def test_a_split_keeps_groups_whole_and_classes_alike():
    groups, labels = patients()
    splits = np.array(grouped_split(groups, labels, {"train": 0.5, "val": 0.5}, seed=0))
    check_leak(groups, splits.tolist())
    for column in labels.T:
        assert column[splits == "train"].sum() == pytest.approx(column.sum() / 2, rel=0.08)
    assert labels[splits == "val", 2].sum() == 30


def test_folds_cover_everything_once_with_the_rare_class_in_each():
    groups, labels = patients()
    folds = grouped_folds(groups, labels, 3, seed=1)
    check_leak(groups, [str(fold) for fold in folds])
    assert [int(labels[folds == fold, 2].sum()) for fold in range(3)] == [20, 20, 20]
    assert np.bincount(folds).tolist() == pytest.approx([100, 100, 100], abs=15)


def test_seeds_decide_and_repeat():
    groups, labels = patients()
    first, again, other = (grouped_folds(groups, labels, 3, seed).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_no_part_is_empty():
    splits = grouped_split(["a", "b", "c"], np.array([[100], [1], [1]]), {"train": 0.9, "val": 0.05, "test": 0.05}, 0)
    assert sorted(splits) == ["test", "train", "val"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: grouped_split(["a", "b"], np.ones((2, 1), int), {"train": 0.5, "val": 0.4}, 0),
        lambda: grouped_split(["a", "b"], np.ones((2, 1), int), {}, 0),
        lambda: grouped_split(["a", "a"], np.ones((2, 1), int), {"train": 0.5, "val": 0.5}, 0),
        lambda: grouped_folds(["a", "b"], np.ones((2, 1), int), 1, 0),
    ],
)
def test_wrong_divisions_are_refused(wrong):
    with pytest.raises(LabelError):
        wrong()


def test_a_leak_names_the_group():
    with pytest.raises(LabelError, match=r"1 groups .*: P1 \(train, val\)"):
        check_leak(["P1", "P1", "P2"], ["train", "val", "val"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,split\na,train\n", "columns image, group, split"),
        ("image,group,split\n", "columns image, group, split"),
        ("image,group,split\na,g,train\na,g,train\n", "named twice"),
        ("image,group,split\na,g,train\nb,g,val\n", r"g \(train, val\)"),
        ("image,group,split\na,g,\n", "no group or no split"),
    ],
)
def test_a_wrong_file_of_splits_is_refused(tmp_path, text, words):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(LabelError, match=words):
        read_splits(path)


def test_splits_are_read(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("image,group,split\na,g,train\nb,h,val\n")
    assert read_splits(path) == {"a": "train", "b": "val"}
    with pytest.raises(LabelError, match="cannot read"):
        read_splits(tmp_path / "gone.csv")
