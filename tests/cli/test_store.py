"""`store verify`, `store repair`, `store export`, as a user runs them."""

import json
import shutil
import sys

import pytest

from wsi_detect import artifact, schema
from wsi_detect.cli.main import main
from wsi_detect.tiling.patch_store import shard_path
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide


@pytest.fixture
def cli(monkeypatch, capfd):
    """Run a command line; gives exit code, standard output and standard error."""

    def go(*words):
        monkeypatch.setattr(sys, "argv", ["wsi-detect", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code or 0, *capfd.readouterr()

    return go


@pytest.fixture(scope="module")
def made(painted, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "S1"
    return tile_slide(painted.path, out, TilingConfig(patch_px=256, overlap_px=64, shard_patches=16)).path


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made, tmp_path / "S1" / "patches.zarr")


def test_a_sound_store(cli, store):
    code, out, _ = cli("store", "verify", store.parent)
    assert (code, out) == (0, f"{store}: sound\n")


def test_damage_is_listed_mended_and_gone(cli, store, painted):
    shard_path(store, 0).unlink()
    shard_path(store, 2).write_bytes(b"")
    code, out, _ = cli("store", "verify", store)
    assert code == 4
    assert "shard 1 of 4 is missing (images/c/0/0/0/0)\nshard 3 of 4 is empty (images/c/2/0/0/0)\n" in out
    code, out, _ = cli("store", "verify", store, "--json")
    assert code == 4
    assert [fault["shard"] for fault in json.loads(out)["faults"]] == [0, 2]
    code, out, _ = cli("store", "repair", store, "--slide", painted.path)
    assert code == 0
    assert out.endswith("2 mended, 2 shards read\n")
    assert cli("store", "verify", store)[0] == 0
    assert cli("store", "repair", store, "--slide", painted.path)[1].endswith(": sound\n")


@pytest.mark.parametrize(
    ("slide", "words"), [("gone.svs", "say with --slide where it lies now"), (None, "made from another slide")]
)
def test_a_wrong_slide_ends_with_the_remedy(cli, store, tmp_path, small_painted, slide, words):
    shard_path(store, 0).unlink()
    code, _, err = cli("store", "repair", store, "--slide", tmp_path / slide if slide else small_painted.path)
    assert code == 4
    assert words in err


def test_no_store_at_all(cli, tmp_path):
    assert cli("store", "verify", tmp_path)[0] == 4


def test_export(cli, store, tmp_path):
    rows = [{"slide_id": "other", "annotation_id": "1", "label": "HSIL", "source_label": "HSIL"}]
    rows[0] |= dict(zip(schema.BOX_COLUMNS, (1.0, 1.0, 9.0, 9.0), strict=True))
    path = tmp_path / "annotations.parquet"
    artifact.write_table(path, artifact.table_of(rows, schema.ANNOTATIONS), schema.ANNOTATIONS)
    code, out, _ = cli("store", "export", store, "--format", "coco", "--annotations", path, "--out", tmp_path / "coco")
    assert code == 0
    assert out == f"{tmp_path / 'coco'}: 56 patches of 1 slides\n"
    content = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["HSIL"]
    assert len(content["images"]) == 56
    code, _, err = cli("store", "export", store, "--format", "tar", "--out", tmp_path / "tar")
    assert code == 2
    assert "known: folder, webdataset, coco" in err
