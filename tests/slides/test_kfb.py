"""KFB: files written byte by byte after the published table, files of the writer, and what contradicts itself."""

import logging
import os
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_detect.errors import DamagedSlideError, ImplausibleResolutionError, SlideError, UnsupportedSlideError
from wsi_detect.slides import kfb, open_slide
from wsi_detect.slides.describe import describe
from wsi_detect.slides.resample import read_at_mpp
from wsi_detect.testing.contracts import check_reader
from wsi_detect.testing.kfb import HEAD_BYTES, RECORD_BYTES, write_kfb
from wsi_detect.testing.tile_cuts import CANARY, jpeg_stream

RED, GREEN, BLUE, GREY = (200, 40, 40), (40, 180, 40), (40, 40, 200), (120, 120, 120)


def flat(colour, width, height):
    return jpeg_stream(np.full((height, width, 3), colour, np.uint8))


def put(content, place, kind, value):
    struct.pack_into("<" + kind, content, place, value)


#: x, y, w, h, magnification as the bits of its float, colour: 50 x 40 px in tiles of 32, and one level of half size.
TILES = [
    (0, 0, 32, 32, 1101004800, RED),  # 20.0
    (32, 0, 18, 32, 1101004800, GREEN),
    (0, 32, 32, 8, 1101004800, BLUE),
    (32, 32, 18, 8, 1101004800, GREY),
    (0, 0, 25, 20, 1101004800 - 8388608, RED),  # 10.0: one binary exponent step
]


def by_hand(path, table=20_000, data=1_000):
    """Offsets and types after the table of the format, none of them from the writer."""
    content = {}
    head = bytearray(92)
    head[0:4] = bytes.fromhex("f101eeee")
    head[4:8] = b"KFB\x01"
    put(head, 16, "i", 5)
    put(head, 20, "i", 40)
    put(head, 24, "i", 50)
    put(head, 28, "i", 20)
    head[32:36] = b"JPG\0"
    put(head, 40, "i", 77)
    put(head, 44, "q", 1_600_000_000)
    put(head, 68, "Q", table)
    put(head, 76, "f", 0.5)
    put(head, 88, "i", 32)
    content[0] = bytes(head)
    for k, (x, y, w, h, magnification, colour) in enumerate(TILES):
        stream = flat(colour, w, h)
        content[data] = stream
        record = bytearray(64)
        record[0:4] = bytes.fromhex("f104eeee")
        for place, value in ((4, x), (8, y), (12, w), (16, h), (20, magnification), (32, len(stream))):
            put(record, place, "i", value)
        put(record, 36, "q", data - table)
        content[table + 64 * k] = bytes(record)
        data += len(stream)
    with path.open("wb") as stream:
        for place, part in content.items():
            stream.seek(place)
            stream.write(part)
    return path


def mean(reader, x, y, level=0, side=4):
    rgb, valid = reader.read_region(x, y, level, side, side)
    assert valid is None
    return rgb.reshape(-1, 3).mean(axis=0)


def check_by_hand(path):
    with open_slide(path, slide_id="S1") as slide:
        info = slide.info
        assert (info.width_px, info.height_px, info.mpp, info.mpp_source) == (50, 40, 0.5, "file")
        assert (info.mpp_key, info.objective_power, info.native_tile_px) == ("kfb header", 20, (32, 32))
        assert info.level_downsamples == (1.0, 2.0)
        assert info.vendor == "KFBio (experimental)"
        for place, colour in (((4, 4), RED), ((40, 10), GREEN), ((10, 34), BLUE), ((40, 34), GREY)):
            assert np.abs(mean(slide, *place) - colour).max() < 3
        assert np.abs(mean(slide, 40, 30, level=1) - RED).max() < 3
        assert [(level.width, level.height) for level in slide.tiles.levels] == [(50, 40), (25, 20)]


def test_a_file_made_by_hand(tmp_path):
    check_by_hand(by_hand(tmp_path / "a.kfb"))


def test_beyond_4_gb(tmp_path):
    """The table lies beyond 5 GB, the tiles 4.5 GB before it: offsets no 32 bits hold."""
    path = by_hand(tmp_path / "a.kfb", table=5 << 30)
    assert path.stat().st_size > 5 << 30
    check_by_hand(path)


