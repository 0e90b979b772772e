"""A plain picture posing as a slide."""

import numpy as np
import pytest
from PIL import Image

from wsi_detect.errors import DamagedSlideError, MissingResolutionError, UnsupportedSlideError
from wsi_detect.slides import open_slide
from wsi_detect.testing.contracts import check_reader

PIXELS = np.random.default_rng(0).integers(0, 255, (140, 160, 3), dtype=np.uint8)


def save(path, picture, **options):
    picture.save(path, **options)
    return path


def test_a_png_keeps_the_contract(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    check_reader(lambda: open_slide(path), PIXELS, tolerance=0)


def test_its_resolution_must_be_given_whatever_dots_per_inch_it_claims(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS), dpi=(72, 72))
    with open_slide(path) as slide, pytest.raises(MissingResolutionError):
        slide.info.resolution()
    with open_slide(path, mpp=0.5) as slide:
        assert slide.info.resolution() == 0.5
        assert slide.info.vendor == "plain image"


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "RGB"])
def test_eight_bit_pictures_open(mode, tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS).convert(mode))
    with open_slide(path) as slide:
        rgb, valid = slide.read_region(0, 0, 0, 160, 140)
    assert valid is None
    assert rgb.shape == (140, 160, 3)


def test_transparent_px_have_no_data_and_are_white(tmp_path):
    rgba = np.dstack([PIXELS, np.full((140, 160), 255, np.uint8)])
    rgba[10:20, 30:50] = 0
    path = save(tmp_path / "a.png", Image.fromarray(rgba))
    with open_slide(path) as slide:
        rgb, valid = slide.read_region(30, 0, 0, 20, 20)
    assert (~valid).sum() == 200
    assert (rgb[10:] == 255).all()
    assert (rgb[:10] == PIXELS[:10, 30:50]).all()


@pytest.mark.parametrize("mode", ["1", "I;16"])
def test_other_depths_are_refused(mode, tmp_path):
    picture = Image.fromarray(PIXELS[..., 0].astype(np.uint16)) if mode == "I;16" else Image.new("1", (8, 8))
    with pytest.raises(UnsupportedSlideError, match="pixel format"):
        open_slide(save(tmp_path / "a.png", picture))


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)
    with pytest.raises(UnsupportedSlideError, match="tiled TIFF"):
        open_slide(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_cut_file_is_damaged(name, tmp_path):
    path = save(tmp_path / name, Image.fromarray(PIXELS))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DamagedSlideError, match="cannot be decoded"):
        open_slide(path)


def test_a_closed_picture_says_so(tmp_path):
    slide = open_slide(save(tmp_path / "a.png", Image.fromarray(PIXELS)))
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        slide.read_region(0, 0, 0, 1, 1)
