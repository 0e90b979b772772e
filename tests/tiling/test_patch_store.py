import json
import shutil
import warnings

import google_crc32c
import numpy as np
import pytest
import zarr
from memory_slides import MemorySlide, Painted, painted, write_slide

from wsi_detect.errors import (
    ArtifactError,
    DamagedArtifactError,
    MissingArtifactError,
    SchemaVersionError,
    StaleArtifactError,
)
from wsi_detect.slides import open_slide
from wsi_detect.tiling import codec, shard
from wsi_detect.tiling.chunk import encode_chunk
from wsi_detect.tiling.patch_store import PatchStore, shard_path
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

CONFIG = {"patch_px": 256, "overlap_px": 64, "shard_patches": 4}


@pytest.fixture(scope="module")
def tiled(tmp_path_factory):
    """Slide file and stores of 20 patches in 5 shards: {codec: store folder}."""
    root = tmp_path_factory.mktemp("stores")
    slide = write_slide(root)
    stores = {}
    for name in ("jpeg", "zstd", "none"):
        stores[name] = tile_slide(slide, root / name, TilingConfig(codec=name, **CONFIG), reader=Painted()).path
    return slide, stores


@pytest.fixture
def store_path(tiled, tmp_path):
    return shutil.copytree(tiled[1]["jpeg"], tmp_path / "patches.zarr")


def open_quietly(path):
    with warnings.catch_warnings():
        # zarr says that the codec's name is not in the specification.
        warnings.simplefilter("ignore")
        return zarr.open_group(path, mode="r", use_consolidated=False)


@pytest.mark.parametrize("name", ["jpeg", "zstd"])
def test_zarr_reads_the_same_pixels(tiled, name):
    codec.register()
    codec.register()
    store = PatchStore.open(tiled[1][name])
    group = open_quietly(store.path)
    images = group["images"][:]
    assert images.shape == (20, 256, 256, 3)
    for row in range(len(store)):
        assert (images[row] == store.read(row).rgb).all()
    for column in ("patch_id", "origin_px", "coverage", "focus", "no_data"):
        expected = {"patch_id": store.patch_ids, "origin_px": store.origin_px, **store.columns}[column]
        assert (group[column][:] == expected).all()


@pytest.mark.parametrize("name", ["jpeg", "zstd"])
@pytest.mark.parametrize("rows", [4, 3])
def test_our_shards_are_byte_for_byte_those_of_zarr(tmp_path, name, rows):
    codec.register()
    patches = np.random.default_rng(0).integers(0, 255, (rows, 32, 32, 3), dtype=np.uint8)
    metadata = shard.images_metadata(rows, 32, 4, name)
    (tmp_path / "zarr.json").write_text(json.dumps(metadata))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.open_array(tmp_path, mode="r+")[:] = patches
    ours = shard.pack([encode_chunk(patch, name) for patch in patches], 4)
    assert (tmp_path / "c/0/0/0/0").read_bytes() == ours


