"""The index: counts, what is refused, what survives reading back and moving."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_detect.annotations.rois import Roi, write_rois
from wsi_detect.data.index import build_index, read_index, read_labels
from wsi_detect.errors import ConfigError, DamagedArtifactError, LabelError, MissingArtifactError, UnmappedLabelError

CLASSES = ("NILM", "HSIL")
ROWS = [
    ("A", "NILM", 10, 10, 40, 40),  # patch 0
    ("A", "NILM", 50, 10, 80, 40),  # patch 0
    ("A", "HSIL", 90, 110, 120, 140),  # two thirds in patch 5, one third in patch 4: counts in neither
    ("A", "HSIL", 95, 210, 195, 290),  # patch 9 shows 95 %
    ("A", "SCC", 310, 310, 340, 340),  # a class the data set does not use
    ("B", "HSIL", 300, 300, 400, 400),  # patch 15
    ("X", "HSIL", 300, 300, 400, 400),  # no such store
]


@pytest.fixture
def make(memory_store, write_annotations):
    def made(folder, **changed):
        return build_index(**arguments(folder, memory_store, write_annotations) | changed)

    return made


def arguments(folder, memory_store, write_annotations):
    return {
        "stores": {name: memory_store(folder / name / "patches.zarr") for name in ("B", "A")},
        "annotations": write_annotations(folder / "annotations.parquet", ROWS),
        "split": {"A": "train", "B": "val"},
        "out": folder / "dataset",
        "classes": CLASSES,
    }


def test_counts_are_those_of_whole_cells(tmp_path, make):
    index = read_index(make(tmp_path))
    assert index.slide_ids == ("A",) * 16 + ("B",) * 16
    assert index.patch_ids.tolist() == [*range(16), *range(16)]
    found = {
        (index.slide_ids[k], int(index.patch_ids[k])): row.tolist() for k, row in enumerate(index.counts) if row.any()
    }
    assert found == {("A", 0): [2, 0], ("A", 9): [0, 1], ("B", 15): [0, 1]}
    assert index.rows("val").tolist() == list(range(16, 32))
    assert (index.classes, index.patch_px, index.mpp, index.min_visible) == (CLASSES, 100, 0.5, 0.75)


def test_the_order_of_stores_does_not_matter(tmp_path, make, memory_store):
    stores = {name: memory_store(tmp_path / name / "patches.zarr") for name in ("A", "B")}
    first = make(tmp_path).read_bytes()
    assert make(tmp_path, stores=stores).read_bytes() == first


def test_patches_are_left_out_by_a_declared_rule_alone(tmp_path, make, memory_store, caplog):
    stores = {name: memory_store(tmp_path / name / "patches.zarr") for name in ("A", "B")}
    for store in stores.values():
        store.columns = {"focus": np.where(np.arange(16) < 4, 1.2, 1.8), "blood": np.full(16, np.nan)}
        store.columns["focus"][5] = np.nan
    assert len(read_index(make(tmp_path, stores=stores))) == 32
    caplog.set_level("INFO")
    path = make(tmp_path, stores=stores, keep={"train": {"focus": (1.5, None), "blood": (None, 0.5)}})
    index = read_index(path)
    assert index.patch_ids.tolist() == [*range(4, 16), *range(16)]
    assert "4 patches left out by the rules for train" in caplog.text
    metadata = pq.read_schema(path).metadata
    assert json.loads(metadata[b"left_out"]) == {"A": 4}
    assert json.loads(metadata[b"keep"]) == {"train": {"focus": [1.5, None], "blood": [None, 0.5]}}


@pytest.mark.parametrize(
    ("keep", "named"),
    [
        ({"train": {"sharpness": (1, None)}}, "no column 'sharpness' to choose patches by; known: focus"),
        ({"trian": {"focus": (1, None)}}, "split 'trian', which no slide is in; splits: train, val"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(tmp_path, make, keep, named):
    with pytest.raises(ConfigError, match=named):
        make(tmp_path, keep=keep)


def test_a_data_set_can_be_moved(tmp_path, make):
    make(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    index = read_index(tmp_path / "there" / "dataset" / "index.parquet")
    assert index.stores["A"] == tmp_path / "there" / "A" / "patches.zarr"
    assert index.annotations == tmp_path / "there" / "annotations.parquet"


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"split": {"A": "train"}}, LabelError, "without a split: B"),
        ({"classes": ("NILM", "NILM")}, LabelError, "none of them twice"),
        ({"classes": ("NILM", "Dragon")}, UnmappedLabelError, "Dragon"),
        ({"stores": {}}, LabelError, "at least one slide"),
    ],
)
def test_what_is_refused(tmp_path, make, changed, error, words):
    with pytest.raises(error, match=words):
        make(tmp_path, **changed)


@pytest.mark.parametrize("other", [{"patch_px": 200}, {"mpp": 0.6}])
def test_stores_must_be_alike(tmp_path, make, memory_store, other):
    stores = {"A": memory_store(tmp_path / "A"), "B": memory_store(tmp_path / "B", **other)}
    with pytest.raises(ConfigError, match="slide B"):
        make(tmp_path, stores=stores)


def test_reading_back_refuses_what_is_no_index(tmp_path, make):
    with pytest.raises(MissingArtifactError):
        read_index(tmp_path / "index.parquet")
    with pytest.raises(LabelError, match="no patch is in split 'test'"):
        read_index(make(tmp_path)).rows("test")
    (tmp_path / "index.parquet").write_bytes(b"no")
    with pytest.raises(DamagedArtifactError):
        read_index(tmp_path / "index.parquet")


def test_patches_outside_the_labelled_areas_are_no_background(tmp_path, make, caplog):
    caplog.set_level("INFO")
    # Patches are of 100 px; the area of A takes in patch 5 whole, a half of 6, and shares an edge with 4.
    write_rois(tmp_path, [Roi("A", "1", shapely.box(100, 100, 250, 200))])
    path = make(tmp_path)
    index = read_index(path)
    found = {slide: [] for slide in ("A", "B")}
    for slide, patch in zip(index.slide_ids, index.patch_ids.tolist(), strict=True):
        found[slide].append(patch)
    assert found == {"A": [5, 6], "B": [*range(16)]}
    # The cells of A all lie outside.
    assert index.counts[:2].tolist() == [[0, 0], [0, 0]]
    assert "14 patches lie outside the labelled areas" in caplog.text
    assert json.loads(pq.read_schema(path).metadata[b"not_labelled"]) == {"A": 14}


def test_labels_outside_the_areas_are_ignored(tmp_path, write_annotations):
    rows = [("A", "NILM", 0, 0, 40, 40), ("A", "HSIL", 80, 80, 140, 140), ("B", "NILM", 0, 0, 40, 40)]
    annotations = write_annotations(tmp_path / "annotations.parquet", rows)
    write_rois(tmp_path, [Roi("A", "1", shapely.box(100, 100, 200, 200)), Roi("C", "1", shapely.box(0, 0, 9, 9))])
    labels = read_labels(annotations, CLASSES)
    assert {slide: known.labels.tolist() for slide, known in labels.items()} == {"A": [-1, 1], "B": [0], "C": []}
    assert {slide: len(known.outside) for slide, known in labels.items()} == {"A": 4, "B": 0, "C": 4}
    boxes, numbers = labels["A"].everything()
    assert (boxes.shape, numbers.tolist()) == ((6, 4), [-1, 1, -1, -1, -1, -1])


def test_other_material_has_the_names_of_its_card(tmp_path, make):
    card = tmp_path / "card"
    card.mkdir()
    (card / "README.md").write_text("---\nname: blood\nspecimen: other\n---\n")
    (card / "classes.yaml").write_text("a: RBC\nb: WBC\n")
    assert read_index(make(tmp_path, classes=("WBC", "RBC"))).classes == ("WBC", "RBC")
    with pytest.raises(UnmappedLabelError, match="'Platelets' is not a name of the data card; known: RBC, WBC"):
        make(tmp_path, classes=("RBC", "Platelets"))
    with pytest.raises(UnmappedLabelError, match="'NILM' is not a name of the data card"):
        make(tmp_path, classes=("NILM", "RBC"))
    (card / "README.md").write_text("---\nname: blood\nspecimen: cervix\n---\n")
    with pytest.raises(UnmappedLabelError, match="'RBC' is not in the taxonomy"):
        make(tmp_path, classes=("RBC",))
