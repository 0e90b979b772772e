import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_slides import MemorySlide, Painted, painted, write_slide

from wsi_detect.errors import (
    ArtifactError,
    DamagedArtifactError,
    MissingArtifactError,
    SchemaVersionError,
    StaleArtifactError,
)
from wsi_detect.slides import open_slide
from wsi_detect.tiling import shard
from wsi_detect.tiling.chunk import encode_chunk, with_checksum
from wsi_detect.tiling.jpeg_tiles import unpack
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
        (lambda f: (f / "zarr.json").write_text("{}"), DamagedArtifactError, "is no patch store"),
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


@pytest.mark.parametrize(
    ("offset", "words"),
    [(40, "place 0 of shard 3 of 5.*checksum mismatch"), (-30, "shard 3 of 5 is damaged: its index fails")],
)
def test_a_flipped_byte_is_an_error(store_path, offset, words):
    flip(shard_path(store_path, 2), offset)
    store = PatchStore.open(store_path)
    with pytest.raises(DamagedArtifactError, match=words):
        store.read(8)
    assert store.read(0).rgb.shape == (256, 256, 3)


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


@pytest.fixture(scope="module")
def verbatim(painted, tmp_path_factory):
    """A store of a real file's own tiles, 256 px patches, origins off the tile grid; and what OpenSlide shows."""
    out = tmp_path_factory.mktemp("verbatim")
    config = TilingConfig(codec="jpeg_tiles", patch_px=256, overlap_px=56, shard_patches=16)
    return painted.path, tile_slide(painted.path, out, config).path


def windows(side):
    """Any window of a patch, x0, y0, x1, y1."""
    edges = st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True).map(sorted)
    return st.tuples(edges, edges).map(lambda both: (both[0][0], both[1][0], both[0][1], both[1][1]))


@pytest.mark.parametrize("name", ["jpeg_tiles", "jpeg", "zstd", "none"])
def test_a_window_is_that_part_of_the_patch(tiled, verbatim, name):
    path, store_path = verbatim if name == "jpeg_tiles" else (tiled[0], tiled[1][name])
    with (
        open_slide(path, reader=None if name == "jpeg_tiles" else Painted()) as slide,
        PatchStore.open(store_path, slide) as store,
    ):

        @settings(max_examples=40, deadline=None)
        @given(row=st.integers(0, len(store) - 1), window=windows(256))
        def check(row, window):
            x0, y0, x1, y1 = window
            expected = store.read(row).rgb[y0:y1, x0:x1]
            out = np.full((y1 - y0, x1 - x0, 3), 7, np.uint8)
            assert store.read(row, window, out).rgb is out
            assert (out == expected).all()
            assert (store.read(row, window).rgb == expected).all()

        check()
        whole = np.full((256, 256, 3), 7, np.uint8)
        assert store.read(3, out=whole).rgb is whole
        assert (whole == store.read(3).rgb).all()


@pytest.mark.parametrize("name", ["jpeg", "zstd", "none"])
def test_a_window_beyond_the_patch_is_refused(tiled, name):
    with open_slide(tiled[0], reader=Painted()) as slide:
        store = PatchStore.open(tiled[1][name], slide)
        for window in [(0, 0, 257, 9), (-1, 0, 9, 9), (9, 0, 9, 9)]:
            with pytest.raises(ValueError, match="not within a patch of 256 px"):
                store.read(0, window)
        with pytest.raises(ValueError, match="out must be a contiguous"):
            store.read(0, out=np.empty((9, 9, 3), np.uint8))


def test_verbatim_patches_are_what_openslide_shows(verbatim):
    path, store_path = verbatim
    store = PatchStore.open(store_path)
    assert store.codec == "jpeg_tiles"
    with openslide.OpenSlide(path) as slide:
        for row, (x, y) in enumerate(store.origin_px.tolist()):
            expected = np.asarray(slide.read_region((x, y), 0, (256, 256)))
            inside = expected[..., 3] == 255
            found = store.read(row).rgb
            assert (found[inside] == expected[..., :3][inside]).all()
            assert (found[~inside] == 255).all()


def break_tile(path, capacity, place):
    """Cut the first tile of a chunk short in its midst, checksums right: the scanner's fault, not the disk's."""
    content = path.read_bytes()
    table = np.frombuffer(content[-capacity * 16 - 4 : -4], "<u8").reshape(-1, 2)
    chunks = [content[a : a + n] for a, n in table.tolist() if a != 2**64 - 1]
    body = bytearray(chunks[place][:-4])
    mosaic = unpack(bytes(body), 256)
    start, length = mosaic.edges[0], mosaic.edges[1] - mosaic.edges[0]
    half = length // 2
    body[start + half : start + length] = b"\xff\xd9" + bytes(length - half - 2)
    chunks[place] = with_checksum(bytes(body))
    path.write_bytes(shard.pack(chunks, capacity))
    return mosaic


def test_a_tile_that_cannot_be_decoded_is_white_and_counted(verbatim, tmp_path):
    store_path = shutil.copytree(verbatim[1], tmp_path / "patches.zarr")
    mosaic = break_tile(shard_path(store_path, 0), 16, 5)
    (y, x), (height, width) = mosaic.origin, mosaic.tile
    store, sound = PatchStore.open(store_path), PatchStore.open(verbatim[1])
    lost = min(width - x, 256) * min(height - y, 256)
    found = store.read(5)
    assert found.unreadable == pytest.approx(lost / 256**2)
    expected = sound.read(5).rgb.copy()
    expected[: height - y, : width - x] = 255
    assert (found.rgb == expected).all()
    assert store.read(5, (0, 0, 8, 8)).unreadable == 1.0
    assert store.read(5, (248, 248, 256, 256)).unreadable == 0.0
    assert (store.read(6).rgb == sound.read(6).rgb).all()


def test_threads_may_read_one_store(verbatim):
    with PatchStore.open(verbatim[1]) as store:
        expected = [store.read(row).rgb for row in range(len(store))]
        rows = np.random.default_rng(0).integers(len(store), size=200).tolist()
        with ThreadPoolExecutor(4) as pool:
            for row, found in zip(rows, pool.map(lambda row: store.read(row).rgb, rows), strict=True):
                assert (found == expected[row]).all()


def open_files(folder):
    """Files below a folder that this process has open."""
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return sum(target.startswith(str(folder)) for target in targets)


def test_files_stay_open_until_the_store_is_closed(store_path):
    store = PatchStore.open(store_path)
    assert open_files(store_path) == 0
    for _ in range(2):
        for row in range(20):
            store.read(row)
        assert open_files(store_path) == 5
    with store:
        pass
    assert open_files(store_path) == 0
    store.read(0)
    assert open_files(store_path) == 1
    del store
    assert open_files(store_path) == 0


def test_no_more_files_stay_open_than_the_process_can_afford(store_path, monkeypatch):
    monkeypatch.setattr(shard._open_files, "_most", 2)
    store = PatchStore.open(store_path)
    for row in (0, 4, 8, 0, 12, 16):
        assert store.read(row).rgb.shape == (256, 256, 3)
    assert open_files(store_path) == 2


def test_a_store_travels_to_another_process_closed(store_path):
    store = PatchStore.open(store_path)
    expected = store.read(7).rgb
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    assert open_files(store_path) == 1
    assert (copy.read(7).rgb == expected).all()
