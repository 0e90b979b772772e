import csv
import io
import json
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from wsi_detect import artifact, schema
from wsi_detect.artifact import PARTIAL
from wsi_detect.data.store_export import Labels, export_stores
from wsi_detect.data.targets import patch_targets
from wsi_detect.errors import ConfigError, DamagedArtifactError, MissingArtifactError
from wsi_detect.slides import open_slide
from wsi_detect.tiling.patch_store import PatchStore, shard_path
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

SIDE = 256


@pytest.fixture(scope="module")
def stores(painted, small_painted, tmp_path_factory):
    """Stores by what they are made of; the slide's id has a dot."""
    root = tmp_path_factory.mktemp("stores")
    made = {}
    for name, slide, options in [
        ("tiles", small_painted, {"codec": "jpeg_tiles", "overlap_px": 56}),
        ("single", small_painted, {"codec": "jpeg_tiles", "overlap_px": 0}),
        ("jpeg", small_painted, {"codec": "jpeg"}),
        ("other", painted, {"codec": "jpeg"}),
        ("none", small_painted, {"codec": "none"}),
    ]:
        with open_slide(slide.path, slide_id="L.1" if slide is small_painted else "L2") as reader:
            config = TilingConfig(**{"patch_px": SIDE, "overlap_px": 64, **options})
            made[name] = PatchStore.open(tile_slide(reader, root / name, config).path)
    return made


@pytest.fixture(scope="module")
def labels(painted, small_painted, tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "annotations.parquet"
    rows = [
        {
            "slide_id": slide_id,
            "annotation_id": str(k),
            "label": cell.label,
            "source_label": cell.label,
            **dict(zip(schema.BOX_COLUMNS, cell.box, strict=True)),
        }
        for slide_id, slide in (("L.1", small_painted), ("L2", painted))
        for k, cell in enumerate(slide.cells)
    ]
    artifact.write_table(path, artifact.table_of(rows, schema.ANNOTATIONS), schema.ANNOTATIONS)
    # The last class is left out of the data set: its cells become regions to ignore.
    return Labels(path, sorted({row["label"] for row in rows})[:-1])


def picture(content):
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("name", ["tiles", "single", "jpeg"])
@pytest.mark.parametrize("png", [False, True])
def test_a_folder_of_pictures(stores, tmp_path, name, png):
    store = stores[name]
    out = export_stores([store], tmp_path / "out", "folder", png=png)
    with (out / "patches.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    suffix = "png" if png else "jpg"
    assert [line["file"] for line in lines] == [f"L~1_{k:06d}.{suffix}" for k in store.patch_ids]
    assert sorted(path.name for path in out.iterdir()) == sorted([*(line["file"] for line in lines), "patches.csv"])
    for row, line in enumerate(lines):
        content, expected = (out / line["file"]).read_bytes(), store.read(row).rgb
        assert (int(line["x_px"]), int(line["y_px"])) == tuple(store.origin_px[row])
        assert (line["slide_id"], float(line["mpp"])) == ("L.1", store.mpp)
        assert float(line["coverage"]) == pytest.approx(store.coverage[row], abs=1e-6)
        if png:
            assert (picture(content) == expected).all()
        elif store.jpeg(row) is not None:
            # Handed on: the very pixels of the store.
            assert content == store.jpeg(row)
            assert (picture(content) == expected).all()
        else:
            assert np.abs(picture(content).astype(int) - expected).mean() < 1.5


def test_a_patch_that_is_one_tile_is_handed_on(stores):
    for name in ("tiles", "single"):
        for row, (x, y) in enumerate(stores[name].origin_px.tolist()):
            assert (stores[name].jpeg(row) is not None) == (x % SIDE == y % SIDE == 0)
    assert all(stores["jpeg"].jpeg(row) is not None for row in range(len(stores["jpeg"])))


def test_a_tar_for_each_slide_with_picture_and_facts(stores, labels, tmp_path):
    pair = [stores["jpeg"], stores["other"]]
    out = export_stores(pair, tmp_path / "out", "webdataset", labels=labels)
    assert sorted(path.name for path in out.iterdir()) == ["L.1.tar", "L2.tar"]
    for store, name in zip(pair, ("L.1", "L2"), strict=True):
        with tarfile.open(out / f"{name}.tar") as tar:
            members = tar.getmembers()
            assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
            # WebDataset puts together what is alike up to the first dot, and follows upon each other.
            assert [m.name.split(".")[1] for m in members] == ["jpg", "json"] * len(store)
            keys = [m.name.split(".")[0] for m in members]
            assert keys[::2] == keys[1::2] == [f"{name.replace('.', '~')}_{k:06d}" for k in store.patch_ids]
            for row, (image, facts) in enumerate(zip(members[::2], members[1::2], strict=True)):
                assert tar.extractfile(image).read() == store.jpeg(row)
                found = json.loads(tar.extractfile(facts).read())
                expected = targets(store, row, labels)
                assert (found["slide_id"], found["patch_id"]) == (name, store.patch_ids[row])
                assert found["labels"] == expected.labels.tolist()
                np.testing.assert_allclose(np.reshape(found["boxes"], (-1, 4)), expected.boxes, atol=1e-3)
                assert len(found["ignore_boxes"]) == len(expected.ignore_boxes)
    again = export_stores(pair, tmp_path / "again", "webdataset", labels=labels)
    assert all((out / n).read_bytes() == (again / n).read_bytes() for n in ("L.1.tar", "L2.tar"))


def targets(store, row, labels):
    table = artifact.read_table(labels.annotations, schema.ANNOTATIONS).to_pylist()
    here = [entry for entry in table if entry["slide_id"] == store.slide.slide_id]
    boxes = np.array([[entry[name] for name in schema.BOX_COLUMNS] for entry in here])
    numbers = [labels.classes.index(e["label"]) if e["label"] in labels.classes else -1 for e in here]
    return patch_targets(boxes, np.array(numbers), store.frame(row), SIDE)


def test_a_tar_without_labels_says_nothing_of_boxes(stores, tmp_path):
    out = export_stores([stores["tiles"]], tmp_path / "out", "webdataset", png=True)
    with tarfile.open(out / "L.1.tar") as tar:
        names = tar.getnames()
        assert names[:2] == ["L~1_000000.png", "L~1_000000.json"]
        assert (picture(tar.extractfile(names[0]).read()) == stores["tiles"].read(0).rgb).all()
        assert "boxes" not in json.loads(tar.extractfile(names[1]).read())


def test_coco(stores, labels, tmp_path, capsys):
    pair = [stores["jpeg"], stores["other"]]
    out = export_stores(pair, tmp_path / "out", "coco", labels=labels)
    coco = COCO(out / "annotations.json")
    capsys.readouterr()
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == labels.classes
    rows = [(store, row) for store in pair for row in range(len(store))]
    assert sorted(path.name for path in (out / "images").iterdir()) == sorted(
        entry["file_name"] for entry in coco.imgs.values()
    )
    seen = crowded = 0
    for number, (store, row) in enumerate(rows, start=1):
        image = coco.loadImgs(number)[0]
        assert (image["width"], image["height"], image["patch_id"]) == (SIDE, SIDE, store.patch_ids[row])
        assert (out / "images" / image["file_name"]).read_bytes() == store.jpeg(row)
        expected = targets(store, row, labels)
        found = coco.loadAnns(coco.getAnnIds(imgIds=number, iscrowd=0))
        assert [entry["category_id"] - 1 for entry in found] == expected.labels.tolist()
        boxes = np.reshape([entry["bbox"] for entry in found], (-1, 4))
        np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], expected.boxes[:, 2:], atol=2e-3)
        crowd = coco.getAnnIds(imgIds=number, iscrowd=1)
        assert len(crowd) == len(expected.ignore_boxes) * len(labels.classes)
        seen, crowded = seen + len(found), crowded + len(crowd)
    assert seen > 50
    assert crowded > 0


