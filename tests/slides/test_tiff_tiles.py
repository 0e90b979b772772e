"""TIFF slides read from their own JPEG tiles: equal to OpenSlide to the last bit, or left to OpenSlide."""

import shutil
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiff_files as files
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsi_detect.errors import DamagedSlideError
from wsi_detect.slides import open_slide
from wsi_detect.slides.jpeg import JpegFaultError
from wsi_detect.slides.tiff_tags import check_tiff
from wsi_detect.slides.tiff_tiles import LevelSize, jpeg_tiles_of
from wsi_detect.slides.tiles import tiles_of
from wsi_detect.testing.pyramid import damage_tile

HEIGHT, WIDTH, TILE = 300, 410, files.TILE
RGB = files.texture(HEIGHT, WIDTH)
PARTS = files.cut(RGB)


def one(streams, **options):
    return lambda path: files.write(path, [(HEIGHT, WIDTH, streams)], **options)


def tabled(streams, **options):
    """Common tables in the tag, streams without."""
    both = [files.abbreviated(stream) for stream in streams]
    return one([body for _, body in both], tables=both[0][0], **options)


YCBCR = [files.encode(part) for part in PARTS]
AS_RGB = [files.encode(part, space="rgb") for part in PARTS]
MISSING = [b"" if k in (0, 3, 9, 34) else stream for k, stream in enumerate(YCBCR)]

#: Every kind of stream a scanner may write → a slide of one level made of it.
VARIANTS = {
    "4:2:0": one(YCBCR),
    "4:2:2": one([files.encode(part, subsampling="422") for part in PARTS]),
    "4:4:4": one([files.encode(part, subsampling="444") for part in PARTS]),
    "tables in the tag": tabled(YCBCR),
    "rgb with Adobe's marker": one(AS_RGB, photometric=2),
    "rgb, tables in the tag, ids R G B": tabled(AS_RGB, photometric=2),
    "rgb, tables in the tag, ids 0 1 2": tabled([files.bare(s, ids=(0, 1, 2)) for s in AS_RGB], photometric=2),
    "rgb with ids 1 2 3 and no marker": one([files.bare(s, ids=(1, 2, 3)) for s in AS_RGB], photometric=2),
    "said to be rgb, is ycbcr": one(YCBCR, photometric=2),
    "said to be ycbcr, is rgb": one(AS_RGB, photometric=6),
    "grey": one([files.encode(part, space="grey") for part in PARTS], photometric=1),
    "quality differs": one([files.encode(part, quality=30 + k) for k, part in enumerate(PARTS)]),
    "subsampling differs": one([files.encode(p, subsampling=("420", "444")[k % 2]) for k, p in enumerate(PARTS)]),
    "tables overridden": one(
        [files.abbreviated(s)[1] if k % 2 else files.encode(PARTS[k], quality=20) for k, s in enumerate(YCBCR)],
        tables=files.abbreviated(YCBCR[0])[0],
    ),
    "zeros behind the end": one([stream + b"\0" * (k % 5) for k, stream in enumerate(YCBCR)]),
    "tiles left out": one(MISSING),
    "generic": one(YCBCR, maker="generic"),
    "generic, tiles left out": one(MISSING, maker="generic"),
    "BigTIFF": one(YCBCR, maker="generic", bigtiff=True),
}

#: Left, top, width, height: aligned, unaligned, over each edge, beyond.
WINDOWS = [
    (0, 0, WIDTH, HEIGHT),
    (64, 128, 128, 64),
    (77, 33, 200, 150),
    (-20, -30, 100, 100),
    (380, 280, 90, 70),
    (409, 299, 1, 1),
    (410, 0, 30, 30),
    (-64, 0, 64, 64),
]


def both(path):
    """The slide read here, and through OpenSlide alone."""
    reader, plain = open_slide(path, mpp=0.25), open_slide(path, mpp=0.25)
    plain.tiles = None
    return reader, plain


def assert_same(left, right):
    assert np.array_equal(left[0], right[0])
    assert (left[1] is None) == (right[1] is None)
    assert left[1] is None or np.array_equal(left[1], right[1])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_tile_is_read_as_openslide_reads_it(name, tmp_path):
    reader, plain = both(VARIANTS[name](tmp_path / "a.svs"))
    with reader, plain:
        assert tiles_of(reader).levels[0] is not None
        for window in WINDOWS:
            native = reader._from_tiles(*window[:2], 0, *window[2:])
            assert native is not None
            assert_same(native, plain.read_region(*window[:2], 0, *window[2:]))
            assert_same(reader.read_region(*window[:2], 0, *window[2:]), native)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(x=st.integers(-300, 2300), y=st.integers(-300, 3100), width=st.integers(1, 600), height=st.integers(1, 600))
