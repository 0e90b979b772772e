"""Hard negatives: found on negative slides of the training split only, drawn more often, never breaking the order."""

import csv
from dataclasses import asdict, replace

import numpy as np
import pytest

from wsi_detect import artifact, schema
from wsi_detect.data.hard_negatives import (
    LIST,
    TABLE,
    HardNegatives,
    find_hard_negatives,
    read_hard_rows,
    with_hard_negatives,
    write_hard_negatives,
)
from wsi_detect.data.index import build_index, read_index
from wsi_detect.data.samplers import SAMPLERS, EpochSampler
from wsi_detect.errors import ConfigError, LabelError, StaleArtifactError
from wsi_detect.testing.hand_map import write_map
from wsi_detect.tiling.patch_store import KIND

#: Evidence of the 4 x 4 patches of each slide: the highest px, others are 0.
PEAKS = {
    "neg1": {0: 0.9, 5: 0.6, 6: 0.4},
    "neg2": {3: 0.9, 7: 0.95, 8: np.nan},
    "pos": {1: 0.99},
    "held": {2: 0.99},
}
SPLIT = {"neg1": "train", "neg2": "train", "pos": "train", "held": "val"}


@pytest.fixture
def data(tmp_path, memory_store):
    """Index of four slides of sixteen patches, one cell on `pos`; and a map of each."""
    rows = [
        {
            "slide_id": "pos", "annotation_id": "0", "label": "HSIL", "source_label": "HSIL",
            **dict(zip(schema.BOX_COLUMNS, (110.0, 10.0, 140.0, 40.0), strict=True)),
        }
    ]  # fmt: skip
    annotations = tmp_path / "annotations.parquet"
    artifact.write_table(annotations, artifact.table_of(rows, schema.ANNOTATIONS), schema.ANNOTATIONS)
    stores = {slide: memory_store(tmp_path / slide / "patches.zarr") for slide in PEAKS}
    for store in stores.values():
        facts = {"kind": KIND, "schema_version": schema.SCHEMA_VERSION, "grid": asdict(store.grid)}
        artifact.write_json(store.path / "zarr.json", {"attributes": facts})
    index = read_index(build_index(stores, annotations, SPLIT, tmp_path / "dataset", ["HSIL"]))
    maps = {}
    for slide, peaks in PEAKS.items():
        values = np.zeros((100, 100))
        for patch, value in peaks.items():
            # The second patch of a row has its peak at px (1, 26) of the map, and so on; 0.9 of `neg1` is a wider one.
            y, x = patch // 4 * 25 + 1, patch % 4 * 25 + 1
            values[y, x : x + (3 if slide == "neg1" else 1)] = value
        maps[slide] = write_map(tmp_path / slide, values, px=4.0, mpp=0.5, slide_id=slide, patch=100).path
    return index, maps


def test_the_worst_patches_of_negative_slides(data):
    index, maps = data
    table = find_hard_negatives(index, maps, {"neg1", "neg2", "held", "unknown"})
    found = [(row["rank"], row["slide_id"], row["patch_id"]) for row in table.to_pylist()]
    assert found == [(1, "neg2", 7), (2, "neg1", 0), (3, "neg2", 3), (4, "neg1", 5)]
    assert table["evidence"].to_pylist() == pytest.approx([0.95, 0.9, 0.9, 0.6], abs=1e-4)
    # Patch 7 is the last of the second row: its peak is px (26, 76) of the map, 4 slide px each.
    assert [table[name].to_pylist()[0] for name in schema.BOX_COLUMNS] == [304.0, 104.0, 308.0, 108.0]
    assert table["share_above"].to_pylist() == pytest.approx([1 / 625, 3 / 625, 1 / 625, 3 / 625])


@pytest.mark.parametrize(
    ("rule", "patches"),
    [
        (HardNegatives(most=2), [7, 0]),
        (HardNegatives(most_per_slide=1), [7, 0]),
        (HardNegatives(above=0.3), [7, 0, 3, 5, 6]),
        (HardNegatives(above=0.96), []),
    ],
)
def test_how_many_and_above_what(data, rule, patches):
    index, maps = data
    assert find_hard_negatives(index, maps, {"neg1", "neg2"}, rule)["patch_id"].to_pylist() == patches


def test_a_negative_slide_with_cells_is_a_fault(data):
    index, maps = data
    with pytest.raises(LabelError, match=r"1 slides called negative have labelled abnormal cells, first pos"):
        find_hard_negatives(index, maps, {"neg1", "pos"})
    with pytest.raises(LabelError, match="no slide of split 'train' is called negative"):
        find_hard_negatives(index, maps, {"held"})


def test_a_map_of_another_slide_or_of_other_patches_is_refused(data, tmp_path):
    index, maps = data
    with pytest.raises(StaleArtifactError, match="is the map of slide held, not of neg1"):
        find_hard_negatives(index, {**maps, "neg1": maps["held"]}, {"neg1"})
    other = write_map(tmp_path / "other", np.zeros((100, 100)), px=4.0, mpp=0.5, slide_id="neg1", patch=50).path
    with pytest.raises(StaleArtifactError, match="of other patches than the index"):
        find_hard_negatives(index, {"neg1": other}, {"neg1"})
    with pytest.raises(LabelError, match="none of the 2 negative slides of split 'train' has a map"):
        find_hard_negatives(index, {"pos": maps["pos"]}, {"neg1", "neg2"})


