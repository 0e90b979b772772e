"""A store is what zarr v3 says it is: stock zarr and another implementation read what we read, byte for byte."""

import importlib.util
import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import zarr
from memory_slides import Painted, write_slide

from wsi_detect.tiling import codec, shard
from wsi_detect.tiling.chunk import encode_chunk, with_checksum
from wsi_detect.tiling.jpeg_tiles import pack_tiles
from wsi_detect.tiling.patch_store import PatchStore, shard_path
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

SIDE = 256
CONFIG = {"patch_px": SIDE, "overlap_px": 64, "shard_patches": 4}


@pytest.fixture(scope="module")
def stores(painted, tmp_path_factory):
    """Stores by codec; `jpeg_tiles` of a file on disk, edge patches and unaligned origins among them."""
    root = tmp_path_factory.mktemp("stores")
    slide = write_slide(root)
    made = {
        name: tile_slide(slide, root / name, TilingConfig(codec=name, **CONFIG), reader=Painted()).path
        for name in ("jpeg", "zstd", "none")
    }
    config = TilingConfig(codec="jpeg_tiles", **(CONFIG | {"overlap_px": 56}))
    return {**made, "jpeg_tiles": tile_slide(painted.path, root / "jpeg_tiles", config).path}


def open_quietly(path):
    with warnings.catch_warnings():
        # zarr says that the codec's name is not in the specification.
        warnings.simplefilter("ignore")
        return zarr.open_group(path, mode="r", use_consolidated=False)


@pytest.mark.parametrize("name", ["jpeg_tiles", "jpeg", "zstd"])
def test_stock_zarr_reads_the_same_pixels_and_columns(stores, name):
    store, group = PatchStore.open(stores[name]), open_quietly(stores[name])
    images = group["images"][:]
    assert images.shape == (len(store), SIDE, SIDE, 3)
    for row in range(len(store)):
        assert (images[row] == store.read(row).rgb).all()
    columns = {"patch_id": store.patch_ids, "origin_px": store.origin_px, **store.columns}
    for column, expected in columns.items():
        np.testing.assert_array_equal(group[column][:], expected)
    assert sorted(group.array_keys()) == sorted([*columns, "images"])


@pytest.mark.parametrize("name", ["jpeg_tiles", "jpeg", "zstd"])
@pytest.mark.parametrize(
    "selection",
    [
        np.s_[0],
        np.s_[-1],
        np.s_[2:7],
        np.s_[1, 10:200, 30:31],
        np.s_[0, ::2],
        np.s_[::3, 5:250:7, :, 1],
        np.s_[..., 0],
        np.s_[3, 17, 18, 2],
        np.s_[2:2],
    ],
)
def test_selections_of_stock_zarr(stores, name, selection):
    images, expected = open_quietly(stores[name])["images"], pixels(stores[name])
    np.testing.assert_array_equal(images[selection], expected[selection])


@pytest.mark.parametrize("name", ["jpeg_tiles", "jpeg", "zstd"])
def test_fancy_selections_of_stock_zarr(stores, name):
    images, expected = open_quietly(stores[name])["images"], pixels(stores[name])
    np.testing.assert_array_equal(images.oindex[[0, 2, 4], :, [1, 200]], expected[[0, 2, 4]][:, :, [1, 200]])
    np.testing.assert_array_equal(images[[0, 2, 4]], expected[[0, 2, 4]])
    np.testing.assert_array_equal(
        images.vindex[[0, 5], [3, 4], [7, 8], [0, 2]], expected[[0, 5], [3, 4], [7, 8], [0, 2]]
    )
    mask = np.zeros(len(expected), bool)
    mask[[1, 6]] = True
    np.testing.assert_array_equal(images.oindex[mask], expected[mask])
    np.testing.assert_array_equal(images.blocks[1], expected[4:8])


def pixels(path):
    store = PatchStore.open(path)
    return np.stack([store.read(row).rgb for row in range(len(store))])


STOCK = """
import sys, warnings
import numpy, zarr
warnings.simplefilter("ignore")
images = zarr.open_group(sys.argv[1], mode="r", use_consolidated=False)["images"]
numpy.save(sys.argv[2], images[:])
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("name", ["jpeg_tiles", "jpeg"])
def test_a_process_that_only_knows_zarr_finds_the_codec(stores, tmp_path, name):
    """By the entry point of the installed package; nothing of ours is imported."""
    command = [sys.executable, "-c", STOCK, str(stores[name]), str(tmp_path / "found.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), pixels(stores[name]))


@pytest.mark.skipif(importlib.util.find_spec("tensorstore") is None, reason="tensorstore is not installed")
def test_a_second_implementation_reads_lossless_stores(stores):
    import tensorstore

    kvstore = {"driver": "file", "path": str(stores["zstd"] / "images")}
    images = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    np.testing.assert_array_equal(images.read().result(), pixels(stores["zstd"]))
    kvstore["path"] = str(stores["zstd"] / "origin_px")
    column = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, read=True).result()
    np.testing.assert_array_equal(column.read().result(), PatchStore.open(stores["zstd"]).origin_px)


# Four chunks fill a shard; three leave a place empty, six cut the second shard at the array's end.
@pytest.mark.parametrize("name", ["jpeg", "zstd"])
@pytest.mark.parametrize("rows", [4, 3, 6])
def test_our_shards_are_byte_for_byte_those_of_zarr(tmp_path, name, rows):
    patches = np.random.default_rng(0).integers(0, 255, (rows, 32, 32, 3), dtype=np.uint8)
    ours = [encode_chunk(patch, name) for patch in patches]
    write_by_zarr(tmp_path, name, patches)
    assert_shards(tmp_path, ours)


def test_shards_of_tiles_are_byte_for_byte_those_of_zarr(tmp_path, monkeypatch):
    """zarr's writer, handed our chunks: the codec itself refuses to make any."""
    patches = np.zeros((7, 32, 32, 3), np.uint8)
    patches[:, 0, 0, 0] = np.arange(1, 8)
    chunks = [
        pack_tiles([bytes([k]) * k], shape=(1, 1), tile=(32, 32), origin=(0, 0), inside=(32, 32), colour="ycbcr")
        for k in range(1, 8)
    ]

    async def encode(self, data, spec):
        k = int(data.as_numpy_array().ravel()[0])
        return spec.prototype.buffer.from_bytes(chunks[k - 1])

    monkeypatch.setattr(codec.JpegTilesCodec, "_encode_single", encode)
    write_by_zarr(tmp_path, "jpeg_tiles", patches)
    assert_shards(tmp_path, [with_checksum(chunk) for chunk in chunks])