def test_a_real_aperio_slide_of_240_px_tiles_is_read_as_openslide_reads_it(slides_of_session, x, y, width, height):
    reader, plain = slides_of_session
    assert_same(reader._from_tiles(x, y, 0, width, height), plain.read_region(x, y, 0, width, height))


@pytest.fixture(scope="module")
def slides_of_session():
    reader, plain = both(Path(__file__).parents[1] / "fixtures" / "CMU-1-Small-Region.svs")
    with reader, plain:
        yield reader, plain


def pyramid(path, rgb, sizes, **options):
    levels = []
    for height, width in sizes:
        small = np.array(Image.fromarray(rgb).resize((width, height)))
        levels.append((height, width, [files.encode(part) for part in files.cut(small)]))
    return files.write(path, levels, **options)


@pytest.mark.parametrize("maker", ["aperio", "generic"])
@pytest.mark.parametrize(
    "sizes", [[(300, 410), (150, 205)], [(301, 411), (75, 102)], [(300, 410), (150, 205), (75, 102)]]
)
def test_coarse_levels_are_read_as_openslide_reads_them(maker, sizes, tmp_path):
    reader, plain = both(pyramid(tmp_path / "a.svs", RGB, sizes, maker=maker))
    with reader, plain:
        for level, (height, width) in enumerate(sizes):
            step = reader.info.level_downsamples[level]
            table = tiles_of(reader).levels[level]
            assert (table.width, table.height) == (width, height)
            for x, y in ((0, 0), (round(40 * step), round(70 * step)), (31, 17), (-8, -16)):
                got = reader.read_region(x, y, level, width, 90)
                assert_same(got, plain.read_region(x, y, level, width, 90))
            assert reader._from_tiles(0, 0, level, 100, 100) is not None
            assert (reader._from_tiles(1, 0, level, 9, 9) is None) == (level > 0)


@pytest.mark.parametrize("maker", ["aperio", "generic"])
def test_what_a_coarse_level_leaves_out_is_asked_of_openslide(maker, tmp_path):
    small = [b"" if k == 1 else files.encode(part) for k, part in enumerate(files.cut(RGB[::2, ::2]))]
    path = files.write(tmp_path / "a.svs", [(HEIGHT, WIDTH, YCBCR), (150, 205, small)], maker=maker)
    reader, plain = both(path)
    with reader, plain:
        assert reader._from_tiles(0, 0, 1, 205, 150) is None
        assert reader._from_tiles(0, 0, 1, 64, 150) is not None
        assert_same(reader.read_region(0, 0, 1, 205, 150), plain.read_region(0, 0, 1, 205, 150))


#: Which tiles of the finest level are there, by column and row → whether a coarser one is read natively, by place.
LEFT_OUT = {
    "nothing": (lambda x, y: True, {(0, 0): True, (205, 0): True}),
    "all": (lambda x, y: False, {(0, 0): False, (205, 0): False}),
    "the right": (lambda x, y: x < 4, {(0, 0): True, (130, 0): False, (0, 64): True}),
    "a single one": (lambda x, y: (x, y) != (1, 1), {(0, 0): False, (64, 0): True, (0, 64): True}),
}


