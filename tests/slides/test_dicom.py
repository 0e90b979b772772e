"""The DICOM reader: compressions, focal planes, sparse tiles, damage, what is refused, and names kept nowhere."""

import builtins
import logging
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest

from wsi_detect.errors import DamagedSlideError, MissingExtraError, UnsupportedSlideError
from wsi_detect.slides import dicom, open_slide, openslide
from wsi_detect.slides.describe import describe
from wsi_detect.slides.resample import read_at_mpp, thumbnail
from wsi_detect.testing.contracts import check_reader
from wsi_detect.testing.dicom import CANARY, SYNTAXES, write_dicom
from wsi_detect.testing.ome import shrink

WIDTH, HEIGHT = 300, 230


def smooth(shift=0):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    check = ((x // 16 + y // 16) % 2) * 40
    return np.stack([60 + x * 150 // WIDTH, 60 + y * 150 // HEIGHT, 100 + check + shift], -1).astype(np.uint8)


PIXELS = smooth()


@pytest.fixture
def stack(tmp_path):
    return write_dicom(tmp_path / "stack", [smooth(shift) for shift in (0, 10, 20)])


def change(path, edit):
    file = pydicom.dcmread(path)
    edit(file)
    file.save_as(path)
    return path


def set_values(**values):
    return lambda file: [setattr(file, name, value) for name, value in values.items()]


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("planes", [1, 2])
def test_every_compression_gives_back_what_was_written(syntax, planes, tmp_path):
    path = write_dicom(tmp_path / "s", [PIXELS] * planes, syntax=syntax)
    check_reader(lambda: dicom.open(path, "S0"), PIXELS, tolerance=3 if syntax == "jpeg" else 0)


@pytest.mark.parametrize("syntax", ["explicit", "jpeg", "jpeg2000"])
def test_what_openslide_reads_too_is_the_same(syntax, tmp_path):
    path = write_dicom(tmp_path / "s", [PIXELS], syntax=syntax)
    assert openslide.accepts(path)
    with dicom.open(path, "S0") as ours, openslide.open(path, "S0") as theirs:
        assert (ours.info.mpp, ours.info.level_downsamples) == (theirs.info.mpp, theirs.info.level_downsamples)
        for x, y, level, width, height in ((0, 0, 0, WIDTH, HEIGHT), (-7, 13, 0, 100, 300), (40, 20, 1, 100, 100)):
            for mine, other in zip(*(s.read_region(x, y, level, width, height) for s in (ours, theirs)), strict=True):
                assert np.array_equal(mine, other)


def test_facts_and_planes(stack):
    with open_slide(stack) as slide:
        info = slide.info
        assert (info.width_px, info.height_px, info.level_downsamples) == (WIDTH, HEIGHT, (1, 2))
        assert (info.mpp, info.mpp_key, info.vendor) == (0.25, "dicom.PixelSpacing", "dicom")
        assert (info.focal_planes, info.focal_step_um, info.objective_power) == (3, 1.5, 40)
        for plane, shift in enumerate((0, 10, 20)):
            assert (slide.read_region(0, 0, 0, WIDTH, HEIGHT, plane=plane)[0] == smooth(shift)).all()
            assert (slide.read_region(0, 0, 1, 150, 115, plane=plane)[0] == shrink(smooth(shift), 2)).all()
        assert read_at_mpp(slide, 0, 0, 128, 64).rgb.shape == (64, 64, 3)
        assert thumbnail(slide, 60)[1] == 5


def test_any_file_of_the_pyramid_opens_the_slide(stack):
    with open_slide(stack.with_name("level1.dcm")) as slide:
        assert (slide.info.width_px, slide.info.focal_planes) == (WIDTH, 3)


def test_files_of_other_slides_and_other_kinds_are_left_alone(stack):
    (stack.parent / "notes.txt").write_text("nothing")
    (stack.parent / "folder").mkdir()
    other = write_dicom(stack.parent / "other", [np.zeros((500, 500, 3), np.uint8)], levels=1)
    change(other, set_values(SeriesInstanceUID="2.25.7")).rename(stack.parent / "other.dcm")
    with open_slide(stack) as slide:
        assert (slide.info.width_px, slide.info.level_downsamples) == (WIDTH, (1, 2))


def test_tiles_left_out_are_white_and_not_valid(tmp_path):
    tiles = [(plane, row, column) for plane in range(2) for row in range(4) for column in range(5)]
    kept = [tile for tile in tiles if tile not in ((0, 1, 2), (1, 3, 4))][::-1]
    path = write_dicom(tmp_path / "s", [PIXELS, smooth(10)], sparse=kept)
    for plane, missing in enumerate([(slice(64, 128), slice(128, 192)), (slice(192, 230), slice(256, 300))]):
        expected = np.ones((HEIGHT, WIDTH), bool)
        expected[missing] = False
        with open_slide(path) as slide:
            rgb, valid = slide.read_region(0, 0, 0, WIDTH, HEIGHT, plane=plane)
            assert slide.info.focal_step_um == 1.5
        assert (valid == expected).all()
        assert (rgb[valid] == smooth(10 * plane)[valid]).all()
        assert (rgb[~valid] == 255).all()


def test_a_level_of_one_plane_serves_all(stack):
    whole = stack.with_name("level1.dcm")
    small = write_dicom(stack.parent / "one", [smooth(10)], levels=2).with_name("level1.dcm")
    small.rename(whole)
    with open_slide(stack) as slide:
        for plane in range(3):
            assert (slide.read_region(0, 0, 1, 150, 115, plane=plane)[0] == shrink(smooth(10), 2)).all()


@pytest.mark.parametrize("syntax", ["jpeg", "jpeg2000", "jpegls", "jpegxl"])
def test_damage_costs_its_tile_and_nothing_else(syntax, tmp_path):
    path = write_dicom(tmp_path / "s", [PIXELS, PIXELS], syntax=syntax)
    with open_slide(path) as slide:
        before = slide.read_region(0, 0, 0, WIDTH, HEIGHT)[0]
        place, size = (int(table[0, 1, 1]) for table in (slide._levels[0].offsets, slide._levels[0].lengths))
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(bytes(size))
    with open_slide(path) as slide:
        with pytest.raises(DamagedSlideError, match=r"tile 1, 1 of level 0"):
            slide.read_region(0, 0, 0, WIDTH, HEIGHT)
        patch = read_at_mpp(slide, 0, 0, 256, 256)
        assert patch.unreadable == pytest.approx(64 * 64 / (230 * 256))
        lost = np.zeros((HEIGHT, 256), bool)
        lost[64:128, 64:128] = True
        assert (patch.rgb[:HEIGHT][~lost] == before[:, :256][~lost]).all()
        assert (slide.read_region(0, 0, 0, WIDTH, HEIGHT, plane=1)[0] == before).all()


@pytest.mark.parametrize("syntax", ["explicit", "jpeg"])
def test_a_file_cut_short_loses_what_is_gone(syntax, tmp_path):
    path = write_dicom(tmp_path / "s", [PIXELS, PIXELS], syntax=syntax)
    with open_slide(path) as slide:
        before = slide.read_region(0, 0, 0, WIDTH, HEIGHT)[0]
        place = int(slide._levels[0].offsets[0, 2, 0])
    os.truncate(path, place + 5)
    with open_slide(path) as slide:
        assert (slide.read_region(0, 0, 0, WIDTH, 128)[0] == before[:128]).all()
        for y, plane in ((128, 0), (192, 0), (0, 1)):
            with pytest.raises(DamagedSlideError, match="beyond the end of the file"):
                slide.read_region(0, y, 0, 64, 38, plane=plane)


def test_frames_with_another_size_than_declared_are_damage(tmp_path):
    for syntax in ("jpeg", "jpeg2000", "jpegls", "jpegxl"):
        path = write_dicom(tmp_path / syntax, [PIXELS[:60, :60]] * 2, syntax=syntax, levels=1)
        content = path.read_bytes()
        for tag in (b"\x28\0\x10\0US\x02\0", b"\x28\0\x11\0US\x02\0"):
            content = content.replace(tag + b"\x40\0", tag + b"\x80\0")
        path.write_bytes(content)
        with open_slide(path) as slide, pytest.raises(DamagedSlideError, match="tile 0, 0"):
            slide.read_region(0, 0, 0, 8, 8)


def two_of_a_size(path):
    level = pydicom.dcmread(path)
    level.save_as(path.with_name("again.dcm"))
    return path


REFUSED = {
    "label": (lambda path: path.with_name("label.dcm"), "the label picture"),
    "not a slide": (lambda path: change(path, set_values(SOPClassUID="1.2.840.10008.5.1.4.1.1.2")), "no whole-slide"),
    "frames": (lambda path: change(path, set_values(NumberOfFrames=59)), "59 frames"),
    "stored": (lambda path: change(path, lambda file: file.__setattr__("PixelData", file.PixelData[:9])), "0 frames"),
    "bits": (lambda path: change(path, set_values(BitsAllocated=16)), "16 bits a sample"),
    "signed": (lambda path: change(path, set_values(PixelRepresentation=1)), "without a sign"),
    "paths": (lambda path: change(path, set_values(NumberOfOpticalPaths=4)), "optical paths.*fluorescence"),
    "colour": (lambda path: change(path, set_values(PhotometricInterpretation="YBR_FULL")), "colour model YBR_FULL"),
    "palette": (
        lambda path: change(path, set_values(PhotometricInterpretation="PALETTE COLOR", SamplesPerPixel=1)),
        "colour model PALETTE",
    ),
    "nothing": (lambda path: change(path, lambda file: file.__delattr__("Rows")), r"cannot be used \(AttributeError"),
    "no pixels": (lambda path: change(path, lambda file: file.__delattr__("PixelData")), "no pixel data"),
    "huge": (
        lambda path: change(path, set_values(TotalPixelMatrixColumns=2**32 - 1, TotalPixelMatrixRows=2**32 - 1)),
        "in a level of 4294967295",
    ),
    "planes": (lambda path: change(path, set_values(TotalPixelMatrixFocalPlanes=2**32 - 1)), "4294967295 focal"),
    "empty": (lambda path: change(path, set_values(Rows=0)), "without a pixel"),
    "twice": (two_of_a_size, "the same level"),
    "levels": (
        lambda path: write_dicom(path.parent / "x", [PIXELS] * 2).with_name("level1.dcm").replace(
            path.with_name("level1.dcm")
        ) and path,
        "levels with 2 and 3 focal planes",
    ),
    "cut in the header": (lambda path: os.truncate(path, 700) or path, "DICOM header|no pixel|60 frames"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_slide_for_us_is_refused_by_name(name, stack):
    make, words = REFUSED[name]
    with pytest.raises(UnsupportedSlideError, match=words) as caught:
        open_slide(make(stack))
    assert "\n" not in str(caught.value)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("places", [[(0, 0, 0), (0, 0, 9)], [(0, 9, 0)]])
def test_sparse_tiles_beyond_the_slide_are_refused(places, tmp_path):
    path = write_dicom(tmp_path / "s", [PIXELS] * 2, sparse=[(0, 0, 0), (1, 0, 0)])
    file = pydicom.dcmread(path)
    for group, (_, row, column) in zip(file.PerFrameFunctionalGroupsSequence, places, strict=False):
        group.PlanePositionSlideSequence[0].ColumnPositionInTotalImagePixelMatrix = column * 64 + 1
        group.PlanePositionSlideSequence[0].RowPositionInTotalImagePixelMatrix = row * 64 + 1
    file.save_as(path)
    with pytest.raises(UnsupportedSlideError, match="beyond the edge"):
        open_slide(path)
    file.PerFrameFunctionalGroupsSequence[0].PlanePositionSlideSequence[0].ColumnPositionInTotalImagePixelMatrix = 7
    file.save_as(path)
    with pytest.raises(UnsupportedSlideError, match="do not lie on a grid"):
        open_slide(path)


def test_the_patient_appears_nowhere(stack, caplog, recwarn):
    assert CANARY.encode() in stack.read_bytes()
    with caplog.at_level(logging.DEBUG), open_slide(stack) as slide:
        kept = [repr(slide.info), repr(describe(slide)), repr(vars(slide)), repr(slide._levels)]
    assert CANARY not in "".join([*kept, caplog.text, *(str(entry.message) for entry in recwarn)])


def test_the_label_is_not_opened_beyond_its_header(stack, monkeypatch):
    opened, real = [], os.open

    def spy(path, *rest, **more):
        opened.append(os.path.basename(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", spy)
    with open_slide(stack) as slide:
        slide.read_region(0, 0, 0, 64, 64)
    assert [name for name in opened if name.endswith(".dcm")] == ["level0.dcm", "level1.dcm"]


def test_without_the_extra_the_install_line_is_told(stack, monkeypatch):
    real = builtins.__import__

    def absent(name, *rest):
        if name.partition(".")[0] == "pydicom":
            raise ImportError(name)
        return real(name, *rest)

    for name in [name for name in sys.modules if name.partition(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r'pip install "wsi-detect\[dicom\]"'):
        open_slide(stack)


def test_threads_see_the_same(stack):
    boxes = [(x, y) for y in range(0, 200, 23) for x in range(0, 270, 31)] * 2
    with open_slide(stack) as slide, ThreadPoolExecutor(4) as pool:
        for (x, y), (rgb, _) in zip(boxes, pool.map(lambda at: slide.read_region(*at, 0, 30, 30), boxes), strict=True):
            assert (rgb == PIXELS[y : y + 30, x : x + 30]).all()


def test_closing(stack):
    slide = open_slide(stack)
    slide.close()
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        slide.read_region(0, 0, 0, 8, 8)