def write_by_zarr(folder, name, patches):
    metadata = shard.images_metadata(len(patches), 32, 4, name)
    (folder / "zarr.json").write_text(json.dumps(metadata))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.open_array(folder, mode="r+")[:] = patches


def assert_shards(folder, chunks):
    for number in range(-(-len(chunks) // 4)):
        ours = shard.pack(chunks[number * 4 : number * 4 + 4], 4)
        assert (folder / f"c/{number}/0/0/0").read_bytes() == ours


def test_the_metadata_is_what_zarr_makes_of_it(stores):
    for path in stores.values():
        for array in path.glob("*/zarr.json"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = zarr.open_array(array.parent, mode="r").metadata.to_dict()
            found.pop("storage_transformers")
            assert json.loads(json.dumps(found)) == json.loads(array.read_text())


def test_nothing_is_consolidated(stores):
    for path in stores.values():
        assert "consolidated_metadata" not in json.loads((path / "zarr.json").read_text())


def test_a_missing_shard_is_white_to_stock_zarr(stores, tmp_path):
    """The reason why PatchStore checks."""
    path = shutil.copytree(stores["jpeg_tiles"], tmp_path / "patches.zarr")
    shard_path(path, 1).unlink()
    assert (open_quietly(path)["images"][4:8] == 255).all()


def test_nobody_encodes_tiles_by_accident(tmp_path):
    (tmp_path / "zarr.json").write_text(json.dumps(shard.images_metadata(4, 32, 4, "jpeg_tiles")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = zarr.open_array(tmp_path, mode="r+")
        with pytest.raises(ValueError, match="stores tiles verbatim; write with PatchStore"):
            images[0] = np.zeros((32, 32, 3), np.uint8)


# What an array of JPEG tiles cannot be.
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fill_value": 0}, "needs the fill value 255"),
        ({"data_type": "uint16"}, "uint8 arrays of shape"),
        ({"shape": [4, 32, 32, 4]}, "uint8 arrays of shape"),
        ({"shape": [4, 32, 48, 3]}, "square patches"),
        ({"shape": [4, 32, 3]}, "dimensions|uint8 arrays of shape"),
        ({"configuration": {"version": 2}}, "this program knows 1"),
        ({"configuration": {"version": 1, "more": 1}}, "this program knows 1"),
    ],
)
def test_other_arrays_are_refused(tmp_path, changes, words):
    metadata = shard.images_metadata(4, 32, 4, "jpeg_tiles")
    inner = metadata["codecs"][0]["configuration"]
    if "configuration" in changes:
        inner["codecs"] = [{"name": "wsi_detect.jpeg_tiles", **changes}, *inner["codecs"][1:]]
    else:
        metadata |= changes
    if "shape" in changes:
        chunk = [1, *changes["shape"][1:]]
        inner["chunk_shape"] = chunk
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = [4, *chunk[1:]]
    (tmp_path / "zarr.json").write_text(json.dumps(metadata))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=words):
            zarr.open_array(tmp_path, mode="r")


@pytest.mark.parametrize("name", ["jpeg_tiles", "jpeg"])
def test_a_chunk_of_several_patches_is_refused(tmp_path, name):
    metadata = shard.images_metadata(4, 32, 4, name)
    metadata["codecs"][0]["configuration"]["chunk_shape"] = [2, 32, 32, 3]
    (tmp_path / "zarr.json").write_text(json.dumps(metadata))
    path = tmp_path / "c/0/0/0/0"
    path.parent.mkdir(parents=True)
    path.write_bytes(shard.pack([encode_chunk(np.zeros((32, 32, 3), np.uint8), "jpeg")], 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = zarr.open_array(tmp_path, mode="r")
        with pytest.raises(ValueError, match="one patch a chunk"):
            images[0]


def test_a_tile_that_cannot_be_decoded_is_an_error_of_that_patch(tmp_path):
    metadata = shard.images_metadata(2, 32, 4, "jpeg_tiles")
    (tmp_path / "zarr.json").write_text(json.dumps(metadata))
    good = encode_chunk(np.zeros((32, 32, 3), np.uint8), "jpeg")[:-4]
    chunks = [
        with_checksum(pack_tiles([tile], shape=(1, 1), tile=(32, 32), origin=(0, 0), inside=(32, 32), colour="ycbcr"))
        for tile in (good, b"\xff\xd8 broken \xff\xd9")
    ]
    path = tmp_path / "c/0/0/0/0"
    path.parent.mkdir(parents=True)
    path.write_bytes(shard.pack(chunks, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = zarr.open_array(tmp_path, mode="r")
        assert images[0].shape == (32, 32, 3)
        with pytest.raises(ValueError, match="tiles of 1024 px cannot be decoded"):
            images[1]
