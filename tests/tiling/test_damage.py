"""Damaged slides end to end: what cannot be decoded is counted, costs nothing else, and nothing hangs or dies."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_detect.errors import UnsupportedSlideError
from wsi_detect.slides import open_slide
from wsi_detect.testing import faults
from wsi_detect.testing.painter import lay_cells, paint_region, paint_slide
from wsi_detect.tiling.mask import MaskConfig
from wsi_detect.tiling.patch_store import shard_path
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

TILES = 4
SIDE = 256 * TILES
CODECS = ("jpeg_tiles", "jpeg", "zstd", "none")


@pytest.fixture(scope="session")
def slides(tmp_path_factory):
    """An Aperio slide with two levels, and a generic TIFF of one level whose directory comes first, chroma halved."""
    folder = tmp_path_factory.mktemp("damage")
    svs = paint_slide(folder / "slide.svs", width=SIDE, height=SIDE, n_cells=60, seed=3).path
    tif = folder / "slide.tif"
    rgb = paint_region(lay_cells(SIDE, SIDE, 60, 4), width=SIDE, height=SIDE)
    tifffile.imwrite(
        tif,
        rgb,
        tile=(256, 256),
        photometric="ycbcr",
        compression="jpeg",
        compressionargs={"level": 85},
        subsampling=(2, 2),
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return {"svs": svs, "tif": tif}


def place(path, number):
    """Where a tile of level 0 lies in the file: offset and bytes."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        return page.dataoffsets[number], page.databytecounts[number]


def overwrite(path, at, content):
    with path.open("r+b") as stream:
        stream.seek(at)
        stream.write(content)


def enter(path, tag, number, value):
    """Change one entry of a table of level 0."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        values = list(tiff.pages.first.tags[tag].value)
        values[number] = value
        tiff.pages.first.tags[tag].overwrite(values)


def zero(path, number):
    offset, size = place(path, number)
    overwrite(path, offset, bytes(size))


def zero_second_half(path, number):
    offset, size = place(path, number)
    overwrite(path, offset + size // 2, bytes(size - size // 2))


def declare_another_size(path, number):
    offset, size = place(path, number)
    frame = path.read_bytes().index(b"\xff\xc0", offset, offset + size)
    overwrite(path, frame + 5, (64).to_bytes(2, "big"))


def leave_out(path, number):
    enter(path, "TileByteCounts", number, 0)


def point_beyond_the_end(path, number):
    enter(path, "TileOffsets", number, path.stat().st_size + 1000)


KINDS = (zero, zero_second_half, declare_another_size, leave_out, point_beyond_the_end)
#: Of a TIFF without a vendor OpenSlide reads every tile of the coarsest level when it opens it, here the only one.
REFUSED = ("tif", point_beyond_the_end)
CASES = [(name, kind) for name in ("svs", "tif") for kind in KINDS if (name, kind) != REFUSED]


def patches(path, out, codec):
    """Patches of 512 px with half of each side shared: (unreadable, no_data, rgb) of each, counted twice over."""
    config = TilingConfig(
        patch_px=512, overlap_px=256, codec=codec, mask=MaskConfig(preparation="none"), quality=False, shard_patches=4
    )
    with open_slide(path, slide_id="slide") as slide:
        store = tile_slide(slide, out, config)
        found = [store.read(row) for row in range(len(store))]
        if codec != "none":
            assert store.columns["unreadable"].tolist() == [patch.unreadable for patch in found]
            assert store.columns["no_data"].tolist() == [patch.no_data for patch in found]
        return [(patch.unreadable, patch.no_data, patch.rgb) for patch in found]


def check_one_tile(slide, clean, kind, number, codec, folder):
    """One bad tile costs its footprint: a quarter of each patch it lies in, white, and nothing of any other."""
    path = folder / f"{kind.__name__}-{number}-{codec}{slide.suffix}"
    shutil.copyfile(slide, path)
    kind(path, number)
    row, column = divmod(number, TILES)
    for index, (unreadable, no_data, rgb) in enumerate(patches(path, folder / path.stem, codec)):
        y, x = divmod(index, TILES - 1)
        hit = 0 <= row - y < 2 and 0 <= column - x < 2
        lost = 0.25 if hit else 0.0
        assert (unreadable, no_data) == ((0.0, lost) if kind is leave_out else (lost, 0.0)), (path.name, index)
        expected = clean[index][2]
        if hit:
            expected = expected.copy()
            expected[256 * (row - y) : 256 * (row - y + 1), 256 * (column - x) : 256 * (column - x + 1)] = 255
            if codec == "jpeg":
                # Coded anew as a whole: the edge of the white area rings a little.
                assert np.abs(rgb.astype(int) - expected).mean() < 1, (path.name, index)
                continue
        assert np.array_equal(rgb, expected), (path.name, index)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_one_bad_tile_costs_its_footprint(slides, tmp_path, name, kind):
    """Each tile of the first slide in turn, every third of the second; the codecs take turns."""
    clean = {codec: patches(slides[name], tmp_path / codec, codec) for codec in CODECS}
    for number in range(0, TILES**2, 1 if name == "svs" else 3):
        codec = CODECS[(number + number // TILES) % len(CODECS)]
        check_one_tile(slides[name], clean[codec], kind, number, codec, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_one_bad_tile_costs_its_footprint_under_every_codec(slides, tmp_path, name, kind, codec):
    clean = patches(slides[name], tmp_path / "clean", codec)
    for number in range(TILES**2):
        check_one_tile(slides[name], clean, kind, number, codec, tmp_path)


def test_a_slide_whose_tiles_lie_beyond_its_end_is_refused(slides, tmp_path):
    name, kind = REFUSED
    path = shutil.copyfile(slides[name], tmp_path / "slide.tif")
    kind(path, 5)
    with pytest.raises(UnsupportedSlideError, match="OpenSlide knows the format but cannot open it"):
        patches(path, tmp_path / "out", "jpeg")


def damaged(slide, folder, cuts, flips, zeros, seed=0):
    """Files made from a slide: cut off, with a bit turned over, with a block of zeros; each with a codec."""
    content = slide.read_bytes()
    places = range(len(content))
    changed = [
        *faults.cut_off(content, cuts),
        *faults.flipped(content, places, flips, seed),
        *faults.zeroed(content, places, zeros, seed),
    ]
    files = []
    for number, (what, content) in enumerate(changed):
        path = folder / f"{number:03d} {what}{slide.suffix}"
        path.write_bytes(content)
        files.append((CODECS[number % len(CODECS)], path))
    return files


def outcomes(files, seconds):
    """What the program says of each file; a process that dies or hangs fails the test, and names the file."""
    program = Path(__file__).with_name("damage_program.py")
    arguments = [str(part) for entry in files for part in entry]
    done = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, timeout=seconds)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (lines[-1:], done.stderr[-2000:])
    return {Path(path).name: outcome for path, outcome in lines if outcome != "begun"}


def check_mutations(slide, folder, *, cuts, flips, zeros, seconds):
    found = outcomes(damaged(slide, folder, cuts, flips, zeros), seconds)
    assert len(found) == cuts + flips + zeros
    hidden = {name: outcome for name, outcome in found.items() if not isinstance(outcome, str) and outcome}
    assert hidden == {}
    assert all(outcome.startswith("refused: ") for outcome in found.values() if isinstance(outcome, str))


@pytest.mark.parametrize("name", ["svs", "tif"])
def test_nothing_undecodable_is_hidden(slides, tmp_path, name):
    check_mutations(slides[name], tmp_path, cuts=4, flips=10, zeros=5, seconds=120)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svs", "tif"])
def test_nothing_undecodable_is_hidden_in_many_files(slides, tmp_path, name):
    check_mutations(slides[name], tmp_path, cuts=64, flips=200, zeros=100, seconds=900)


def command(*arguments, seconds=60):
    """The command line as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "wsi_detect", *map(str, arguments)], capture_output=True, text=True, timeout=seconds
    )


