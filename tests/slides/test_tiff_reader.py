"""The TIFF reader: pixels by compression and layout, pyramids and planes, damage, and what is refused by name."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiff_files
import tifffile

from wsi_detect.errors import DamagedSlideError, UnsupportedSlideError
from wsi_detect.slides import open_slide, openslide, tiff
from wsi_detect.slides.assemble import TileCache
from wsi_detect.slides.describe import describe
from wsi_detect.slides.resample import read_at_mpp, thumbnail
from wsi_detect.slides.tiff_tags import is_for_openslide
from wsi_detect.slides.tiles import tiles_of
from wsi_detect.testing.contracts import check_reader
from wsi_detect.testing.ome import LOSSLESS, shrink, write_ome

WIDTH, HEIGHT = 300, 230
CODECS = ["webp", "jpegxl", "lerc", "jpeg2000", "zstd", "lzw", "deflate", "packbits", None]
LEVELS = [(300, 230), (150, 115), (75, 58)]


def smooth(shift=0):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    check = ((x // 16 + y // 16) % 2) * 40
    return np.stack([60 + x * 150 // WIDTH, 60 + y * 150 // HEIGHT, 100 + check + shift], -1).astype(np.uint8)


PIXELS = smooth()


def write(path, pixels=PIXELS, **options):
    compression = options.get("compression")
    defaults = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "compressionargs": LOSSLESS.get(compression)}
    tifffile.imwrite(path, pixels, **{**defaults, **options})
    return path


def check(path, tolerance=0):
    check_reader(lambda: tiff.open(path, "S0"), PIXELS, tolerance=tolerance)


@pytest.mark.parametrize("codec", CODECS)
def test_every_lossless_codec_gives_back_what_was_written(codec, tmp_path):
    check(write(tmp_path / "a.tif", compression=codec))


@pytest.mark.parametrize("codec", CODECS)
def test_strips_are_read_like_tiles(codec, tmp_path):
    path = write(tmp_path / "a.tif", tile=None, rowsperstrip=50, compression=codec)
    check(path)
    with open_slide(path) as slide:
        assert slide.info.native_tile_px is None


@pytest.mark.parametrize(
    "options",
    [
        {"planarconfig": "separate", "pixels": np.moveaxis(PIXELS, 2, 0)},
        {"planarconfig": "separate", "pixels": np.moveaxis(PIXELS, 2, 0), "compression": "jpegxl"},
        {"planarconfig": "separate", "pixels": np.moveaxis(PIXELS, 2, 0), "tile": None, "rowsperstrip": 9},
        {"compression": "zstd", "predictor": True},
        {"compression": "lerc", "compressionargs": {"compression": "zstd"}},
        {"compression": "lerc", "compressionargs": {"compression": "deflate"}},
        {"byteorder": ">", "bigtiff": True},
        {"tile": (16, 480)},
    ],
)
def test_layouts(options, tmp_path):
    check(write(tmp_path / "a.tif", **options))


@pytest.mark.parametrize(("photometric", "turn"), [("minisblack", lambda v: v), ("miniswhite", lambda v: 255 - v)])
def test_grey_is_three_times_the_same(photometric, turn, tmp_path):
    path = write(tmp_path / "a.tif", PIXELS[..., 0], photometric=photometric)
    with tiff.open(path, "S0") as slide:
        rgb, _ = slide.read_region(0, 0, 0, WIDTH, HEIGHT)
    assert (rgb == turn(PIXELS[..., :1])).all()


@pytest.mark.parametrize("name", ["jpeg.tif", "ycbcr.tif", "zstd.tif", "strips.tif"])
def test_what_openslide_reads_too_is_the_same(name, tmp_path):
    options = {
        "jpeg.tif": {"compression": "jpeg"},
        "ycbcr.tif": {"compression": "jpeg", "photometric": "ycbcr"},
        "zstd.tif": {"compression": "zstd"},
        "strips.tif": {"compression": "jpeg", "rowsperstrip": 64},
    }[name]
    path = write(tmp_path / name, tiff_files.texture(HEIGHT, WIDTH), **options)
    with tiff.open(path, "S0") as ours, openslide.open(path, "S0") as theirs:
        for x, y, width, height in ((0, 0, WIDTH, HEIGHT), (-7, 13, 100, 300), (250, 200, 80, 40)):
            for mine, other in zip(*(s.read_region(x, y, 0, width, height) for s in (ours, theirs)), strict=True):
                assert np.array_equal(mine, other)


def test_ome_pyramid(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [PIXELS])
    check(path)
    with open_slide(path) as slide:
        info = slide.info
        assert (info.vendor, info.level_downsamples, info.native_tile_px) == ("ome-tiff", (1, 2, 4), (64, 64))
        assert (info.mpp, info.mpp_source, info.mpp_key) == (0.25, "file", "ome.PhysicalSizeX")
        assert (info.focal_planes, info.focal_step_um) == (1, None)
        for level, step in enumerate((1, 2, 4)):
            width, height = LEVELS[level]
            rgb, valid = slide.read_region(0, 0, level, width, height)
            assert valid is None
            assert (rgb == shrink(PIXELS, step)).all()
        assert read_at_mpp(slide, 0, 0, 128, 32).rgb.shape == (32, 32, 3)
        assert thumbnail(slide, 60)[1] == 5


def test_ome_focal_planes(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [smooth(shift) for shift in (0, 10, 20)])
    check(path)
    with open_slide(path) as slide:
        assert (slide.info.focal_planes, slide.info.focal_step_um) == (3, 1.5)
        assert ("focal planes", "3, 1.5 µm apart") in describe(slide)
        assert tiles_of(slide) is None
        for plane, shift in enumerate((0, 10, 20)):
            assert (slide.read_region(0, 0, 0, WIDTH, HEIGHT, plane=plane)[0] == smooth(shift)).all()
            assert (slide.read_region(0, 0, 2, 75, 57, plane=plane)[0] == shrink(smooth(shift), 4)[:57]).all()


def test_ome_jpeg_shows_its_tiles(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [PIXELS], compression="jpeg")
    check(path, tolerance=3)
    with open_slide(path) as slide:
        tiles = tiles_of(slide)
        assert all(tiles.levels)
        assert (tiles.read(0, 5, 7, 90, 80)[0] == slide.read_region(5, 7, 0, 90, 80)[0]).all()


@pytest.mark.parametrize(("unit", "factor"), [("nm", 1e-3), ("mm", 1e3), ("pixel", None)])
def test_ome_units(unit, factor, tmp_path):
    path = tmp_path / "a.ome.tif"
    facts = {f"PhysicalSize{axis}": 0.25 / (factor or 1) for axis in "XY"}
    units = {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    write(path, ome=True, metadata={"axes": "YXS", **facts, **units})
    with open_slide(path) as slide:
        assert slide.info.mpp == (None if factor is None else pytest.approx(0.25))
        assert slide.info.mpp_source == ("missing" if factor is None else "file")


def test_colours_in_directories_of_their_own(tmp_path):
    path = tmp_path / "a.ome.tif"
    colours = {"Channel": {"Color": [-16776961, 16711935, 65535]}}
    write(path, np.moveaxis(PIXELS, 2, 0), photometric="minisblack", ome=True, metadata={"axes": "CYX", **colours})
    check(path)


def test_reduced_directories_are_levels_and_others_are_not(tmp_path):
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "compression": "webp", "compressionargs": {"lossless": True}, "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(PIXELS, tile=(64, 64), resolution=(40_000, 40_000), resolutionunit="CENTIMETER", **options)
        file.write(shrink(PIXELS, 2), tile=(64, 64), subfiletype=1, **options)
        file.write(np.zeros((60, 100, 3), np.uint8), subfiletype=1, **options)  # another shape: a label
        file.write(np.zeros((115, 150, 3), np.uint8), **options)  # not said to be a smaller copy
        file.write(shrink(PIXELS, 4), tile=(64, 64), subfiletype=1, **options)
    check(path)
    with open_slide(path) as slide:
        assert slide.info.level_downsamples == (1, 2, 4)
        assert (slide.info.mpp, slide.info.mpp_key) == (0.25, "tiff.XResolution")


def write_qptiff(path, pixels, kinds):
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for kind, step in kinds:
            file.write(
                shrink(pixels, step) if pixels.ndim == 3 else pixels[::step, ::step],
                photometric="rgb" if pixels.ndim == 3 else "minisblack",
                tile=(64, 64),
                software="PerkinElmer-QPI",
                description=f"<PerkinElmer-QPI-ImageDescription><Name>CANARY</Name><ImageType>{kind}</ImageType>"
                "</PerkinElmer-QPI-ImageDescription>",
                resolution=(40_000, 40_000),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def test_qptiff_in_bright_field(tmp_path):
    kinds = [("FullResolution", 1), ("Thumbnail", 4), ("ReducedResolution", 2), ("Overview", 3), ("Label", 5)]
    path = write_qptiff(tmp_path / "a.qptiff", PIXELS, kinds)
    check(path)
    with open_slide(path) as slide:
        assert (slide.info.vendor, slide.info.level_downsamples, slide.info.mpp) == ("qptiff", (1, 2), 0.25)
        assert "CANARY" not in str(slide.info)


def test_fluorescent_qptiff_is_refused(tmp_path):
    kinds = [("FullResolution", 1)] * 4 + [("ReducedResolution", 2)] * 4
    path = write_qptiff(tmp_path / "a.qptiff", PIXELS[..., 0], kinds)
    with pytest.raises(UnsupportedSlideError, match=r"QPTIFF of 4 channel.*fluorescence"):
        open_slide(path)


def ome_with(**pixels):
    """An OME-TIFF whose XML says something else than it holds."""

    def make(path):
        write(path, ome=True, metadata={"axes": "YXS"})
        text = tifffile.tiffcomment(path)
        for name, value in pixels.items():
            text = re.sub(rf' {name}="[^"]*"', f' {name}="{value}"', text)
        tifffile.tiffcomment(path, text.encode())
        return path

    return make


def multi_file(path):
    write(path, np.stack([PIXELS] * 2), ome=True, metadata={"axes": "ZYXS"})
    entry = '<TiffData IFD="{}" FirstZ="{}" PlaneCount="1"><UUID FileName="{}">urn:uuid:{}</UUID></TiffData>'
    entries = entry.format(0, 0, "a.ome.tif", 1) + entry.format(0, 1, "/etc/passwd", 2)
    text = re.sub(r"<TiffData.*?(/>|</TiffData>)", entries, tifffile.tiffcomment(path))
    tifffile.tiffcomment(path, text.encode())
    return path


def with_entity(path):
    write(path, ome=True, metadata={"axes": "YXS"})
    text = tifffile.tiffcomment(path)
    tifffile.tiffcomment(path, text.replace("<OME", '<!DOCTYPE x [<!ENTITY a "b">]><OME', 1).encode())
    return path


REFUSED = {
    "float.tif": (lambda p: write(p, PIXELS.astype(np.float32)), "32 bits"),
    "16bit.ome.tif": (lambda p: write(p, PIXELS.astype(np.uint16), ome=True, metadata={"axes": "YXS"}), "16 bits"),
    "rgba.webp.tif": (
        lambda p: write(p, np.dstack([PIXELS, PIXELS[..., 0]]), extrasamples=["unassalpha"], compression="webp"),
        "4 samples a pixel",
    ),
    "signed.tif": (lambda p: write(p, PIXELS.astype(np.int8), tile=None), "not whole numbers"),
    "lzma.tif": (lambda p: write(p, compression="lzma"), "TIFF compression 34925"),
    "ycbcr.tif": (lambda p: write(p, compression="deflate", photometric="ycbcr"), "colour model 6"),
    "palette.tif": (
        lambda p: write(p, PIXELS[..., 0], photometric="palette", colormap=np.zeros((3, 256), np.uint16), tile=None),
        "colour model 3",
    ),
    "channels.ome.tif": (
        lambda p: write(p, np.moveaxis(PIXELS, 2, 0), photometric="minisblack", ome=True, metadata={"axes": "CYX"}),
        "3 channel.*fluorescence",
    ),
    "time.ome.tif": (
        lambda p: write(p, np.stack([PIXELS] * 2), ome=True, metadata={"axes": "TYXS"}),
        "points in time",
    ),
    "planes.ome.tif": (ome_with(SizeZ=10**9), "1000000000 focal planes"),
    "lacking.ome.tif": (ome_with(SizeZ=3, PlaneCount=1), "no directory for focal plane 1"),
    "beyond.ome.tif": (ome_with(SizeZ=3, PlaneCount=3), "directories cannot be read"),
    "files.ome.tif": (multi_file, "2 files"),
    "entity.ome.tif": (with_entity, "document type"),
    "nothing.tif": (lambda p: p.write_bytes(b"II*\0\x08\0\0\0\0\0\0\0\0\0") and p, "no picture"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_slide_for_us_is_refused_by_name(name, tmp_path):
    make, words = REFUSED[name]
    with pytest.raises(UnsupportedSlideError, match=words) as caught:
        open_slide(make(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("codec", ["webp", "jpegxl", "lerc", "jpeg2000", "zstd", "jpeg"])
def test_damage_costs_its_tile_and_nothing_else(codec, tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [PIXELS], compression=codec)
    with open_slide(path) as slide:
        before = slide.read_region(0, 0, 0, WIDTH, HEIGHT)[0]
    with tifffile.TiffFile(path) as file:
        offset, length = file.pages[0].dataoffsets[6], file.pages[0].databytecounts[6]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(bytes(length))
    with open_slide(path) as slide:
        with pytest.raises(DamagedSlideError, match=r"tile 1, 1 of level 0"):
            slide.read_region(0, 0, 0, WIDTH, HEIGHT)
        patch = read_at_mpp(slide, 0, 0, 256, 256)
        assert patch.unreadable == pytest.approx(64 * 64 / (230 * 256))
        lost = np.zeros((HEIGHT, 256), bool)
        lost[64:128, 64:128] = True
        assert (patch.rgb[:HEIGHT][lost] == 255).all()
        assert (patch.rgb[:HEIGHT][~lost] == before[:, :256][~lost]).all()


def test_a_tile_of_another_size_than_declared_is_damage(tmp_path):
    for codec in ("webp", "jpegxl", "lerc", "jpeg2000", "jpeg", "zstd"):
        path = write(tmp_path / f"{codec}.tif", PIXELS[:64, :64], compression=codec)
        with tifffile.TiffFile(path, mode="r+") as file:
            for tag in ("TileWidth", "TileLength", "ImageWidth", "ImageLength"):
                file.pages[0].tags[tag].overwrite(48)
        with tiff.open(path, "S0") as slide, pytest.raises(DamagedSlideError, match="tile 0, 0"):
            slide.read_region(0, 0, 0, 48, 48)


def test_a_file_cut_short_loses_what_is_gone(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [PIXELS], levels=1)
    with tifffile.TiffFile(path) as file:
        offsets = file.pages[0].dataoffsets
    assert offsets[0] > 100  # directories first, tiles behind
    with path.open("r+b") as stream:
        stream.truncate(offsets[10] + 5)
    with tiff.open(path, "S0") as slide:  # the XML is gone too, and with it what tells the file from others
        assert slide.read_region(0, 0, 0, 300, 128)[1] is None
        with pytest.raises(DamagedSlideError, match="beyond the end of the file"):
            slide.read_region(0, 128, 0, 64, 64)


@pytest.mark.parametrize("codec", ["zstd", "jpeg", "webp"])
def test_tiles_the_file_has_not_are_white_and_not_valid(codec, tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [PIXELS], compression=codec, levels=1)
    with open_slide(path) as slide:
        before = slide.read_region(0, 0, 0, WIDTH, HEIGHT)[0]
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = list(file.pages[0].databytecounts)
        counts[7] = 0
        file.pages[0].tags["TileByteCounts"].overwrite(counts)
    with open_slide(path) as slide:
        rgb, valid = slide.read_region(0, 0, 0, WIDTH, HEIGHT)
    expected = np.ones((HEIGHT, WIDTH), bool)
    expected[64:128, 128:192] = False
    assert (valid == expected).all()
    assert (rgb[~valid] == 255).all()
    assert (rgb[valid] == before[valid]).all()


def test_a_small_file_that_declares_much_is_refused(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [np.zeros((640, 640, 3), np.uint8)], compression="webp", levels=1)
    with tifffile.TiffFile(path, mode="r+") as file:
        page = file.pages[0]
        page.tags["TileOffsets"].overwrite([page.dataoffsets[0]] * 100)
        page.tags["TileByteCounts"].overwrite([path.stat().st_size // 2] * 100)
    with pytest.raises(UnsupportedSlideError, match="share bytes"):
        open_slide(path)


def test_threads_see_the_same(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", [PIXELS], tile_px=32)
    boxes = [(x, y) for y in range(0, 200, 23) for x in range(0, 270, 31)] * 3
    with open_slide(path) as slide, ThreadPoolExecutor(4) as pool:
        for (x, y), (rgb, _) in zip(boxes, pool.map(lambda at: slide.read_region(*at, 0, 30, 30), boxes), strict=True):
            assert (rgb == PIXELS[y : y + 30, x : x + 30]).all()


def test_closing(tmp_path):
    slide = open_slide(write_ome(tmp_path / "a.ome.tif", [PIXELS], compression="jpeg"))
    slide.close()
    slide.close()
    with pytest.raises(ValueError, match="closed"):
        slide.read_region(0, 0, 0, 8, 8)


def test_the_cache_is_bounded_and_keeps_the_last():
    cache, tile, made = TileCache(limit=3 * 48), np.zeros((4, 4, 3), np.uint8), []

    def get(key):
        return cache.get(key, lambda: made.append(key) or tile)

    for key in (1, 2, 3, 1, 4, 1, 2):
        get(key)
    assert made == [1, 2, 3, 4, 2]
    small = TileCache(limit=1)
    assert small.get("a", lambda: tile) is small.get("a", lambda: np.ones_like(tile))


def test_who_reads_what(tmp_path):
    plain = write(tmp_path / "plain.tif")
    assert is_for_openslide(plain)
    assert openslide.accepts(plain)
    for path in (write_ome(tmp_path / "a.ome.tif", [PIXELS]), write(tmp_path / "b.tif", compression="webp")):
        assert not openslide.accepts(path)
        assert tiff.accepts(path)
