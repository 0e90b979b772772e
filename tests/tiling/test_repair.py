import hashlib
import json
import shutil

import numpy as np
import pytest

from wsi_detect.artifact import lock
from wsi_detect.errors import (
    DamagedArtifactError,
    MissingArtifactError,
    MissingSlideError,
    OutputBusyError,
    StaleArtifactError,
)
from wsi_detect.slides import open_slide
from wsi_detect.tiling import tiler
from wsi_detect.tiling.patch_store import PatchStore, shard_path
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.repair import repair, verify
from wsi_detect.tiling.tiler import tile_slide

CONFIG = {"patch_px": 256, "overlap_px": 64, "shard_patches": 8}


@pytest.fixture(scope="module")
def made(painted, tmp_path_factory):
    """Stores of one slide, by codec."""
    root = tmp_path_factory.mktemp("stores")
    return {
        name: tile_slide(painted.path, root / name, TilingConfig(codec=name, **CONFIG)).path
        for name in ("jpeg_tiles", "jpeg", "none")
    }


@pytest.fixture
def store(made, tmp_path):
    return shutil.copytree(made["jpeg_tiles"], tmp_path / "patches.zarr")


def tree(folder):
    """Every file of a folder with the hash of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def flip(path, place=-1):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


# What happens to a file, and what is said of it.
HARMS = {
    "missing": (lambda path: path.unlink(), "is missing"),
    "empty": (empty, "is empty"),
    "cut": (cut, "were written"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "were written"),
    "flipped": (lambda path: flip(path, 40), "fails its checksum"),
    "index flipped": (flip, "fails its checksum"),
}


@pytest.mark.parametrize("name", ["jpeg_tiles", "jpeg", "none"])
def test_a_sound_store_has_no_faults(made, painted, name):
    before = tree(made[name])
    assert verify(made[name]) == []
    assert repair(made[name], painted.path).faults == ()
    assert tree(made[name]) == before


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_shard_is_found_and_made_again(store, made, painted, harm):
    do, words = HARMS[harm]
    do(shard_path(store, 2))
    (fault,) = verify(store)
    assert (fault.shard, fault.column) == (2, None)
    assert f"shard 3 of {len(PatchStore.open(made['jpeg_tiles']).shards)}" in str(fault)
    assert words in str(fault)
    assert "images/c/2/0/0/0" in str(fault)
    assert repair(store, painted.path).shards_read == 1
    assert tree(store) == tree(made["jpeg_tiles"])


def test_everything_is_listed_at_once_and_mended_at_once(store, made, painted):
    shard_path(store, 0).unlink()
    empty(shard_path(store, 1))
    cut(shard_path(store, 3))
    flip(shard_path(store, 4), 1000)
    flip(store / "coverage/c/0")
    (store / "patch_id/c/0").unlink()
    empty(store / "origin_px/c/0/0")
    flip(store / "images/zarr.json", 5)
    (store / "focus/zarr.json").unlink()
    found = [str(fault) for fault in verify(store)]
    expected = ["images/zarr.json", "focus/zarr.json", "patch_id/c/0", "origin_px/c/0/0", "coverage/c/0"]
    expected += [f"images/c/{number}/0/0/0" for number in (0, 1, 3, 4)]
    assert sorted(line.rpartition("(")[2].rstrip(")") for line in found) == sorted(expected)
    assert repair(store, painted.path).shards_read == 4
    assert tree(store) == tree(made["jpeg_tiles"])
    assert verify(store) == []


@pytest.mark.parametrize("name", ["jpeg_tiles", "jpeg"])
def test_a_column_measured_on_pixels_is_measured_again_on_all_shards(made, painted, tmp_path, name, caplog):
    store = shutil.copytree(made[name], tmp_path / "patches.zarr")
    flip(store / "focus/c/0")
    shutil.rmtree(store / "no_data")
    caplog.set_level("INFO")
    done = repair(store, painted.path)
    assert [fault.column for fault in done.faults if fault.column] == ["no_data", "focus"]
    assert done.shards_read == len(PatchStore.open(store).shards)
    assert "focus, no_data measured on pixels: all" in caplog.text
    assert tree(store) == tree(made[name])


def test_an_index_needs_no_pixels(made, painted, tmp_path):
    store = shutil.copytree(made["none"], tmp_path / "patches.zarr")
    for name in ("patch_id", "focus", "coverage"):
        flip(store / name / "c/0")
    assert repair(store, painted.path).shards_read == 0
    assert tree(store) == tree(made["none"])


def test_only_the_damaged_shard_is_read(store, painted, monkeypatch):
    made = []
    original = tiler.make_shard
    monkeypatch.setattr("wsi_detect.tiling.repair.make_shard", lambda *args: made.append(args[2]) or original(*args))
    shard_path(store, 3).unlink()
    with open_slide(painted.path) as slide:
        repair(store, slide)
        assert slide.read_region(0, 0, 0, 8, 8)[0].shape == (8, 8, 3)
    assert made == [3]


def test_another_slide_is_refused_and_nothing_touched(store, small_painted):
    empty(shard_path(store, 0))
    before = tree(store)
    with pytest.raises(StaleArtifactError, match="made from another slide: slide '"):
        repair(store, small_painted.path)
    assert tree(store) == before


def test_a_slide_that_is_offline_is_named_with_the_remedy(store, tmp_path):
    empty(shard_path(store, 0))
    with pytest.raises(MissingSlideError, match=r"damaged parts \(1\).*say with --slide where it lies now"):
        repair(store, tmp_path / "gone.svs")


def test_a_slide_is_not_needed_where_nothing_is_damaged(store, tmp_path):
    assert repair(store, tmp_path / "gone.svs").faults == ()


def edit(store, **changes):
    content = json.loads((store / "zarr.json").read_text())
    content["attributes"].update(changes)
    (store / "zarr.json").write_text(json.dumps(content))


def test_other_bytes_than_the_recorded_are_never_written(store, painted):
    shards = json.loads((store / "zarr.json").read_text())["attributes"]["shards"]
    shards[1]["sha256"] = "0" * 64
    edit(store, shards=shards)
    before = tree(store)
    with pytest.raises(DamagedArtifactError, match=r"shard 2 of .* comes out with another checksum"):
        repair(store, painted.path)
    assert tree(store) == before


def test_a_configuration_of_another_version_is_refused(store, painted):
    key = json.loads((store / "zarr.json").read_text())["attributes"]["key"]
    edit(store, key=key | {"config": {**key["config"], "unheard_of": 1}})
    empty(shard_path(store, 0))
    with pytest.raises(StaleArtifactError, match="configuration this program does not know"):
        repair(store, painted.path)


def test_a_store_in_use_is_left_alone(store, painted):
    empty(shard_path(store, 0))
    with lock(store.parent), pytest.raises(OutputBusyError):
        repair(store, painted.path)


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (lambda path: (path / "zarr.json").unlink(), MissingArtifactError),
        (lambda path: edit(path, shards=None), DamagedArtifactError),
        (lambda path: edit(path, patches="many"), DamagedArtifactError),
    ],
)
def test_a_store_that_does_not_say_what_it_is_cannot_be_verified(store, harm, error):
    harm(store)
    with pytest.raises(error):
        verify(store)


def test_a_stated_resolution_is_stated_again(painted, tmp_path):
    with open_slide(painted.path, mpp=0.3, slide_id="S1") as slide:
        path = tile_slide(slide, tmp_path, TilingConfig(codec="jpeg_tiles", **CONFIG)).path
    before = tree(path)
    empty(shard_path(path, 0))
    repair(path, painted.path)
    assert tree(path) == before


def test_a_store_without_patches_is_sound(tmp_path):
    from memory_slides import MemorySlide

    slide = tmp_path / "blank.bin"
    slide.write_bytes(b"blank")
    blank = MemorySlide(np.full((300, 300, 3), 240, np.uint8), path=slide)
    path = tile_slide(blank, tmp_path, TilingConfig(codec="jpeg", **CONFIG)).path
    assert verify(path) == []
