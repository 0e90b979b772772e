import struct

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.errors import DamagedArtifactError
from wsi_detect.slides import jpeg
from wsi_detect.tiling.jpeg_tiles import decode_tiles, pack_tiles, unpack

SIDE = 64


def picture(height, width, seed=0):
    """A smooth picture of strong colours, so that wrong colours and shifts both show."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + seed), np.cos(y / 7), np.sin((x + y) / 11)]
    return np.stack([127 + 120 * wave for wave in waves], axis=-1).astype(np.uint8)


def encode(rgb, sampling="420"):
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=85, colorsubsampling=sampling)


class Slide:
    """A picture cut into JPEG tiles, edge tiles padded; and the pixels a decoder makes of them."""

    def __init__(self, height, width, tile, *, missing=(), sampling=("420",)):
        th, tw = self.tile = tile
        self.size = (height, width)
        rows, columns = -(-height // th), -(-width // tw)
        rgb = picture(rows * th, columns * tw)
        self.streams, self.rgb = {}, np.full_like(rgb, 255)
        for row in range(rows):
            for column in range(columns):
                where = (slice(row * th, row * th + th), slice(column * tw, column * tw + tw))
                if (row, column) in missing:
                    self.streams[row, column] = b""
                    continue
                stream = encode(rgb[where], sampling[(row + column) % len(sampling)])
                self.streams[row, column] = stream
                self.rgb[where] = simplejpeg.decode_jpeg(stream)
        self.rgb[height:] = 255
        self.rgb[:, width:] = 255

    def patch(self, x, y, side):
        """The pixels of a patch, white outside."""
        out = np.full((side, side, 3), 255, np.uint8)
        part = self.rgb[y : y + side, x : x + side]
        out[: part.shape[0], : part.shape[1]] = part
        return out

    def chunk(self, x, y, side, **changes):
        th, tw = self.tile
        inside = (min(side, self.size[0] - y), min(side, self.size[1] - x))
        rows = range(y // th, (y + inside[0] - 1) // th + 1)
        columns = range(x // tw, (x + inside[1] - 1) // tw + 1)
        values = {
            "tiles": [self.streams[row, column] for row in rows for column in columns],
            "shape": (len(rows), len(columns)),
            "tile": self.tile,
            "origin": (y % th, x % tw),
            "inside": inside,
            "colour": "ycbcr",
            **changes,
        }
        return pack_tiles(values.pop("tiles"), **values)


@pytest.fixture(scope="module")
def slide():
    return Slide(150, 130, (32, 32))


def test_the_bytes_are_those_of_the_format():
    tiles = [b"first", b"", b"third!"]
    content = pack_tiles(
        tiles, shape=(1, 3), tile=(64, 32), origin=(5, 7), inside=(50, 80), colour="rgb", tables=b"\xff\xd8\xff\xd9"
    )
    header = b"WJT1" + b"\x01\0\0\0" + b"\x01\0\x03\0\x40\0\x20\0"
    header += b"\x05\0\0\0\x07\0\0\0" + b"\x32\0\0\0\x50\0\0\0" + b"\x04\0\0\0"
    assert content == header + b"\x05\0\0\0\0\0\0\0\x06\0\0\0" + b"\xff\xd8\xff\xd9" + b"firstthird!"
    mosaic = unpack(content, 80)
    assert (mosaic.colour, mosaic.shape, mosaic.tile) == ("rgb", (1, 3), (64, 32))
    assert (mosaic.origin, mosaic.inside, mosaic.tables) == ((5, 7), (50, 80), b"\xff\xd8\xff\xd9")
    assert [mosaic.stream(0, column) for column in range(3)] == tiles


# Slide size, tile size, patch origin x, y.
@pytest.mark.parametrize(
    ("size", "tile", "x", "y"),
    [
        ((150, 130), (32, 32), 0, 0),
        ((150, 130), (32, 32), 32, 64),
        ((150, 130), (32, 32), 7, 13),
        ((150, 130), (32, 32), 66, 86),
        ((150, 130), (32, 32), 96, 128),
        ((150, 130), (24, 40), 31, 17),
        ((150, 130), (64, 64), 64, 64),
        ((150, 130), (128, 128), 50, 50),
        ((40, 20), (32, 32), 0, 0),
        ((150, 130), (8, 130), 1, 3),
    ],
)
@pytest.mark.parametrize("sampling", [("420",), ("444",), ("422", "444", "420")])
def test_a_patch_is_what_the_slide_shows(size, tile, x, y, sampling):
    slide = Slide(*size, tile, sampling=sampling)
    rgb, lost = decode_tiles(slide.chunk(x, y, SIDE), SIDE)
    assert lost == 0
    assert (rgb == slide.patch(x, y, SIDE)).all()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_window_is_that_part_of_the_patch(data):
    tile = data.draw(st.tuples(st.sampled_from([16, 24, 32, 80]), st.sampled_from([16, 24, 32, 80])))
    slide = Slide(100, 90, tile, missing={(0, 1), (2, 2)})
    x, y = data.draw(st.integers(0, 89)), data.draw(st.integers(0, 99))
    x0, x1 = sorted(data.draw(st.lists(st.integers(0, SIDE), min_size=2, max_size=2, unique=True)))
    y0, y1 = sorted(data.draw(st.lists(st.integers(0, SIDE), min_size=2, max_size=2, unique=True)))
    out = np.full((y1 - y0, x1 - x0, 3), 7, np.uint8)
    rgb, lost = decode_tiles(slide.chunk(x, y, SIDE), SIDE, (x0, y0, x1, y1), out)
    assert rgb is out
    assert lost == 0
    assert (out == slide.patch(x, y, SIDE)[y0:y1, x0:x1]).all()


def split_tables(stream):
    """An abbreviated stream and its tables, as a TIFF with JPEGTables keeps them."""
    tables, rest, place = b"", stream[:2], 2
    while True:
        marker, length = stream[place + 1], struct.unpack(">H", stream[place + 2 : place + 4])[0]
        segment = stream[place : place + 2 + length]
        if marker in (0xC4, 0xDB):
            tables += segment
        elif not 0xE0 <= marker <= 0xEF:
            rest += segment
        place += 2 + length
        if marker == 0xDA:
            return rest + stream[place:], b"\xff\xd8" + tables + b"\xff\xd9"


def test_tables_are_kept_once_and_a_tile_may_bring_its_own(slide):
    whole = [slide.streams[row, column] for row in (0, 1) for column in (0, 1)]
    short, tables = zip(*map(split_tables, whole), strict=True)
    assert len(set(tables)) == 1
    mixed = [short[0], whole[1], short[2], short[3]]
    rgb, lost = decode_tiles(slide.chunk(0, 0, SIDE, tiles=mixed, tables=tables[0]), SIDE)
    assert lost == 0
    assert (rgb == slide.patch(0, 0, SIDE)).all()


def test_colours_are_as_declared_not_guessed(slide):
    """RGB data in streams without any marker: a decoder left to guess takes them for YCbCr."""
    bare = [split_tables(slide.streams[row, column]) for row in (0, 1) for column in (0, 1)]
    tiles, tables = [stream for stream, _ in bare], bare[0][1]
    as_rgb, _ = decode_tiles(slide.chunk(0, 0, SIDE, tiles=tiles, tables=tables, colour="rgb"), SIDE)
    as_ycbcr, _ = decode_tiles(slide.chunk(0, 0, SIDE, tiles=tiles, tables=tables), SIDE)
    assert (as_ycbcr == slide.patch(0, 0, SIDE)).all()
    assert np.abs(as_rgb.astype(int) - as_ycbcr).max() > 100


def test_grey_tiles_are_shown_grey():
    grey = simplejpeg.encode_jpeg(picture(64, 64)[..., :1].copy(), quality=85, colorspace="GRAY")
    content = pack_tiles([grey], shape=(1, 1), tile=(64, 64), origin=(0, 0), inside=(64, 64), colour="grey")
    rgb, lost = decode_tiles(content, 64)
    assert lost == 0
    assert (rgb == simplejpeg.decode_jpeg(grey, colorspace="GRAY")).all()


def resized(stream, height, width):
    place = stream.index(b"\xff\xc0") + 5
    return stream[:place] + struct.pack(">HH", height, width) + stream[place + 4 :]


# What a tile may have become on disk; each costs its own footprint and nothing else.
@pytest.mark.parametrize(
    "harm",
    [
        lambda stream: stream[: len(stream) // 2],
        lambda stream: stream[: len(stream) // 2] + b"\xff\xd9",
        lambda stream: resized(stream, 30000, 30000),
        lambda stream: resized(stream, 16, 16),
        lambda stream: bytes(len(stream)),
        lambda stream: b"\xff\xd8\xff\xd9",
        lambda stream: stream.replace(b"\xff\xc0", b"\xff\xc2"),
        lambda stream: b"<html>no such tile</html>",
    ],
)
def test_a_tile_the_decoder_refuses_costs_its_footprint(slide, harm):
    tiles = [slide.streams[row, column] for row in range(3) for column in range(3)]
    tiles[4] = harm(tiles[4])
    content = slide.chunk(16, 16, SIDE, tiles=tiles)
    expected = slide.patch(16, 16, SIDE)
    expected[16:48, 16:48] = 255
    rgb, lost = decode_tiles(content, SIDE)
    assert lost == 32 * 32
    assert (rgb == expected).all()
    assert decode_tiles(content, SIDE, (40, 0, 64, 20))[1] == 8 * 4
    assert decode_tiles(content, SIDE, (0, 0, 16, 64))[1] == 0


def test_a_window_decodes_only_the_tiles_it_touches(slide, monkeypatch):
    seen = []
    decode = jpeg.decode
    monkeypatch.setattr(jpeg, "decode", lambda *args, **options: seen.append(1) or decode(*args, **options))
    content = slide.chunk(16, 16, SIDE)
    for window, count in [(None, 9), ((0, 0, 16, 16), 1), ((15, 0, 17, 16), 2), ((20, 20, 40, 40), 1)]:
        seen.clear()
        decode_tiles(content, SIDE, window)
        assert len(seen) == count


# Header fields: magic, colour, zeros, rows, columns, tile h, w, origin y, x, inside h, w, bytes of tables.
GOOD = [b"WJT1", 0, bytes(3), 2, 2, 32, 32, 0, 0, 64, 64, 0]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (0, b"WJT2", "no chunk of JPEG tiles"),
        (1, 3, "another version"),
        (2, b"\0\0\1", "another version"),
        (3, 65535, "65535 x 2 tiles"),
        (4, 1, "2 x 1 tiles"),
        (5, 0, "tiles of 32 x 0 px"),
        (5, 1, "2 x 2 tiles where 64 x 2"),
        (6, 31, "2 x 2 tiles where 2 x 3"),
        (7, -1, "origin"),
        (8, 32, "origin"),
        (9, 0, "px inside"),
        (9, 65, "2 x 2 tiles where 3 x 2"),
        (10, 2**32 - 1, "tiles where"),
        (11, 2**32 - 1, "more tiles than bytes"),
        (11, 1, "do not add up"),
    ],
)
def test_a_header_that_lies_is_refused_before_memory_is_asked_for(slide, field, value, words):
    body = slide.chunk(0, 0, SIDE)[36:]
    values = list(GOOD)
    assert unpack(struct.pack("<4sB3s4H2i3I", *values) + body, SIDE).shape == (2, 2)
    values[field] = value
    with pytest.raises(DamagedArtifactError, match=words):
        decode_tiles(struct.pack("<4sB3s4H2i3I", *values) + body, SIDE)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        # Gigabytes of mosaic, gigabytes of one tile, a patch larger than the array's.
        ([65535, 65535, 1, 1, 0, 0, 65535, 65535], "65535 x 65535 tiles of 1 x 1 px for a patch of 64 px"),
        ([1, 1, 65535, 65535, 0, 0, 64, 64], "1 x 1 tiles of 65535 x 65535 px for a patch of 64 px"),
        ([2, 2, 32, 40, 0, 0, 64, 65], "for a patch of 64 px"),
    ],
)
def test_numbers_that_agree_but_are_absurd_are_refused(numbers, words):
    content = struct.pack("<4sB3s4H2i3I", b"WJT1", 0, bytes(3), *numbers, 0) + bytes(100)
    with pytest.raises(DamagedArtifactError, match=words):
        decode_tiles(content, SIDE)


def test_lengths_that_do_not_add_up_are_refused(slide):
    content = slide.chunk(0, 0, SIDE)
    for harmed in (content[:-1], content + b"\0", content[:40], content[:36], content[:35], b""):
        with pytest.raises(DamagedArtifactError):
            decode_tiles(harmed, SIDE)


# A frame or a scan within the tables could bring its own size past the checks.
@pytest.mark.parametrize(
    "tables",
    [
        b"\xff\xd8\xff\xc0\x00\x11\x08\x75\x30\x75\x30\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01\xff\xd9",
        b"\xff\xd8\xff\xda\x00\x02\xff\xd9",
        b"\xff\xd8\xff\xd0\x00\x02\xff\xd9",
        b"\xff\xd8\xff\xdb\x00\x90\xff\xd9",
        b"\xff\xd8",
        b"nonsense",
    ],
)
def test_tables_hold_tables_and_nothing_else(slide, tables):
    with pytest.raises(DamagedArtifactError, match="damaged JPEG tables"):
        decode_tiles(slide.chunk(0, 0, SIDE, tables=tables), SIDE)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 99), value=st.integers(0, 255))
def test_a_changed_byte_of_the_header_never_ends_in_another_error(place, value):
    content = bytearray(Slide(64, 64, (32, 32)).chunk(0, 0, SIDE))
    content[place] = value
    try:
        rgb, _ = decode_tiles(bytes(content), SIDE)
    except DamagedArtifactError:
        return
    assert rgb.shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("window", [(0, 0, 65, 64), (-1, 0, 8, 8), (8, 8, 8, 9), (0, 9, 8, 8)])
def test_a_window_beyond_the_patch_is_refused(slide, window):
    with pytest.raises(ValueError, match="not within a patch of 64 px"):
        decode_tiles(slide.chunk(0, 0, SIDE), SIDE, window)


@pytest.mark.parametrize(
    "out", [np.empty((64, 63, 3), np.uint8), np.empty((64, 64, 3)), np.empty((64, 128, 3), np.uint8)[:, ::2]]
)
def test_an_array_that_does_not_fit_is_refused(slide, out):
    with pytest.raises(ValueError, match="out must be a contiguous"):
        decode_tiles(slide.chunk(0, 0, SIDE), SIDE, None, out)


@pytest.mark.parametrize(
    "changes",
    [{"tiles": [b""]}, {"tile": (0, 32)}, {"origin": (32, 0)}, {"inside": (0, 64)}, {"inside": (64, 65)}],
)
def test_numbers_that_do_not_fit_are_not_packed(slide, changes):
    with pytest.raises(ValueError, match="tiles"):
        slide.chunk(0, 0, SIDE, **changes)


@pytest.mark.parametrize("shape", [(256, 256, 3), (240, 240, 3), (7,), (1, 1, 3)])
def test_memory_to_decode_into_lies_where_the_decoder_keeps_to_the_cache(shape):
    for _ in range(5):
        memory = jpeg.buffer(shape)
        assert (memory.shape, memory.flags.c_contiguous, memory.ctypes.data % 32) == (shape, True, 16)