def test_tiles_behind_the_table(tmp_path):
    check_by_hand(by_hand(tmp_path / "a.kfb", table=200, data=1_000))


@pytest.fixture(scope="module")
def pixels():
    y, x = np.mgrid[:210, :333]
    return np.stack([40 + x // 2, 40 + y // 2, 90 + (x + 2 * y) % 61], -1).astype(np.uint8)


@pytest.fixture
def written(pixels, tmp_path):
    return write_kfb(tmp_path / "a.kfb", pixels, tile=64)


def fields(path):
    content = path.read_bytes()
    return struct.unpack_from("<i", content, 16)[0], struct.unpack_from("<Q", content, 68)[0]


def change(path, *changes):
    content = bytearray(path.read_bytes())
    for place, kind, value in changes:
        put(content, place, kind, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("full_px", [False, True], ids=["level px", "full-resolution px"])
@pytest.mark.parametrize("whole", [False, True], ids=["cut edges", "whole edges"])
def test_both_readings_of_coordinates(full_px, whole, pixels, tmp_path):
    path = write_kfb(tmp_path / "a.kfb", pixels, tile=64, full_px=full_px, whole=whole)
    check_reader(lambda: open_slide(path, slide_id="S1"), pixels, tolerance=3)
    with open_slide(path) as slide:
        sizes = [(level.width, level.height) for level in slide.tiles.levels]
        assert slide.info.level_downsamples == (1, 2, 4, 8)
    assert sizes == [(333, 210), (167, 105), (84, 53), (42, 27)]


#: 4 x 6 tiles on level 0, 2 x 3 on level 1, 1 x 2 on level 2, 1 on level 3.
GRIDS = [(4, 6), (2, 3), (1, 2), (1, 1)]
CELLS = [
    (k, row, column) for k, (rows, columns) in enumerate(GRIDS) for row in range(rows) for column in range(columns)
]


def count(cells, level):
    return sum(k == level for k, _, _ in cells)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(missing=st.frozensets(st.sampled_from(CELLS), max_size=len(CELLS) - 1), full_px=st.booleans())
def test_missing_tiles_are_bare_glass(missing, full_px, pixels, tmp_path):
    """Any set of tiles may be missing; a level whose few tiles leave their places in doubt is not offered at all."""
    complete = write_kfb(tmp_path / "whole.kfb", pixels, tile=64)
    # A pyramid ends at its first empty level.
    ends = min(
        (k for k, (rows, columns) in enumerate(GRIDS) if count(missing, k) == rows * columns), default=len(GRIDS)
    )
    missing |= {cell for cell in CELLS if cell[0] > ends}
    path = write_kfb(tmp_path / "holes.kfb", pixels, tile=64, full_px=full_px, missing=missing)
    if ends == 0:
        with pytest.raises(DamagedSlideError):
            open_slide(path)
        return
    with open_slide(complete) as whole, open_slide(path) as slide:
        for level, step in enumerate(slide.info.level_downsamples):
            number = whole.info.level_downsamples.index(step)
            table = whole.tiles.levels[number]
            truth, _ = whole.read_region(0, 0, number, table.width, table.height)
            there = np.ones(truth.shape[:2], bool)
            for k, row, column in missing:
                if k == number:
                    there[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64] = False
            if slide.tiles.lacks(level, 0, 0, table.width, table.height):
                with pytest.raises(DamagedSlideError, match="finer levels have"):
                    slide.read_region(0, 0, level, table.width, table.height)
                continue
            rgb, valid = slide.read_region(0, 0, level, table.width, table.height)
            assert np.array_equal(np.ones_like(there) if valid is None else valid, there)
            assert np.array_equal(rgb, np.where(there[..., None], truth, 255))


def test_a_level_of_few_tiles_whose_places_are_in_doubt_is_not_offered(pixels, tmp_path):
    few = {(1, 0, 0), (1, 0, 2)}
    missing = frozenset(cell for cell in CELLS if cell[0] == 1 and cell not in few)
    with open_slide(write_kfb(tmp_path / "a.kfb", pixels, tile=64, missing=missing)) as slide:
        assert slide.info.level_downsamples == (1, 4, 8)


def test_a_resolution_nobody_wrote_is_missing(written):
    with open_slide(change(written, (76, "f", 0.0))) as slide:
        assert (slide.info.mpp, slide.info.mpp_source, slide.info.mpp_key) == (None, "missing", None)


@pytest.mark.parametrize("mpp", [0.049, 11.0, -0.25, float("nan"), float("inf")])
def test_an_implausible_resolution_is_refused(mpp, written):
    with pytest.raises(ImplausibleResolutionError):
        open_slide(change(written, (76, "f", mpp)))


@pytest.mark.parametrize(
    ("place", "kind", "value", "words"),
    [
        (7, "c", b"F", "fluorescence"),
        (32, "8s", b"HEVC", "coded as b'HEVC"),
        (32, "8s", bytes(8), "coded as"),
    ],
)
def test_what_is_not_read_says_so(place, kind, value, words, written):
    with pytest.raises(UnsupportedSlideError, match=words):
        open_slide(change(written, (place, kind, value)))


@pytest.mark.parametrize(
    ("place", "kind", "value"),
    [
        *((16, "i", value) for value in (0, -1, 20, 1_000, 2**31 - 1)),
        *((place, "i", value) for place in (20, 24) for value in (0, -1, (1 << 20) + 1, 2**31 - 1)),
        *((28, "i", value) for value in (0, -20, 19, 40, 201)),
        *((68, "Q", value) for value in (0, 91, 1 << 40, 2**64 - 1)),
        *((88, "i", value) for value in (0, -64, 15, 63, 65, 128, 4097)),
    ],
)
def test_a_header_that_cannot_be_is_refused_before_anything_is_read_by_it(place, kind, value, written):
    with pytest.raises(DamagedSlideError, match="copy the file again"):
        open_slide(change(written, (place, kind, value)))


def read_all(path):
    with open_slide(path, slide_id="S1") as slide:
        return read_at_mpp(slide, 0, 0, 384, 384)


def share(*tiles):
    return sum(w * h for w, h in tiles) / (333 * 210)


@pytest.mark.parametrize(
    ("place", "kind", "value"),
    [
        (0, "4s", bytes(4)),  # no mark
        (4, "i", 65),  # beside the grid
        (4, "i", 640),  # beyond the slide
        (8, "i", -64),
        (20, "f", 0.0),
        (20, "f", float("nan")),
        (20, "f", 15.0),
        (20, "f", 40.0),
        (20, "f", 20 / 2**10),
        (20, "f", 1e-38),
        (32, "i", 0),
        (32, "i", -1),
        (32, "i", 2**31 - 1),
        (36, "q", 0),
        (36, "q", 1 << 40),
        (36, "q", -(1 << 40)),
        (36, "q", 2**63 - 1),
        (36, "q", -(2**63)),
    ],
)
def test_a_broken_record_costs_its_tile_and_is_counted(place, kind, value, written):
    _, table = fields(written)
    found = read_all(change(written, (table + 7 * RECORD_BYTES + place, kind, value)))
    assert found.unreadable == pytest.approx(share((64, 64)))
    assert found.no_data == 0


def test_two_records_of_one_place_cost_both_tiles(written):
    _, table = fields(written)
    # The second tile of the second row says it is the third.
    found = read_all(change(written, (table + 7 * RECORD_BYTES + 4, "i", 128)))
    assert found.unreadable == pytest.approx(share((64, 64), (64, 64)))
    assert found.no_data == 0


def test_a_table_of_which_half_is_lost_is_no_table(written):
    count, table = fields(written)
    content = bytearray(written.read_bytes())
    content[table : table + (count // 2 + 1) * RECORD_BYTES] = bytes((count // 2 + 1) * RECORD_BYTES)
    written.write_bytes(content)
    with pytest.raises(DamagedSlideError, match="records of its tile table"):
        open_slide(written)


def test_positions_that_form_no_grid_are_refused(written):
    """Stitched, overlapping tiles are not what this reader can place."""
    count, table = fields(written)
    changes = [(table + k * RECORD_BYTES + 4, "i", 3 + 61 * k) for k in range(count)]
    with pytest.raises(DamagedSlideError, match="records of its tile table"):
        open_slide(change(written, *changes))


def test_a_smaller_slide_than_its_tiles_is_refused(written):
    with pytest.raises(DamagedSlideError, match="records of its tile table"):
        open_slide(change(written, (24, "i", 256)))


def test_levels_beyond_one_tile_are_left_alone(written):
    """Some writers go on halving until one px is left."""
    count, _ = fields(written)
    content = bytearray(written.read_bytes())
    for number in range(4, 10):
        content += content[-RECORD_BYTES:]
        put(content, len(content) - RECORD_BYTES + 20, "f", 20 / 2**number)
    written.write_bytes(content)
    with open_slide(change(written, (16, "i", count + 6))) as slide:
        assert slide.info.level_downsamples == (1, 2, 4, 8)


def test_a_gap_in_the_levels_is_no_pyramid(written):
    count, table = fields(written)
    with pytest.raises(DamagedSlideError, match="records of its tile table"):
        open_slide(change(written, (table + (count - 1) * RECORD_BYTES + 20, "f", 20 / 2**5)))


@pytest.mark.parametrize("end", [3, 7, 50, HEAD_BYTES - 1, HEAD_BYTES, 5_000, -1])
def test_a_cut_file_is_refused(end, written):
    written.write_bytes(written.read_bytes()[:end])
    with pytest.raises(SlideError):
        open_slide(written)


def test_a_tile_that_claims_the_rest_of_the_slide_is_not_decoded(written):
    content = bytearray(written.read_bytes())
    frame = content.index(b"\xff\xc0")
    assert struct.unpack_from(">HH", content, frame + 5) == (64, 64)
    struct.pack_into(">HH", content, frame + 5, 210, 333)
    written.write_bytes(content)
    with open_slide(written) as slide, pytest.raises(DamagedSlideError, match="declares 333 x 210 px"):
        slide.read_region(0, 0, 0, 8, 8)


def test_a_file_with_nothing_left_out_is_all_valid(written):
    found = read_all(written)
    assert (found.no_data, found.unreadable) == (0, 0)


def test_names_on_the_label_appear_nowhere(written, caplog):
    assert CANARY in written.read_bytes()
    with caplog.at_level(logging.DEBUG), open_slide(written) as slide:
        told = repr(slide.info) + repr(describe(slide)) + caplog.text
    assert CANARY.decode() not in told


def test_one_warning_an_opening(written, caplog):
    with open_slide(written, slide_id="S1") as slide:
        slide.read_region(0, 0, 0, 300, 200)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "S1: KFB is read experimentally" in caplog.text


def test_colours_are_what_the_streams_state(tmp_path):
    """The header is silent on them. Adobe's marker with transform 0 says the samples are RGB."""
    path = by_hand(tmp_path / "a.kfb")
    content = path.read_bytes()
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
    jfif = b"\xff\xe0\x00\x10JFIF"
    assert content.count(jfif) == 5
    stated = content.replace(jfif, marker + b"\xff\xfe\x00\x10    ")
    grown = len(marker)
    places = [place for place in range(len(stated)) if stated[place : place + 4] == b"\xff\xd8\xff\xee"]
    table = stated.index(b"\xf1\x04\xee\xee")
    stated = bytearray(stated)
    put(stated, 68, "Q", table)
    for k, place in enumerate(places):
        length = struct.unpack_from("<i", stated, table + 64 * k + 32)[0]
        put(stated, table + 64 * k + 32, "i", length + grown)
        put(stated, table + 64 * k + 36, "q", place - table)
    path.write_bytes(stated)
    with open_slide(path) as slide:
        assert {level.colour for level in slide.tiles.levels} == {"rgb"}
    with open_slide(by_hand(tmp_path / "b.kfb")) as slide:
        assert {level.colour for level in slide.tiles.levels} == {"ycbcr"}


def test_only_header_table_and_tiles_are_read(written, monkeypatch):
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *request: read.append(request) or pread(*request))
    with kfb.open(written, "S1") as slide:
        slide.read_region(0, 0, 0, 333, 210)
    label = written.read_bytes().index(CANARY)
    assert read
    assert all(place > label for _, _, place in read)
