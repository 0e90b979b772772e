"""Cut, flipped and zeroed OME-TIFF and DICOM files: refused, or what is lost is counted; nothing else is raised."""

import random

import numpy as np
import pytest

from wsi_detect.errors import WsiDetectError
from wsi_detect.slides import open_slide
from wsi_detect.slides.resample import read_at_mpp
from wsi_detect.testing.dicom import write_dicom
from wsi_detect.testing.ome import write_ome
from wsi_detect.testing.painter import lay_cells, paint_region

WIDTH, HEIGHT = 300, 230


def ome(compression):
    return lambda folder, planes: write_ome(folder / "a.ome.tif", planes, compression=compression)


def dicom(syntax):
    return lambda folder, planes: write_dicom(folder / "a", planes, syntax=syntax)


KINDS = {
    **{f"ome {name}": ome(name) for name in ("zstd", "jpeg", "webp", "jpegxl", "lerc", "jpeg2000")},
    **{f"dicom {name}": dicom(name) for name in ("explicit", "jpeg", "jpegxl", "jpegls", "jpeg2000")},
}


@pytest.fixture(scope="module")
def planes():
    pixels = paint_region(lay_cells(WIDTH, HEIGHT, 20, seed=4), width=WIDTH, height=HEIGHT, seed=4)
    return [255 - pixels, pixels]


def read(path):
    """Pixels of the last plane and the share that is lost; None if the slide is refused."""
    try:
        with open_slide(path, mpp=0.25, max_pixels=10**6) as slide:
            found = read_at_mpp(slide, 0, 0, 300, 300, plane=slide.info.focal_planes - 1)
            return (slide.info.focal_planes, slide.info.width_px), found.rgb[:HEIGHT], found.unreadable
    except WsiDetectError:
        return None


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_off_is_counted(kind, planes, tmp_path):
    path = KINDS[kind](tmp_path, planes)
    good = path.read_bytes()
    whole = read(path)
    refused = 0
    for k in range(64):
        path.write_bytes(good[: len(good) * k // 64])
        found = read(path)
        refused += found is None
        # Without its XML, which comes last, an OME-TIFF is its first plane alone.
        if found is not None and found[0] == whole[0]:
            assert found[2] > 0 or np.array_equal(found[1], whole[1])
    assert refused < 64


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_our_own_errors_is_raised(kind, planes, tmp_path):
    path = KINDS[kind](tmp_path, planes)
    good = path.read_bytes()
    chance = random.Random(7)
    outcomes = []
    for _ in range(150):
        content = bytearray(good)
        place = chance.choice(
            [chance.randrange(2500), chance.randrange(len(good)), len(good) - 1 - chance.randrange(2500)]
        )
        if chance.random() < 0.3:
            content[place : place + 512] = bytes(len(content[place : place + 512]))
        else:
            content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        outcomes.append(read(path) is None)
    assert 0 < sum(outcomes) < len(outcomes)
