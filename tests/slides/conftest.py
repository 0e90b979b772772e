"""Files to open: the fixtures of the repository, and odd ones made on the spot."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from wsi_detect.testing.pyramid import write_pyramid

# Tests import `tiff_files` by name.
sys.path.insert(0, str(Path(__file__).parent))

FIXTURES = Path(__file__).parents[1] / "fixtures"


def pattern(height, width):
    """Pixels that differ everywhere and survive averaging: two slow ramps and a check of 16 px."""
    y, x = np.mgrid[:height, :width]
    check = ((x // 16 + y // 16) % 2) * 40
    return np.stack([60 + x * 150 // width, 60 + y * 150 // height, 100 + check], axis=-1).astype(np.uint8)


def write_tiles(path, pixels, **options):
    """A generic tiled TIFF; `options` as tifffile takes them."""
    tifffile.imwrite(path, pixels, tile=(64, 64), **{"photometric": "rgb", "metadata": None, **options})
    return path


def retag(path, tag, value):
    """Overwrite one tag of the first directory."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(value)
    return path


@pytest.fixture
def slides(tmp_path):
    """Give a named file: a copy of a fixture, or a file made here."""

    def give(name):
        if name in MADE:
            return MADE[name](tmp_path / name)
        source = next(path for path in (FIXTURES / name, FIXTURES / "odd" / name) if path.exists())
        return Path(shutil.copy(source, tmp_path / name))

    return give


def _dots(path, across, down):
    return write_tiles(path, pattern(128, 192), resolution=(across, down), resolutionunit="CENTIMETER")


def _plain(path, mpp=0.25, size=(192, 128)):
    width, height = size
    pixels = pattern(height, width)
    return write_pyramid(path, lambda y0, y1: pixels[y0:y1], width=width, height=height, mpp=mpp)


def _zeroed(path):
    _plain(path, size=(16, 16))
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[offset : offset + size] = bytes(size)
    path.write_bytes(content)
    return path


def _written(content):
    def write(path):
        path.write_bytes(content)
        return path

    return write


MADE = {
    "dpi72.tiff": lambda path: _dots(path, 72 / 2.54, 72 / 2.54),
    "oblong.tiff": lambda path: _dots(path, 40_000, 30_000),
    "almost_square.tiff": lambda path: _dots(path, 40_000, 40_200),
    "no_mpp.svs": lambda path: _plain(path, mpp=None),
    "16x16.svs": lambda path: _plain(path, size=(16, 16)),
    "1x1.svs": lambda path: _plain(path, size=(1, 1)),
    "unreadable.svs": _zeroed,
    "unknown_compression.tiff": lambda path: retag(_dots(path, 40_000, 40_000), "Compression", 52479),
    "jp2k_tag.tiff": lambda path: retag(_dots(path, 40_000, 40_000), "Compression", 34712),
    "zstd.tiff": lambda path: write_tiles(
        path, pattern(128, 192), compression="zstd", resolution=(40_000, 40_000), resolutionunit="CENTIMETER"
    ),
    "empty.svs": _written(b""),
    "text.svs": _written(b"Patient list, not a slide\n" * 10),
    "cut.png": _written(b"\x89PNG\r\n\x1a\n" + b"\0" * 20),
}