@pytest.mark.parametrize("maker", ["aperio", "generic"])
@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_the_finest_level_leaves_out_is_left_out_where_openslide_does(name, maker, tmp_path):
    there, native = LEFT_OUT[name]
    fine = [stream if there(k % 7, k // 7) else b"" for k, stream in enumerate(YCBCR)]
    small = [files.encode(part) for part in files.cut(RGB[::2, ::2])]
    reader, plain = both(files.write(tmp_path / "a.svs", [(HEIGHT, WIDTH, fine), (150, 205, small)], maker=maker))
    with reader, plain:
        for (x, y), expected in native.items():
            assert (reader._from_tiles(2 * x, 2 * y, 1, 64, 64) is not None) == expected
            assert_same(reader.read_region(2 * x, 2 * y, 1, 64, 64), plain.read_region(2 * x, 2 * y, 1, 64, 64))


def test_a_coarse_level_may_leave_out_what_every_level_leaves_out(tmp_path):
    fine = [b"" if k % 7 >= 4 else stream for k, stream in enumerate(YCBCR)]
    small = [b"" if k % 4 >= 2 else files.encode(part) for k, part in enumerate(files.cut(RGB[::2, ::2]))]
    reader, plain = both(files.write(tmp_path / "a.svs", [(HEIGHT, WIDTH, fine), (150, 205, small)]))
    with reader, plain:
        native = reader._from_tiles(0, 0, 1, 230, 180)
        assert_same(native, plain.read_region(0, 0, 1, 230, 180))
        assert native[1].sum() == 128 * 150


def half(content, offset, length):
    return content[offset : offset + length // 2]


def resized(content, offset, length):
    stream = bytearray(content[offset : offset + length])
    place = stream.index(b"\xff\xc0") + 5
    stream[place : place + 4] = struct.pack(">HH", 30_000, 30_000)
    return bytes(stream)


def smaller(content, offset, length):
    stream = bytearray(content[offset : offset + length])
    place = stream.index(b"\xff\xc0") + 5
    stream[place : place + 4] = struct.pack(">HH", 44, 64)
    return bytes(stream)


#: What may happen to a stream → the stream instead.
FAULTS = {
    "nothing": lambda c, o, n: c[o : o + n],
    "half of it": half,
    "half of it, and an end marker": lambda c, o, n: half(c, o, n)[:-2] + b"\xff\xd9",
    "its second half zero": lambda c, o, n: half(c, o, n).ljust(n, b"\0"),
    "all of it zero": lambda c, o, n: bytes(n),
    "no end marker": lambda c, o, n: c[o : o + n - 2],
    "bytes too many": lambda c, o, n: c[o : o + n - 2] + b"\x12\x34\x56\xff\xd9",
    "a header of 30 000 x 30 000 px": resized,
    "a header smaller than the tile": smaller,
    "a stray marker": lambda c, o, n: c[o : o + n // 2] + b"\xff\xc4" + c[o + n // 2 + 2 : o + n],
    "a flipped bit": lambda c, o, n: c[o : o + n - 90] + bytes([c[o + n - 90] ^ 16]) + c[o + n - 89 : o + n],
    "a progressive stream": lambda c, o, n: files.progressive(PARTS[8]),
}


def verdict(reader, window):
    try:
        return reader.read_region(*window[:2], 0, *window[2:])
    except DamagedSlideError:
        return None


@pytest.mark.parametrize("space", ["ycbcr", "grey"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_tile_meets_the_verdict_of_openslide(fault, space, tmp_path):
    streams = YCBCR if space == "ycbcr" else [files.encode(part, space="grey") for part in PARTS]
    path = VARIANTS["4:2:0" if space == "ycbcr" else "grey"](tmp_path / "a.svs")
    with tifffile.TiffFile(path) as tiff:
        offset, length = tiff.pages[0].dataoffsets[8], tiff.pages[0].databytecounts[8]
    spoilt = FAULTS[fault](path.read_bytes(), offset, length)
    path = files.write(
        tmp_path / "b.svs",
        [(HEIGHT, WIDTH, [*streams[:8], spoilt, *streams[9:]])],
        photometric=6 if space == "ycbcr" else 1,
    )
    reader, plain = both(path)
    with reader, plain:
        for window in ((64, 64, 64, 64), (20, 20, 300, 200), (200, 0, 64, 64)):
            ours, theirs = verdict(reader, window), verdict(plain, window)
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert_same(ours, theirs)
        if "30 000" in fault:
            with pytest.raises(JpegFaultError, match="declares 30000 x 30000"):
                tiles_of(reader).tile(0, 1, 1)


@pytest.mark.parametrize(("offset", "count"), [(10**9, 500), (2**32 - 1, 2**32 - 1), (8, 2**31), (0, 500)])
def test_an_index_entry_that_leads_nowhere_costs_one_tile(offset, count, tmp_path):
    # OpenSlide reads the whole of the coarsest level when it opens a slide.
    path = pyramid(tmp_path / "a.svs", RGB, [(HEIGHT, WIDTH), (HEIGHT // 4, WIDTH // 4)])
    with tifffile.TiffFile(path, mode="r+") as tiff:
        page = tiff.pages[0]
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        offsets[8], counts[8] = offset, count
        page.tags["TileOffsets"].overwrite(offsets)
        page.tags["TileByteCounts"].overwrite(counts, dtype="I")
    reader, plain = both(path)
    with reader, plain:
        assert_same(verdict(reader, (128, 0, 200, 300)), verdict(plain, (128, 0, 200, 300)))
        assert verdict(reader, (64, 64, 64, 64)) is None
        assert verdict(plain, (64, 64, 64, 64)) is None


#: What is not read here → a slide made of it.
OTHERS = {
    "JPEG 2000": lambda path: files.retold(path, RGB, compression="aperio_jp2000_rgb", description=files.APERIO),
    "deflate": lambda path: files.retold(path, RGB, compression="deflate"),
    "progressive": one([files.progressive(part) for part in PARTS]),
    "turned": lambda path: files.retold(path, RGB, compression="jpeg", extratags=[(274, 3, 1, 6, False)]),
    "two of one size": lambda path: files.write(path, [(HEIGHT, WIDTH, YCBCR)] * 2),
    "16 bits": lambda path: files.retold(path, RGB.astype(np.uint16) * 256, compression="deflate"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_certain_is_left_to_openslide(name, tmp_path):
    with open_slide(OTHERS[name](tmp_path / "a.svs"), mpp=0.25) as reader:
        assert tiles_of(reader) is None
        rgb, valid = reader.read_region(5, 5, 0, 100, 100)
        assert rgb.shape == (100, 100, 3)
        assert valid is None


@pytest.mark.parametrize("vendor", ["ventana", "leica", "trestle", "unknown"])
def test_other_makers_overlap_their_tiles_or_know_more_than_their_tags_say(vendor, tmp_path):
    path = VARIANTS["4:2:0"](tmp_path / "a.svs")
    assert jpeg_tiles_of(path, check_tiff(path), vendor, [LevelSize(WIDTH, HEIGHT, TILE, TILE)]) is None


def test_hamamatsu_strips_are_parts_of_one_jpeg(tmp_path):
    path = files.ndpi(tmp_path / "a.ndpi", [files.texture(256, 512), files.texture(128, 256)], 8)
    reader, plain = both(path)
    with reader, plain:
        levels = tiles_of(reader).levels
        assert [level and (level.shape, level.tile_width, level.tile_height) for level in levels[:3]] == [
            ((32, 8), 64, 8),
            ((16, 4), 64, 8),
            None,
        ]
        for level in (0, 1):
            for x, y in ((0, 0), (100, 60), (-20, -4), (400, 200)):
                assert reader._from_tiles(x, y, level, 150, 90) is not None
                assert_same(reader.read_region(x, y, level, 150, 90), plain.read_region(x, y, level, 150, 90))
        assert reader._from_tiles(0, 0, 0, 20, 20) is None  # a strip more than twice as wide


def test_of_a_stack_of_hamamatsu_the_middle_plane_is_read(tmp_path):
    path = files.ndpi(tmp_path / "a.ndpi", [files.texture(256, 512)], 8, focus=(0, 4000, -4000))
    reader, plain = both(path)
    with reader, plain:
        assert_same(reader._from_tiles(0, 0, 0, 512, 256), plain.read_region(0, 0, 0, 512, 256))


def test_a_list_of_restart_markers_that_points_astray_is_noticed(tmp_path):
    path = files.ndpi(tmp_path / "a.ndpi", [files.texture(256, 512)], 8)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[65426]
        place, starts = tag.valueoffset, list(tag.value)
    starts[5] += 7
    content = bytearray(path.read_bytes())
    content[place : place + 4 * len(starts)] = struct.pack(f"<{len(starts)}I", *starts)
    path.write_bytes(content)
    reader, plain = both(path)
    with reader, plain:
        for number in range(8):
            ours, theirs = (verdict(slide, (64 * number, 0, 64, 8)) for slide in (reader, plain))
            assert (ours is None) == (theirs is None) == (number in (4, 5))
        for number in (4, 5):
            with pytest.raises(JpegFaultError, match="restart marker"):
                tiles_of(reader).tile(0, 0, number)


def test_philips_pads_its_levels_and_the_padding_is_not_the_slide(tmp_path):
    path = files.philips(tmp_path / "a.tif", [files.texture(300, 420), files.texture(150, 210), files.texture(75, 105)])
    reader, plain = both(path)
    with reader, plain:
        sizes = [(level.width, level.height, level.shape) for level in tiles_of(reader).levels]
        assert sizes == [(448, 320, (5, 7)), (224, 160, (3, 4)), (112, 80, (2, 2))]
        for level, (width, height, _) in enumerate(sizes):
            native = reader._from_tiles(0, 0, level, width + 50, height + 50)
            assert_same(native, plain.read_region(0, 0, level, width + 50, height + 50))


def test_two_threads_read_a_damaged_slide_as_one_does(painted, tmp_path):
    path = Path(shutil.copy(painted.path, tmp_path / "copy.svs"))
    damage_tile(path, column=2, row=1)
    places = [(x, y, 0, 200, 200) for x in range(0, 1500, 150) for y in range(0, 1280, 150)] * 3

    def read(reader):
        def at(place):
            try:
                return reader.read_region(*place)[0]
            except DamagedSlideError:
                return None

        return at

    for native in (True, False):
        with open_slide(path) as alone, open_slide(path) as shared, ThreadPoolExecutor(4) as pool:
            if not native:
                alone.tiles = shared.tiles = None
            expected = [read(alone)(place) for place in places]
            for one_, other in zip(expected, pool.map(read(shared), places), strict=True):
                assert (one_ is None) == (other is None)
                assert one_ is None or np.array_equal(one_, other)
        assert sum(one_ is None for one_ in expected) > 3