def test_normal_cells_of_a_negative_slide_are_no_fault(data):
    index, maps = data
    # A labelled normal cell in patch 7 of `neg2`.
    counts = np.hstack([index.counts, np.zeros_like(index.counts)])
    row = next(k for k, slide in enumerate(index.slide_ids) if (slide, index.patch_ids[k]) == ("neg2", 7))
    counts[row, 1] = 1
    labelled = replace(index, counts=counts, classes=("HSIL", "NILM"))
    assert find_hard_negatives(labelled, maps, {"neg1", "neg2"})["patch_id"].to_pylist() == [0, 3, 5]
    with pytest.raises(LabelError, match="1 slides called negative have labelled abnormal cells, first neg2"):
        find_hard_negatives(replace(labelled, classes=("HSIL", "ASC-H")), maps, {"neg1", "neg2"})


def test_a_patch_named_twice_counts_once(data, tmp_path):
    index, maps = data
    table = find_hard_negatives(index, maps, {"neg1"}).to_pylist()
    path = write_hard_negatives(artifact.table_of([*table, table[0]], schema.HARD_NEGATIVES), tmp_path / "hard")
    assert len(read_hard_rows(path, index)) == len(table)


def test_the_table_is_for_the_sampler_and_for_people(data, tmp_path):
    index, maps = data
    path = write_hard_negatives(find_hard_negatives(index, maps, {"neg1", "neg2"}), tmp_path / "hard")
    with (tmp_path / "hard" / LIST).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["slide_id"], row["patch_id"], float(row["x0_px"])) for row in rows[:2]] == [
        ("neg2", "7", 304.0),
        ("neg1", "0", 4.0),
    ]
    assert path.name == TABLE
    hard = read_hard_rows(path, index)
    mine = index.rows("train")
    named = [(index.slide_ids[mine[k]], int(index.patch_ids[mine[k]])) for k in hard]
    assert named == [("neg2", 7), ("neg1", 0), ("neg2", 3), ("neg1", 5)]
    with pytest.raises(LabelError, match="none of its 4 patches is in split 'val'"):
        read_hard_rows(path, index, "val")


def test_a_patch_that_got_labels_since_is_refused(data, tmp_path):
    index, maps = data
    table = find_hard_negatives(index, maps, {"neg1"}).to_pylist()
    table[0] |= {"slide_id": "pos", "patch_id": 1}
    path = write_hard_negatives(artifact.table_of(table, schema.HARD_NEGATIVES), tmp_path / "hard")
    with pytest.raises(LabelError, match="patch 1 of slide pos has labelled cells"):
        read_hard_rows(path, index)


COUNTS = np.array([[3], [1], [0], [0], [0], [0]])


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, [0.3, 0.3, 0.1, 0.1, 0.1, 0.1]),
        (0.5, [0.3, 0.3, 0.05, 0.15, 0.05, 0.15]),
        (1.0, [0.3, 0.3, 0.0, 0.2, 0.0, 0.2]),
    ],
)
def test_hard_negatives_take_their_share_of_the_background(share, expected):
    weights = with_hard_negatives(SAMPLERS["uniform"](COUNTS, 0.4), COUNTS, np.array([5, 3]), share)
    assert weights == pytest.approx(expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_every_sampler_they_are_drawn_more_often_and_cells_as_often(name):
    counts = np.vstack([np.eye(3, dtype=int).repeat(5, axis=0), np.zeros((40, 3), int)])
    plain = SAMPLERS[name](counts, 0.3)
    hard = np.array([20, 30])
    changed = with_hard_negatives(plain, counts, hard, 0.5)
    assert changed.sum() == pytest.approx(1)
    assert changed[:15] == pytest.approx(plain[:15])
    before, after = (
        np.bincount(np.concatenate([EpochSampler(w, 200, 0).order(epoch) for epoch in range(5)]), minlength=55)
        for w in (plain, changed)
    )
    assert after[hard].sum() == pytest.approx(150 + 75 * 2 / 40 * 2, abs=12)
    assert after[hard].sum() > 5 * before[hard].sum()
    assert (np.delete(after, hard)[15:] > 0).any()


def test_an_epoch_can_be_taken_up_in_its_middle():
    counts = np.vstack([np.ones((5, 1), int), np.zeros((20, 1), int)])
    weights = with_hard_negatives(SAMPLERS["class_aware"](counts, 0.5), counts, np.array([7, 9]), 0.6)
    whole = list(EpochSampler(weights, 40, 3))
    resumed = EpochSampler(weights, 40, 3)
    resumed.start = 17
    assert list(resumed) == whole[17:]


def test_shares_that_make_no_sense():
    with pytest.raises(ConfigError, match="hard_share"):
        with_hard_negatives(np.full(6, 1 / 6), COUNTS, np.array([3]), 1.5)
    with pytest.raises(ConfigError, match="background_share above 0"):
        with_hard_negatives(SAMPLERS["uniform"](COUNTS, 0.0), COUNTS, np.array([3]), 0.5)
