"""TIFFs only an attacker would write are refused unseen; slides never are."""

import numpy as np
import pytest
import tifffile

from wsi_detect.errors import UnsupportedSlideError
from wsi_detect.slides import open_slide
from wsi_detect.slides.tiff_tags import check_tiff

PIXELS = np.full((64, 64, 3), 200, np.uint8)


def write(path, pixels=PIXELS, **options):
    tifffile.imwrite(path, pixels, **{"photometric": "rgb", "tile": (64, 64), "metadata": None, **options})
    return path


@pytest.mark.parametrize(
    "compression", [None, "lzw", "deflate", "packbits", "zstd", "jpeg", "jpeg2000", "aperio_jp2000_rgb"]
)
@pytest.mark.parametrize("big", [False, True])
def test_what_slides_are_compressed_with_passes(compression, big, tmp_path):
    check_tiff(write(tmp_path / "a.tif", compression=compression, bigtiff=big))


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_are_looked_into(order, tmp_path):
    path = write(tmp_path / "a.tif", byteorder=order, photometric="ycbcr")
    with pytest.raises(UnsupportedSlideError, match="YCbCr colour with TIFF compression 1"):
        check_tiff(path)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_ycbcr_passes_where_a_jpeg_library_decodes_it(compression, tmp_path):
    check_tiff(write(tmp_path / "a.tif", photometric="ycbcr", compression=compression))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"photometric": "ycbcr", "compression": "deflate"}, "YCbCr colour with TIFF compression 32946"),
        ({"photometric": "ycbcr", "compression": "zstd"}, "YCbCr colour with TIFF compression 50000"),
        ({"compression": "webp"}, "TIFF compression 50001"),
        ({"compression": "lerc"}, "TIFF compression 34887"),
        ({"planarconfig": "separate", "pixels": np.zeros((3, 64, 64), np.uint8)}, "separate planes"),
        ({"pixels": np.zeros((64, 64, 3), np.float32)}, "32 bits"),
        ({"photometric": "cielab"}, "colour model 8"),
    ],
)
def test_the_rest_is_refused_by_name(options, words, tmp_path):
    path = write(tmp_path / "a.tif", **options)
    with pytest.raises(UnsupportedSlideError, match=words):
        check_tiff(path)


def test_pixarlog_is_refused(tmp_path):
    path = write(tmp_path / "a.tif")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(32909)
    with pytest.raises(UnsupportedSlideError, match="TIFF compression 32909"):
        open_slide(path)


def test_every_directory_is_looked_into(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for photometric in ("rgb", "rgb", "ycbcr"):
            tiff.write(PIXELS, photometric=photometric, tile=(64, 64), metadata=None)
    with pytest.raises(UnsupportedSlideError, match="YCbCr"):
        check_tiff(path)


def test_strips_are_nobodys_pyramid(tmp_path):
    check_tiff(write(tmp_path / "a.tif", tile=None, photometric="ycbcr"))


def test_broken_directories_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0")
    with pytest.raises(UnsupportedSlideError, match="directories"):
        check_tiff(path)


@pytest.mark.parametrize("content", [b"", b"II", b"\x89PNG", b"DICM" * 50])
def test_other_files_pass(content, tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(content)
    check_tiff(path)