def test_the_metadata_is_what_zarr_writes_of_it(tiled):
    codec.register()
    for path in tiled[1].values():
        for array in path.glob("*/zarr.json"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = zarr.open_array(array.parent, mode="r").metadata.to_dict()
            assert found["shape"] == tuple(json.loads(array.read_text())["shape"])


def test_pixels_are_those_of_the_slide(tiled):
    slide = painted(1000, 700)
    store = PatchStore.open(tiled[1]["zstd"])
    lossy = PatchStore.open(tiled[1]["jpeg"])
    for row, (x, y) in enumerate(store.origin_px):
        expected = slide[y : y + 256, x : x + 256]
        assert (store.read(row).rgb == expected).all()
        assert np.abs(lossy.read(row).rgb.astype(int) - expected).mean() < 3


def test_index_only_reads_through_the_slide(tiled):
    slide, stores = tiled
    with open_slide(slide, reader=Painted()) as reader:
        store = PatchStore.open(stores["none"], reader)
        full = PatchStore.open(stores["zstd"])
        assert store.index_only
        assert not full.index_only
        assert store.shards == full.shards
        for row in (0, 7, 19):
            assert (store.read(row).rgb == full.read(row).rgb).all()
    assert np.isnan(store.columns["focus"]).all()
    assert not (stores["none"] / "images").exists()
    with pytest.raises(MissingArtifactError, match="index-only; open it together with its slide"):
        PatchStore.open(stores["none"]).read(0)


def test_the_store_is_not_opened_with_another_slide(tiled):
    with pytest.raises(StaleArtifactError, match="not from Sother"):
        PatchStore.open(tiled[1]["jpeg"], MemorySlide(painted(1000, 700), slide_id="Sother"))


def test_batches_and_shards(tiled):
    store = PatchStore.open(tiled[1]["jpeg"])
    assert store.shards == [range(0, 4), range(4, 8), range(8, 12), range(12, 16), range(16, 20)]
    sizes = [(rows.tolist(), pixels.shape) for rows, pixels in store.batches(3, store.shards[1])]
    assert sizes == [([4, 5, 6], (3, 256, 256, 3)), ([7], (1, 256, 256, 3))]
    assert [len(rows) for rows, _ in store.batches(8, [0, 19])] == [2]
    assert list(store.batches(8, [])) == []
    with pytest.raises(IndexError):
        store.read(20)


def test_the_frame_carries_origin_and_scale(tiled):
    store = PatchStore.open(tiled[1]["jpeg"])
    frame = store.frame(1)
    assert (frame.x_px, frame.y_px, frame.scale) == (192, 0, 1)


# What must be refused on opening, and with which words.
@pytest.mark.parametrize(
    ("harm", "error", "words"),
    [
        (lambda f: shard_path(f, 1).unlink(), MissingArtifactError, "shard 2 of 5 missing"),
        (lambda f: shard_path(f, 1).write_bytes(b""), DamagedArtifactError, "shard 2 of 5 is damaged: 0 bytes"),
        (lambda f: (f / "zarr.json").unlink(), MissingArtifactError, "is unfinished"),
        (lambda f: shutil.rmtree(f), MissingArtifactError, "is missing"),
        (lambda f: (f / "zarr.json").write_text("{"), DamagedArtifactError, "not valid JSON"),
        (lambda f: (f / "zarr.json").write_text("{}"), DamagedArtifactError, "not a patch store"),
        (lambda f: shutil.rmtree(f / "coverage"), MissingArtifactError, "column 'coverage' is missing"),
        (lambda f: edit(f, schema_version=99), SchemaVersionError, "schema version 99"),
        (lambda f: edit(f, grid={"width": 1}), DamagedArtifactError, "metadata invalid"),
        (lambda f: edit(f, shard_patches=0), DamagedArtifactError, "metadata invalid"),
        (lambda f: edit(f, codec="pickle"), DamagedArtifactError, "metadata invalid"),
        (lambda f: edit(f, patches=21), DamagedArtifactError, "column 'patch_id' fails its checksum"),
    ],
)
def test_a_store_that_is_not_whole_is_not_opened(store_path, harm, error, words):
    harm(store_path)
    with pytest.raises(error, match=words):
        PatchStore.open(store_path)


def edit(folder, **changes):
    content = json.loads((folder / "zarr.json").read_text())
    content["attributes"].update(changes)
    (folder / "zarr.json").write_text(json.dumps(content))


def flip(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def drop_chunk(path, place):
    """Take a chunk out of a shard's index, leaving an index that is right in itself and a file of the same size."""
    content = bytearray(path.read_bytes())
    table = bytearray(content[-68:-4])
    table[place * 16 : place * 16 + 16] = b"\xff" * 16
    content[-68:] = table + google_crc32c.value(bytes(table)).to_bytes(4, "little")
    path.write_bytes(content)


def test_a_chunk_missing_within_a_shard_is_an_error_of_that_patch(store_path):
    drop_chunk(shard_path(store_path, 2), 1)
    store = PatchStore.open(store_path)
    with pytest.raises(MissingArtifactError, match=r"patch 9 \(place 1 of shard 3 of 5\) missing"):
        store.read(9)
    assert store.read(8).rgb.shape == (256, 256, 3)
    with pytest.raises(DamagedArtifactError, match="shard 3 of 5 fails its checksum"):
        store.verify()
    codec.register()
    # The reason for all this: stock zarr shows white.
    assert (open_quietly(store_path)["images"][9] == 255).all()


@pytest.mark.parametrize(
    ("offset", "words"),
    [(40, "place 0 of shard 3 of 5.*checksum mismatch"), (-30, "shard 3 of 5 is damaged: its index fails")],
)
def test_a_flipped_byte_is_an_error(store_path, offset, words):
    PatchStore.open(store_path).verify()
    flip(shard_path(store_path, 2), offset)
    store = PatchStore.open(store_path)
    with pytest.raises(DamagedArtifactError, match=words):
        store.read(8)
    assert store.read(0).rgb.shape == (256, 256, 3)
    with pytest.raises(DamagedArtifactError):
        store.verify()


def test_a_shard_that_vanishes_after_opening_is_an_error(store_path):
    store = PatchStore.open(store_path)
    shard_path(store_path, 4).unlink()
    with pytest.raises(ArtifactError, match="shard 5 of 5 missing"):
        store.read(19)


def test_a_chunk_that_is_no_image_of_that_size_is_an_error(store_path):
    path = shard_path(store_path, 0)
    content = shard.pack([encode_chunk(np.zeros((64, 64, 3), np.uint8), "jpeg")], 4)
    path.write_bytes(content)
    facts = json.loads((store_path / "zarr.json").read_text())["attributes"]["shards"]
    edit(store_path, shards=[{"size": len(content), "sha256": ""}, *facts[1:]])
    with pytest.raises(DamagedArtifactError, match="cannot be decoded"):
        PatchStore.open(store_path).read(0)
