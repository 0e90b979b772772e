"""Slide files cut short, with flipped bits and with zeroed blocks: the verdict of OpenSlide on every region, always."""

import numpy as np
import pytest
import tiff_files as files
from PIL import Image

from wsi_detect.errors import DamagedSlideError, UnsupportedSlideError
from wsi_detect.slides import open_slide
from wsi_detect.slides.resample import read_at_mpp

RGB = files.texture(300, 410)


def level(height, width):
    small = np.array(Image.fromarray(RGB).resize((width, height)))
    return height, width, [files.encode(part) for part in files.cut(small)]


def tabled(path):
    levels = [level(300, 410), level(75, 102)]
    tables = files.abbreviated(levels[0][2][0])[0]
    return files.write(path, [(h, w, [files.abbreviated(s)[1] for s in t]) for h, w, t in levels], tables=tables)


BASES = {
    "a.svs": lambda path: files.write(path, [level(300, 410), level(75, 102)]),
    "tables.svs": tabled,
    "a.tif": lambda path: files.write(path, [level(300, 410), level(75, 102)], maker="generic", bigtiff=True),
    "a.ndpi": lambda path: files.ndpi(path, [files.texture(256, 512), files.texture(128, 256)], 8),
}


def cut(content, rng, number):
    return content[: len(content) * (1 + number % 64) // 65]


def flipped(content, rng, number):
    spoilt = bytearray(content)
    spoilt[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return bytes(spoilt)


def zeroed(content, rng, number):
    place = int(rng.integers(len(content)))
    return content[:place] + bytes(len(content[place : place + 500])) + content[place + 500 :]


def seen(path, native):
    """What each block of the two finest levels shows: pixels and validity, or nothing; None if it does not open."""
    try:
        slide = open_slide(path, mpp=0.25)
    except UnsupportedSlideError:
        return None
    with slide:
        if not native:
            slide.tiles = None
        return {
            (x, y, k): block(slide, x, y, k) for k in range(2) for y in range(0, 300, 64) for x in range(0, 448, 64)
        }


def block(slide, x, y, number):
    try:
        rgb, valid = slide.read_region(x, y, min(number, len(slide.info.level_downsamples) - 1), 64, 64)
    except DamagedSlideError:
        return None
    return rgb.tobytes(), None if valid is None else valid.tobytes()


def check(name, spoil, numbers, tmp_path):
    path = BASES[name](tmp_path / name)
    content, rng = path.read_bytes(), np.random.default_rng(7)
    for number in numbers:
        path.write_bytes(spoil(content, rng, number))
        ours = seen(path, native=True)
        assert ours == seen(path, native=False), number


@pytest.mark.parametrize("spoil", [cut, flipped, zeroed])
@pytest.mark.parametrize("name", BASES)
def test_a_few_damages(name, spoil, tmp_path):
    check(name, spoil, range(7, 64, 16), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "times"), [(cut, 64), (flipped, 200), (zeroed, 100)])
@pytest.mark.parametrize("name", BASES)
def test_many_damages(name, spoil, times, tmp_path):
    check(name, spoil, range(times), tmp_path)


@pytest.mark.parametrize("name", ["a.svs", "tables.svs", "a.tif"])
def test_what_cannot_be_read_is_counted(name, tmp_path):
    path = BASES[name](tmp_path / name)
    content, rng = path.read_bytes(), np.random.default_rng(3)
    for number in range(12):
        path.write_bytes(zeroed(content, rng, number))
        blocks = seen(path, native=True)
        if blocks is None:
            continue
        lost = sum(
            min(64, 410 - x) * min(64, 300 - y) for (x, y, k), shown in blocks.items() if k == 0 and shown is None
        )
        with open_slide(path, mpp=0.25) as slide:
            region = read_at_mpp(slide, 0, 0, 448, 448)
        assert region.unreadable == pytest.approx(lost / (410 * 300))
