import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from memory_slides import GROUND, MemorySlide, Painted, painted, write_slide

from wsi_detect.errors import ConfigError, MissingArtifactError, MissingResolutionError, StaleArtifactError
from wsi_detect.slides import open_slide
from wsi_detect.tiling import codec
from wsi_detect.tiling.journal import JOURNAL, STORE
from wsi_detect.tiling.mask import MaskConfig
from wsi_detect.tiling.patch_store import PatchStore, shard_path
from wsi_detect.tiling.plan import TilingConfig, lay_out
from wsi_detect.tiling.tiler import Progress, is_tiled, tile_slide

CONFIG = TilingConfig(patch_px=256, overlap_px=64, shard_patches=4, codec="jpeg")


def tree(folder):
    """Every file of a folder with the hash of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def slide(tmp_path):
    return write_slide(tmp_path)


@pytest.mark.parametrize(
    ("native", "asked", "patch", "mpp"),
    [
        (0.25, None, 512, 0.25),
        (0.25, 0.25, 512, 0.25),
        (0.25, 0.2549, 512, 0.25),
        (0.25, 0.2451, 512, 0.25),
        (0.25, 0.26, 532, 0.25 * 532 / 512),
        (0.25, 0.5, 1024, 0.5),
        (0.5, 0.25, 256, 0.25),
    ],
)
def test_the_resolution_asked_is_met_by_whole_slide_px(native, asked, patch, mpp):
    info = MemorySlide(painted(64, 64), mpp=native).info
    layout = lay_out(info, TilingConfig(patch_px=512, mpp=asked, overlap_um=32))
    assert (layout.grid.patch, layout.mpp) == (patch, pytest.approx(mpp))
    assert layout.grid.overlap * native >= 32
    assert (layout.level is None) == (patch != 512)


@pytest.mark.parametrize("values", [{"overlap_um": 200.0}, {"patch_px": 128}])
def test_an_overlap_larger_than_the_patch_is_refused(values):
    info = MemorySlide(painted(64, 64), mpp=0.25).info
    with pytest.raises(ConfigError, match="does not fit a patch of"):
        lay_out(info, TilingConfig(**{"patch_px": 512, **values}))


def test_every_patch_of_the_grid_is_a_row_in_order(slide, tmp_path):
    store = tile_slide(slide, tmp_path / "out", CONFIG, reader=Painted())
    assert len(store) == len(store.grid) == 20
    assert store.patch_ids.tolist() == list(range(20))
    assert (store.mpp, store.patch_px) == (0.25, 256)
    assert (store.coverage > 0).all()
    assert (store.columns["focus"] > 0).all()
    assert not (tmp_path / "out" / JOURNAL).exists()


def test_resampled_patches_carry_their_scale(slide, tmp_path):
    config = TilingConfig(patch_px=128, mpp=0.5, overlap_px=32, shard_patches=4, codec="zstd")
    store = tile_slide(slide, tmp_path / "out", config, reader=Painted())
    assert (store.grid.patch, store.grid.overlap, store.mpp) == (256, 64, 0.5)
    assert store.frame(1).scale == 2
    assert store.read(1).rgb.shape == (128, 128, 3)


def test_patches_without_cells_are_left_out(tmp_path):
    rgb = np.full((700, 1000, 3), GROUND, np.uint8)
    rgb[600:640, 100:140] = 90
    rgb[20:60, 900:940] = 90
    path = tmp_path / "slide.painted"
    path.write_text("1000 700 0.25")
    store = tile_slide(MemorySlide(rgb, path=path), tmp_path / "out", CONFIG)
    # A corner cell and its margin reach into two columns, or two columns and two rows.
    assert store.patch_ids.tolist() == [3, 4, 10, 11, 15, 16]
    assert store.origin_px[:3].tolist() == [[576, 0], [744, 0], [0, 384]]
    everything = TilingConfig(**{**CONFIG.model_dump(), "mask": MaskConfig(preparation="none")})
    assert len(tile_slide(MemorySlide(rgb, path=path), tmp_path / "all", everything)) == 20


@pytest.mark.parametrize("name", ["jpeg", "zstd", "none"])
def test_a_blank_slide_gives_a_valid_store_without_patches(tmp_path, name):
    path = tmp_path / "slide.painted"
    path.write_text("1000 700 0.25")
    reader = MemorySlide(np.full((700, 1000, 3), GROUND, np.uint8), path=path)
    store = tile_slide(reader, tmp_path / "out", TilingConfig(codec=name, overlap_px=0))
    assert len(store) == 0
    assert store.shards == []
    assert list(store.batches(4)) == []
    assert store.columns["coverage"].dtype == np.float32
    assert store.origin_px.shape == (0, 2)
    assert store.cell_area_px == 0
    codec.register()
    group = zarr.open_group(store.path, mode="r", use_consolidated=False)
    assert all(group[key].shape[0] == 0 for key in group.array_keys())


def test_a_slide_smaller_than_a_patch_gives_one_patch_that_hangs_over(tmp_path):
    slide = write_slide(tmp_path, width=200, height=100)
    store = tile_slide(slide, tmp_path / "out", CONFIG, reader=Painted())
    rgb = store.read(0).rgb
    assert len(store) == 1
    assert rgb.shape == (256, 256, 3)
    assert rgb[120:, 220:].min() > 250
    assert rgb[48, 48].max() < 100


def test_a_slide_without_resolution_is_refused(tmp_path):
    with pytest.raises(MissingResolutionError):
        tile_slide(MemorySlide(painted(64, 64), mpp=None, path=write_slide(tmp_path)), tmp_path / "out", CONFIG)


@pytest.mark.parametrize("name", ["jpeg", "none"])
def test_no_file_name_in_the_store(slide, tmp_path, name):
    tile_slide(slide, tmp_path / "out", TilingConfig(**{**CONFIG.model_dump(), "codec": name}), reader=Painted())
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert b"Doe" not in path.read_bytes()
        assert "Doe" not in str(path.relative_to(tmp_path))


def test_the_bytes_do_not_depend_on_the_number_of_threads(slide, tmp_path):
    trees = {}
    for threads in (1, 2, 5):
        names = set()
        tile_slide(
            slide,
            tmp_path / str(threads),
            CONFIG,
            threads=threads,
            reader=Painted(),
            on_progress=lambda _, names=names: names.add(threading.current_thread().name),
        )
        trees[threads] = tree(tmp_path / str(threads))
        assert (threading.current_thread().name in names) == (threads == 1)
    assert trees[1] == trees[2] == trees[5]


def test_progress_counts_every_patch(slide, tmp_path):
    seen = []
    tile_slide(slide, tmp_path / "out", CONFIG, threads=2, reader=Painted(), on_progress=seen.append)
    assert seen == [Progress(done=n, patches=20, made=n, patch_px=256) for n in range(1, 21)]


def test_an_error_in_one_thread_ends_the_others(slide, tmp_path):
    def stop(progress):
        if progress.done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tile_slide(slide, tmp_path / "out", CONFIG, threads=3, reader=Painted(), on_progress=stop)
    assert not (tmp_path / "out" / STORE / "zarr.json").exists()
    tile_slide(slide, tmp_path / "out", CONFIG, reader=Painted())
    tile_slide(slide, tmp_path / "golden", CONFIG, reader=Painted())
    assert tree(tmp_path / "out") == tree(tmp_path / "golden")


def opened(path):
    return open_slide(path, reader=Painted())


def test_a_complete_store_is_not_made_again(slide, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = tile_slide(slide, tmp_path / "out", CONFIG, reader=Painted())
    stamp = shard_path(first.path, 0).stat().st_mtime_ns
    assert is_tiled(opened(slide), tmp_path / "out", CONFIG)
    tile_slide(slide, tmp_path / "out", CONFIG, reader=Painted())
    assert shard_path(first.path, 0).stat().st_mtime_ns == stamp
    assert "nothing to do" in caplog.text


def test_another_configuration_replaces_the_store_only_when_told(slide, tmp_path):
    tile_slide(slide, tmp_path / "out", CONFIG, reader=Painted())
    before = tree(tmp_path / "out")
    other = TilingConfig(patch_px=512, overlap_px=64, shard_patches=4, codec="jpeg")
    with pytest.raises(StaleArtifactError, match=r"tiling.patch_px 256 → 512\. Use --overwrite"):
        tile_slide(slide, tmp_path / "out", other, reader=Painted())
    assert tree(tmp_path / "out") == before
    store = tile_slide(slide, tmp_path / "out", other, reader=Painted(), overwrite=True)
    tile_slide(slide, tmp_path / "golden", other, reader=Painted())
    assert store.patch_px == 512
    assert tree(tmp_path / "out") == tree(tmp_path / "golden")


def test_a_store_that_lost_a_shard_is_made_again(slide, tmp_path):
    store = tile_slide(slide, tmp_path / "out", CONFIG, reader=Painted())
    golden = tree(tmp_path / "out")
    shard_path(store.path, 3).unlink()
    assert not is_tiled(opened(slide), tmp_path / "out", CONFIG)
    tile_slide(slide, tmp_path / "out", CONFIG, reader=Painted())
    assert tree(tmp_path / "out") == golden


SCRIPT = """
import logging, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from memory_slides import Painted
from wsi_detect.tiling.tiler import TilingConfig, tile_slide
if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = TilingConfig(patch_px=256, overlap_px=64, shard_patches=4, codec=sys.argv[5])
    tile_slide(Path(sys.argv[2]), Path(sys.argv[3]), config, threads=int(sys.argv[4]), reader=Painted())
