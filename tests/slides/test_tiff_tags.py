"""TIFFs only an attacker would write are refused unseen; slides never are."""

import struct
import time

import numpy as np
import pytest
import tiff_files
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


def pointed(path, side, tiles, size=1_200_000, tile=256):
    """A file of `size` bytes declaring side x side px, every tile of which is the same; `tiles` of them are there."""
    count = (-(-side // tile)) ** 2
    stream = tiff_files.encode(np.full((tile, tile, 3), 230, np.uint8))
    tags = [
        (254, 4, 1, 0),
        (256, 4, 1, side),
        (257, 4, 1, side),
        (258, 3, 3, 8),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (277, 3, 1, 3),
        (322, 4, 1, tile),
        (323, 4, 1, tile),
        (324, 4, count, 0),
        (325, 4, count, 0),
    ]
    behind = 8 + 2 + 12 * len(tags) + 4
    lists = behind + 6
    values = {258: behind, 324: lists, 325: lists + 4 * count}
    content = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", code, kind, n, values.get(code, value)) for code, kind, n, value in tags)
    content += struct.pack("<I", 0) + struct.pack("<HHH", 8, 8, 8)
    offset = lists + 8 * count
    content += np.full(count, offset, "<u4").tobytes()
    content += np.where(np.arange(count) < tiles, len(stream), 0).astype("<u4").tobytes() + stream
    path.write_bytes(content.ljust(size, b"\0"))
    return path


def test_a_small_file_that_declares_gigabytes_is_refused_at_once(tmp_path):
    path = pointed(tmp_path / "bomb.tif", 100_000, 391**2)
    assert path.stat().st_size == pytest.approx(1.2e6, rel=0.1)
    begun = time.process_time()
    with pytest.raises(
        UnsupportedSlideError, match=r"tiles share bytes.*1\.\d+ MB declares 1e\+04 mega.*--max-pixels does not"
    ):
        open_slide(path, mpp=0.25, max_pixels=10**12)
    assert time.process_time() - begun < 1.0


@pytest.mark.parametrize(
    ("tiles", "size", "shared"), [(0, 1, False), (20, 1, False), (40_000, 1, True), (9000, 10**7, False)]
)
def test_tiles_left_out_are_nobodys_bytes(tiles, size, shared, tmp_path):
    path = pointed(tmp_path / "a.tif", 100_000, tiles, size)
    if shared:
        with pytest.raises(UnsupportedSlideError, match="share bytes"):
            check_tiff(path)
    else:
        assert len(check_tiff(path)) == 1


def test_a_sparse_slide_of_a_hundred_thousand_px_opens_and_is_read(tmp_path):
    with open_slide(pointed(tmp_path / "a.tif", 100_000, 3, 1), mpp=0.25) as slide:
        rgb, valid = slide.read_region(0, 0, 0, 1024, 256)
    assert valid[:, :768].all()
    assert not valid[:, 768:].any()
    assert (rgb[:, 768:] == 255).all()


def test_what_tiles_there_are_is_told_once_and_for_all(tmp_path):
    rgb = tiff_files.texture(100, 150)
    path = tiff_files.slide(tmp_path / "a.svs", rgb)
    (page,) = check_tiff(path)
    assert (page.width, page.height, page.tile_width, page.tile_height) == (150, 100, 64, 64)
    assert (page.compression, page.photometric, page.samples, page.bits, page.usual) == (7, 6, 3, 8, True)
    assert (page.tables, page.header, page.focus) == (b"", b"", 0)
    content = path.read_bytes()
    for offset, length, part in zip(page.offsets, page.lengths, tiff_files.cut(rgb), strict=True):
        assert content[offset : offset + length] == tiff_files.encode(part)