def test_a_small_file_that_declares_30_gb_is_refused_at_once(slides, tmp_path):
    side, (offset, size) = 100_000, place(slides["tif"], 0)
    tile = slides["tif"].read_bytes()[offset : offset + size]
    path = tmp_path / "bomb.tif"
    tiles = (-(-side // 256)) ** 2
    tifffile.imwrite(
        path,
        (tile if number == 0 else b"" for number in range(tiles)),
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(256, 256),
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        resolution=(40_000, 40_000),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages.first.tags
        for tag in ("TileOffsets", "TileByteCounts"):
            tags[tag].overwrite([tags[tag].value[0]] * tiles)
    assert path.stat().st_size < 1.3e6
    start = time.process_time()
    with pytest.raises(UnsupportedSlideError):
        open_slide(path)
    assert time.process_time() - start < 2
    done = command("tile", path, "--out", tmp_path / "out")
    assert done.returncode == 4, done.stderr
    assert "a file of 1.23 MB declares 1e+04 megapixels" in done.stderr


def test_a_damaged_store_is_found_and_mended_to_the_byte(slides, tmp_path):
    out = tmp_path / "out"
    settings = ("tiling.patch_px=256", "tiling.overlap_px=0", "tiling.shard_patches=4")
    done = command("tile", slides["svs"], "--out", out, *(part for entry in settings for part in ("--set", entry)))
    assert done.returncode == 0, done.stderr
    store = next(out.rglob("patches.zarr"))
    golden = {path: path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}
    assert command("store", "verify", store).returncode == 0
    lost, emptied, flipped = (shard_path(store, number) for number in (0, 1, 2))
    lost.unlink()
    emptied.write_bytes(b"")
    content = bytearray(golden[flipped])
    content[len(content) // 2] ^= 4
    flipped.write_bytes(content)
    found = command("store", "verify", store)
    assert found.returncode == 4, found.stderr
    for number in (1, 2, 3):
        assert f"shard {number} of" in found.stdout + found.stderr
    mended = command("store", "repair", store, "--slide", slides["svs"])
    assert mended.returncode == 0, mended.stderr
    assert {path: path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()} == golden