"""


def run(slide, out, *, threads=1, codec_name="jpeg", fault=None):
    script = slide.parent / "tile.py"
    script.write_text(SCRIPT)
    environment = {key: value for key, value in os.environ.items() if key != "WSI_DETECT_FAULT"}
    if fault:
        environment["WSI_DETECT_FAULT"] = fault
    return subprocess.run(
        [sys.executable, script, Path(__file__).parent, slide, out, str(threads), codec_name],
        env=environment,
        # A process group of its own: the kill takes all of it.
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=120,
    )


# Steps of the one process: 1-4 are the plan and the array's metadata, then two a shard and two its journal.
@pytest.mark.parametrize(
    ("codec_name", "step", "kept"),
    [("jpeg", 6, 0), ("jpeg", 12, 1), ("zstd", 22, 4), ("jpeg", 40, 5)],
)
def test_after_a_kill_finished_shards_are_kept(slide, tmp_path, codec_name, step, kept):
    golden = tile_slide(
        slide, tmp_path / "golden", TilingConfig(**{**CONFIG.model_dump(), "codec": codec_name}), reader=Painted()
    )
    out = tmp_path / "out"
    killed = run(slide, out, codec_name=codec_name, fault=f"kill:{step}")
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(MissingArtifactError, match=r"unfinished|missing"):
        PatchStore.open(out / STORE)
    journalled = {path: path.stat().st_mtime_ns for path in (out / JOURNAL).glob("0*.json")}
    shards = {path: path.stat().st_mtime_ns for path in (out / STORE / "images" / "c").rglob("0") if path.is_file()}
    # At most the shard that was being written is done again.
    assert kept == len(journalled) >= len(shards) - 1
    finished = run(slide, out, codec_name=codec_name)
    assert finished.returncode == 0, finished.stderr
    assert (f"resuming, {kept} of 5 shards kept" in finished.stderr) == (0 < kept < 5)
    untouched = [path for path, stamp in shards.items() if path.stat().st_mtime_ns == stamp]
    assert len(untouched) == kept
    assert tree(out) == tree(golden.path.parent)


def test_kills_with_several_threads_and_in_the_index_only_mode(slide, tmp_path):
    for codec_name, threads, faults in (("jpeg", 2, ("kill:6",)), ("none", 1, ("kill:9",))):
        golden, out = tmp_path / f"golden-{codec_name}", tmp_path / f"out-{codec_name}"
        tile_slide(slide, golden, TilingConfig(**{**CONFIG.model_dump(), "codec": codec_name}), reader=Painted())
        for fault in faults:
            killed = run(slide, out, threads=threads, codec_name=codec_name, fault=fault)
            assert killed.returncode == -signal.SIGKILL
        assert run(slide, out, threads=threads, codec_name=codec_name).returncode == 0
        assert tree(out) == tree(golden)


def test_a_kept_shard_that_was_damaged_meanwhile_is_made_again(slide, tmp_path):
    out = tmp_path / "out"
    run(slide, out, fault="kill:17")
    shard_path(out / STORE, 0).write_bytes(b"")
    content = bytearray(shard_path(out / STORE, 1).read_bytes())
    content[50] ^= 1
    shard_path(out / STORE, 1).write_bytes(content)
    finished = run(slide, out)
    assert "resuming, 1 of 5 shards kept" in finished.stderr
    tile_slide(slide, tmp_path / "golden", CONFIG, reader=Painted())
    assert tree(out) == tree(tmp_path / "golden")


def test_an_interrupted_store_of_another_configuration_is_not_resumed(slide, tmp_path):
    out = tmp_path / "out"
    run(slide, out, fault="kill:17")
    other = TilingConfig(patch_px=512, overlap_px=64, shard_patches=4, codec="jpeg")
    with pytest.raises(StaleArtifactError, match="made, or begun, from something else"):
        tile_slide(slide, out, other, reader=Painted())
    tile_slide(slide, out, other, reader=Painted(), overwrite=True)
    tile_slide(slide, tmp_path / "golden", other, reader=Painted())
    assert tree(out) == tree(tmp_path / "golden")


def test_a_full_disk_is_an_error_and_the_next_run_finishes(slide, tmp_path):
    out = tmp_path / "out"
    failed = run(slide, out, threads=2, fault="errno:7:28")
    assert failed.returncode == 1
    assert "No space left on device" in failed.stderr
    assert run(slide, out).returncode == 0
    tile_slide(slide, tmp_path / "golden", CONFIG, reader=Painted())
    assert tree(out) == tree(tmp_path / "golden")
    assert json.loads((out / STORE / "zarr.json").read_text())["attributes"]["patches"] == 20