@pytest.mark.parametrize("form", ["folder", "webdataset", "coco"])
def test_nothing_written_names_a_file(stores, labels, tmp_path, form):
    given = None if form == "folder" else labels
    out = export_stores([stores["jpeg"]], tmp_path / "out", form, labels=given)
    for path in out.rglob("*"):
        assert "small" not in path.name
        if path.is_file():
            assert b"small" not in path.read_bytes()
            assert str(tmp_path).encode() not in path.read_bytes()


def test_what_cannot_be_done_is_said(stores, labels, tmp_path):
    out, store = tmp_path / "out", stores["jpeg"]
    for error, words, call in [
        (ConfigError, "known: folder, webdataset, coco", {"form": "zip"}),
        (ConfigError, "needs boxes; give --annotations", {"form": "coco"}),
        (ConfigError, "no place for boxes", {"form": "folder", "labels": labels}),
        (ConfigError, "of the same slide", {"form": "folder", "stores": [store, stores["tiles"]]}),
        (MissingArtifactError, "index-only and holds no pixels", {"form": "folder", "stores": [stores["none"]]}),
    ]:
        with pytest.raises(error, match=words):
            export_stores(call.pop("stores", [store]), out, call.pop("form"), **call)
        assert not out.exists()
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        export_stores([store], out, "folder")


def test_a_damaged_patch_leaves_nothing_behind(stores, tmp_path):
    path = shutil.copytree(stores["jpeg"].path, tmp_path / "patches.zarr")
    content = bytearray(shard_path(path, 0).read_bytes())
    content[len(content) // 2] ^= 1
    shard_path(path, 0).write_bytes(content)
    with pytest.raises(DamagedArtifactError, match="checksum mismatch"):
        export_stores([PatchStore.open(path)], tmp_path / "out", "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["patches.zarr"]
    (tmp_path / f"out{PARTIAL}").mkdir()
    export_stores([stores["jpeg"]], tmp_path / "out", "folder")
    assert not (tmp_path / f"out{PARTIAL}").exists()


def test_no_torch_is_loaded():
    program = "import sys, wsi_detect.data.store_export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
