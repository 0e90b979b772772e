"""KFB and SDPC files that were cut, flipped or partly zeroed: refused, or read with every lost tile counted."""

import contextlib
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from wsi_detect.errors import DamagedSlideError, SlideError
from wsi_detect.slides import open_slide
from wsi_detect.slides.resample import read_at_mpp
from wsi_detect.testing.faults import cut_off, flipped, zeroed
from wsi_detect.testing.kfb import HEAD_BYTES as KFB_HEAD
from wsi_detect.testing.kfb import write_kfb
from wsi_detect.testing.sdpc import HEAD_BYTES as SDPC_HEAD
from wsi_detect.testing.sdpc import PATIENT_BYTES, write_sdpc

WIDTH, HEIGHT, TILE = 180, 100, 64
#: Far beyond what any of these files needs, on a machine that is busy with other things.
PATIENCE_S = 5.0


def picture():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(3).integers(0, 60, (HEIGHT, WIDTH))
    return np.stack([40 + x // 2, 40 + y // 2 + noise, 90 + (x + 2 * y) % 61], -1).astype(np.uint8)


def write(kind, folder, **options):
    path = folder / f"a.{kind}"
    if kind == "kfb":
        return write_kfb(path, picture(), tile=TILE, **options)
    return write_sdpc(path, picture(), tile=(TILE, TILE), **options)


def structure(kind, content):
    """Bytes that are no JPEG and no patient: headers, pointers, tables."""
    if kind == "kfb":
        return [range(KFB_HEAD), range(struct.unpack_from("<Q", content, 68)[0], len(content))]
    parts, place = [range(SDPC_HEAD), range(SDPC_HEAD, SDPC_HEAD + 2)], SDPC_HEAD + PATIENT_BYTES
    parts.append(range(SDPC_HEAD + 6536, SDPC_HEAD + 6544))
    while place:
        if content[place : place + 2] == b"MI":
            parts.append(range(place, place + 123))
            place = struct.unpack_from("<Q", content, place + 43)[0]
        else:
            tiles = struct.unpack_from("<I", content, place + 10)[0]
            parts.append(range(place, place + 122 + 4 * tiles))
            place = struct.unpack_from("<Q", content, place + 30)[0]
    return parts


def tiles_of(path):
    """Every native tile of level 0: its pixels, "damaged" or "missing"; and the downsamples of the levels."""
    found = {}
    with open_slide(path, slide_id="S1", mpp=0.25) as slide:
        for y in range(0, HEIGHT, TILE):
            for x in range(0, WIDTH, TILE):
                try:
                    rgb, valid = slide.read_region(x, y, 0, min(TILE, WIDTH - x), min(TILE, HEIGHT - y))
                except DamagedSlideError:
                    found[x, y] = "damaged"
                else:
                    found[x, y] = rgb if valid is None else "missing"
        whole = read_at_mpp(slide, 0, 0, 2 * WIDTH, WIDTH)
        assert whole.rgb.shape == (WIDTH, WIDTH, 3)
        return found, slide.info.level_downsamples


def check_structure_fault(what, path, truth, steps):
    """Whatever happens to a header or a table, no tile is shown wrongly or passed off as bare glass."""
    started = time.monotonic()
    try:
        found, levels = tiles_of(path)
    except SlideError:
        return
    finally:
        assert time.monotonic() - started < PATIENCE_S, what
    for place, pixels in found.items():
        fine = pixels == "damaged" if isinstance(pixels, str) else np.array_equal(pixels, truth[place])
        assert fine, (what, place)
    for level in levels:
        assert min(abs(level / step - 1) for step in steps) < 0.1, what


def check_any_fault(what, path):
    started = time.monotonic()
    with contextlib.suppress(SlideError):
        tiles_of(path)
    assert time.monotonic() - started < PATIENCE_S, what


@pytest.mark.parametrize("kind", ["kfb", "sdpc"])
def test_faults_of_headers_and_tables(kind, tmp_path):
    structure_faults(kind, tmp_path, flips=150, blocks=60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kfb", "sdpc"])
def test_every_bit_of_headers_and_tables(kind, tmp_path):
    structure_faults(kind, tmp_path, flips=None, blocks=2_000)


def structure_faults(kind, folder, *, flips, blocks):
    path = write(kind, folder)
    content = path.read_bytes()
    truth, steps = tiles_of(path)
    parts = structure(kind, content)
    size = sum(map(len, parts))
    for k, part in enumerate(parts):
        share = None if flips is None else -(-flips * len(part) // size)
        for what, changed in flipped(content, part, share, seed=k):
            path.write_bytes(changed)
            check_structure_fault(what, path, truth, steps)
        for what, changed in zeroed(content, part, -(-blocks * len(part) // size), seed=k):
            path.write_bytes(changed)
            check_structure_fault(what, path, truth, steps)


@pytest.mark.parametrize("kind", ["kfb", "sdpc"])
def test_faults_anywhere(kind, tmp_path):
    path = write(kind, tmp_path)
    content = path.read_bytes()
    places = range(len(content))
    faults = [*cut_off(content, 64), *flipped(content, places, 200, seed=1), *zeroed(content, places, 100, seed=2)]
    for what, changed in faults:
        path.write_bytes(changed)
        if what.startswith("cut"):
            with pytest.raises(SlideError):
                open_slide(path, slide_id="S1", mpp=0.25)
        else:
            check_any_fault(what, path)


@pytest.mark.parametrize("kind", ["kfb", "sdpc"])
def test_a_zeroed_tile_costs_exactly_its_footprint(kind, tmp_path):
    path = write(kind, tmp_path)
    with open_slide(path, slide_id="S1") as slide:
        table = slide.tiles.levels[0]
        start, length = int(table.offsets[1, 1]), int(table.lengths[1, 1])
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(length)
    truth, _ = tiles_of(path)
    path.write_bytes(content)
    found, _ = tiles_of(path)
    assert [place for place, pixels in found.items() if isinstance(pixels, str)] == [(64, 64)]
    assert all(np.array_equal(pixels, truth[place]) for place, pixels in found.items() if place != (64, 64))
    with open_slide(path, slide_id="S1") as slide:
        whole = read_at_mpp(slide, 0, 0, 192, 192)
    assert whole.unreadable == pytest.approx(TILE * (HEIGHT - TILE) / (WIDTH * HEIGHT))
    assert whole.no_data == 0


#: Claims of a hostile header: place, type, value; each alone, then all of one kind at once.
CLAIMS = {
    "kfb": [(16, "i", 1 << 22), (20, "i", 1 << 20), (24, "i", 1 << 20), (88, "i", 4096), (88, "i", 16)],
    "sdpc": [(42, "I", 1 << 20), (46, "I", 1 << 20), (50, "I", 4096), (54, "I", 4096), (50, "I", 16), (54, "I", 16)],
}

CHILD = """
import resource, sys
from wsi_detect.errors import SlideError
from wsi_detect.slides import open_slide
open_slide(sys.argv[1], slide_id="S1", mpp=0.25).close()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        open_slide(path, slide_id="S1", mpp=0.25).close()
    except SlideError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["kfb", "sdpc"])
def test_no_claim_of_a_header_takes_memory(kind, tmp_path):
    """What is allocated follows from what the file holds; the largest grid that is allowed has 4 M tiles."""
    path = write(kind, tmp_path)
    content, paths = path.read_bytes(), []
    for k, changes in enumerate([*([claim] for claim in CLAIMS[kind]), CLAIMS[kind]]):
        changed = bytearray(content)
        for place, form, value in changes:
            struct.pack_into("<" + form, changed, place, value)
        paths.append(tmp_path / f"{k}.{kind}")
        paths[-1].write_bytes(changed)
    result = subprocess.run(
        [sys.executable, "-c", CHILD, path, *paths],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 256
