"""SDPC: files written byte by byte after the published offsets, files of the writer, and what contradicts itself."""

import logging
import os
import struct
import traceback

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsi_detect.errors import DamagedSlideError, ImplausibleResolutionError, SlideError, UnsupportedSlideError
from wsi_detect.slides import open_slide, sdpc
from wsi_detect.slides.describe import describe
from wsi_detect.slides.resample import read_at_mpp
from wsi_detect.testing.contracts import check_reader
from wsi_detect.testing.sdpc import HEAD_BYTES, PATIENT_BYTES, write_sdpc
from wsi_detect.testing.tile_cuts import CANARY, jpeg_stream

RED, GREEN, BLUE, GREY = (200, 40, 40), (40, 180, 40), (40, 40, 200), (120, 120, 120)


def flat(colour, width, height):
    """A tile of one colour, its stream filled up with a comment to 1000 bytes."""
    stream = jpeg_stream(np.full((height, width, 3), colour, np.uint8))
    comment = 1_000 - len(stream) - 2
    return stream[:2] + struct.pack(">HH", 0xFFFE, comment) + bytes(comment - 2) + stream[2:]


def put(content, place, kind, value):
    struct.pack_into("<" + kind, content, place, value)


def level(tiles, across, down, width, height, following, streams):
    """A level record of 122 bytes, the lengths of its tiles, their streams."""
    record = bytearray(122)
    put(record, 0, "H", 0x4649)
    for place, value in ((10, tiles), (14, across), (18, down), (22, width), (26, height)):
        put(record, place, "I", value)
    put(record, 30, "Q", following)
    put(record, 38, "f", 1.0)
    put(record, 42, "d", 0.2068)
    return bytes(record) + b"".join(struct.pack("<i", len(s)) for s in streams) + b"".join(streams)


def by_hand(path, far=40_000):
    """50 x 40 px in tiles of 32 and a level of a quarter, at byte `far`; none of the offsets from the writer."""
    head = bytearray(153)
    put(head, 0, "H", 0x5153)
    head[2:7] = b"2.1.0"
    for place, value in (
        (18, 153),
        (30, 2),
        (34, 1),
        (38, 2),
        (42, 50),
        (46, 40),
        (50, 32),
        (54, 32),
        (58, 9),
        (62, 9),
    ):
        put(head, place, "I", value)
    head[66], head[67] = 24, 80
    put(head, 72, "f", 4.0)
    put(head, 76, "d", 0.2068)
    put(head, 84, "I", 40)
    head[104] = 0
    patient = bytearray(6808)
    put(patient, 0, "H", 0x4950)
    patient[2 : 2 + len(CANARY)] = CANARY
    put(patient, 6536, "Q", 7_000)
    macro = bytearray(123)
    put(macro, 0, "H", 0x494D)
    put(macro, 34, "Q", 100)
    put(macro, 43, "Q", 7_300)
    first = level(4, 2, 2, 50, 40, far, [flat(c, 32, 32) for c in (RED, GREEN, BLUE, GREY)])
    second = level(1, 1, 1, 13, 10, 0, [flat(BLUE, 13, 10)])
    put(head, 22, "Q", far + len(second))
    content = {0: head, 153: patient, 7_000: macro, 7_300: level(1, 1, 1, 9, 9, 8_000, [b"BM" + bytes(99)])}
    with path.open("wb") as stream:
        for place, part in (content | {8_000: first, far: second}).items():
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
        assert (info.width_px, info.height_px, info.mpp, info.mpp_source) == (50, 40, 0.2068, "file")
        assert (info.mpp_key, info.objective_power, info.native_tile_px) == ("sdpc ruler", 40, (32, 32))
        assert info.level_downsamples == (1.0, 4.0)
        assert info.vendor == "TEKSQRAY (experimental, colours of the raw JPEG)"
        for place, colour in (((4, 4), RED), ((40, 10), GREEN), ((10, 34), BLUE), ((40, 34), GREY)):
            assert np.abs(mean(slide, *place) - colour).max() < 3
        assert np.abs(mean(slide, 24, 8, level=1) - BLUE).max() < 3
        assert [(level.width, level.height) for level in slide.tiles.levels] == [(50, 40), (13, 10)]


def test_a_file_made_by_hand(tmp_path):
    check_by_hand(by_hand(tmp_path / "a.sdpc"))


def test_beyond_4_gb(tmp_path):
    path = by_hand(tmp_path / "a.sdpc", far=5 << 30)
    assert path.stat().st_size > 5 << 30
    check_by_hand(path)


@pytest.fixture(scope="module")
def pixels():
    y, x = np.mgrid[:210, :333]
    return np.stack([40 + x // 2, 40 + y // 2, 90 + (x + 2 * y) % 61], -1).astype(np.uint8)


@pytest.fixture
def written(pixels, tmp_path):
    return write_sdpc(tmp_path / "a.sdpc", pixels, tile=(64, 64))


def places(path):
    """Where the records of kind IF begin: the thumbnail, then the levels."""
    content = path.read_bytes()
    place, found = HEAD_BYTES, []
    while place:
        tag = content[place : place + 2]
        if tag == b"IF":
            found.append(place)
        place = struct.unpack_from("<Q", content, place + {b"PI": 6536, b"MI": 43, b"IF": 30}[tag])[0]
    return found


def change(path, *changes):
    content = bytearray(path.read_bytes())
    for place, kind, value in changes:
        put(content, place, kind, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("whole", [True, False], ids=["whole edges", "cut edges"])
def test_written_files_keep_the_contract(whole, pixels, tmp_path):
    path = write_sdpc(tmp_path / "a.sdpc", pixels, tile=(64, 48), whole=whole)
    check_reader(lambda: open_slide(path, slide_id="S1"), pixels, tolerance=3)
    with open_slide(path) as slide:
        assert slide.info.level_downsamples == (1, 4, 16)
        assert [(level.width, level.height) for level in slide.tiles.levels] == [(333, 210), (84, 53), (21, 14)]


CELLS = [(0, row, column) for row in range(4) for column in range(6)] + [(1, 0, 0), (1, 0, 1)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(missing=st.frozensets(st.sampled_from(CELLS), max_size=len(CELLS)))
def test_missing_tiles_are_bare_glass(missing, pixels, tmp_path):
    complete = write_sdpc(tmp_path / "whole.sdpc", pixels, tile=(64, 64))
    path = write_sdpc(tmp_path / "holes.sdpc", pixels, tile=(64, 64), missing=missing)
    with open_slide(complete) as whole, open_slide(path) as slide:
        assert slide.info.level_downsamples == (1, 4, 16)
        for number, (width, height) in enumerate([(333, 210), (84, 53), (21, 14)]):
            truth, _ = whole.read_region(0, 0, number, width, height)
            there = np.ones(truth.shape[:2], bool)
            for k, row, column in missing:
                if k == number:
                    there[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64] = False
            if slide.tiles.lacks(number, 0, 0, width, height):
                with pytest.raises(DamagedSlideError, match="finer levels have"):
                    slide.read_region(0, 0, number, width, height)
                continue
            rgb, valid = slide.read_region(0, 0, number, width, height)
            assert np.array_equal(np.ones_like(there) if valid is None else valid, there)
            assert np.array_equal(rgb, np.where(there[..., None], truth, 255))


@pytest.mark.parametrize(
    ("codec", "words"), [(1, "BMP"), (2, "PNG"), (3, "TIFF"), (4, "HEVC, .* convert it"), (9, "number 9")]
)
def test_other_tiles_than_jpeg_are_refused_by_name(codec, words, pixels, tmp_path):
    path = write_sdpc(tmp_path / "a.sdpc", pixels, codec=codec)
    with pytest.raises(UnsupportedSlideError, match=f"coded as {words}"):
        open_slide(path)


@pytest.mark.parametrize("mpp", [0.049, 11.0, -0.25, float("nan"), float("inf")])
def test_an_implausible_resolution_is_refused(mpp, written):
    with pytest.raises(ImplausibleResolutionError):
        open_slide(change(written, (76, "d", mpp)))


def test_a_resolution_nobody_wrote_is_missing(written):
    with open_slide(change(written, (76, "d", 0.0), (84, "I", 0))) as slide:
        assert (slide.info.mpp, slide.info.mpp_source, slide.info.mpp_key) == (None, "missing", None)
        assert slide.info.objective_power is None


@pytest.mark.parametrize(
    ("place", "kind", "value"),
    [
        (18, "I", 154),
        (22, "Q", 1 << 40),
        *((38, "I", value) for value in (0, 2, 4, 17, 2**32 - 1)),
        *((place, "I", value) for place in (42, 46) for value in (0, 100, 500, (1 << 20) + 1, 2**32 - 1)),
        *((place, "I", value) for place in (50, 54) for value in (0, 15, 128, 4097, 2**32 - 1)),
    ],
)
def test_a_head_that_cannot_be_is_refused_before_anything_is_read_by_it(place, kind, value, written):
    if (place, value) == (38, 2):  # fewer levels than there are: the rest is not looked for
        with open_slide(change(written, (place, kind, value))) as slide:
            assert slide.info.level_downsamples == (1, 4)
        return
    with pytest.raises(DamagedSlideError, match="copy the file again"):
        open_slide(change(written, (place, kind, value)))


@pytest.mark.parametrize(
    ("place", "kind", "value"),
    [
        (0, "H", 0),
        (10, "I", 23),
        (10, "I", 2**32 - 1),
        (14, "I", 7),
        (18, "I", 2**31),
        (22, "I", 400),
        (26, "I", 0),
        (30, "Q", 0),
        (30, "Q", HEAD_BYTES),
        (30, "Q", 1 << 50),
        (30, "Q", 2**64 - 1),
    ],
)
def test_so_is_a_level_record(place, kind, value, written):
    with pytest.raises(DamagedSlideError, match="copy the file again"):
        open_slide(change(written, (places(written)[1] + place, kind, value)))


def test_a_chain_that_bites_its_tail_ends(written):
    thumbnail, first, second, _ = places(written)
    with pytest.raises(DamagedSlideError, match="chain of records"):
        open_slide(change(written, (first + 30, "Q", thumbnail)))
    with pytest.raises(DamagedSlideError, match="chain of records"):
        open_slide(change(written, (first + 30, "Q", second), (second + 30, "Q", second)))


def test_a_ratio_nobody_wrote_is_told_by_the_sizes(written):
    with open_slide(change(written, (72, "f", 0.0))) as slide:
        assert slide.info.level_downsamples == pytest.approx((1, 333 / 84, 333 / 21))


def test_a_ratio_may_be_stated_the_other_way_round(written):
    with open_slide(change(written, (72, "f", 0.25))) as slide:
        assert slide.info.level_downsamples == (1, 4, 16)


def test_sizes_may_be_stated_in_whole_tiles(written):
    _, first, second, _ = places(written)
    sizes = [(first + 22, "I", 384), (first + 26, "I", 256), (second + 22, "I", 128), (second + 26, "I", 64)]
    with open_slide(change(written, *sizes)) as slide:
        assert slide.info.level_downsamples == (1, 4, 16)
        assert [(level.width, level.height) for level in slide.tiles.levels] == [(333, 210), (84, 53), (21, 14)]


def read_all(path):
    with open_slide(path, slide_id="S1") as slide:
        return read_at_mpp(slide, 0, 0, 384, 384)


@pytest.mark.parametrize("value", [0, -1, 3, 700, 2**31 - 1, -(2**31)])
def test_a_wrong_length_costs_its_tile_and_those_behind_it_and_is_counted(value, written):
    """Streams lie back to back: what follows a wrong length cannot be found."""
    found = read_all(change(written, (places(written)[1] + 122 + 4 * 20, "i", value)))
    lost = (64 * 2 + 64 + 13) * (210 - 192)  # the last four tiles of the last row
    assert found.unreadable == pytest.approx(lost / (333 * 210))
    assert found.no_data == 0


def test_a_tile_is_not_taken_for_its_neighbour(tmp_path):
    """All streams are of one length, and the first length is lost: in the second tile's place lies the first's."""
    path = change(by_hand(tmp_path / "a.sdpc"), (8_000 + 122, "i", 0))
    with open_slide(path, slide_id="S1") as slide:
        for x, y in ((0, 0), (32, 0), (0, 32), (32, 32)):
            with pytest.raises(DamagedSlideError):
                slide.read_region(x, y, 0, 8, 8)


def test_a_length_of_zero_is_damage_where_streams_and_room_disagree(written):
    found = read_all(change(written, (places(written)[1] + 122 + 4 * 23, "i", 0)))
    assert found.unreadable == pytest.approx(13 * 18 / (333 * 210))
    assert found.no_data == 0


@pytest.mark.parametrize("end", [1, 100, HEAD_BYTES, 7_000, 9_000, -1])
def test_a_cut_file_is_refused(end, written):
    written.write_bytes(written.read_bytes()[:end])
    with pytest.raises(SlideError):
        open_slide(written)


def attempt(path):
    """What a slide says of itself, or what is left when it cannot be opened: a traceback with all variables."""
    try:
        with open_slide(path) as slide:
            return repr(describe(slide))
    except SlideError as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


def test_the_patient_appears_nowhere(written, caplog):
    """Neither in facts, descriptions, messages, nor in what a crash would print."""
    content = written.read_bytes()
    assert content.count(CANARY) > 250
    told = []
    with caplog.at_level(logging.DEBUG):
        with open_slide(written) as slide:
            told += [repr(slide.info), repr(describe(slide)), slide.read_region(0, 0, 0, 333, 210)[0].tobytes().hex()]
        for place in (18, 22, 38, 42, 50, 104, *(p + k for p in places(written) for k in (0, 10, 30))):
            broken = bytearray(content)
            broken[place] ^= 0x41
            written.write_bytes(broken)
            told.append(attempt(written))
    told = "\n".join([*told, caplog.text])
    for form in (CANARY.decode(), CANARY.hex(), CANARY[2:12].decode()):
        assert form not in told


def test_the_patient_is_not_read(written, monkeypatch):
    read = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *request: read.append(request) or pread(*request))
    with sdpc.open(written, "S1") as slide:
        slide.read_region(0, 0, 0, 333, 210)
    end = HEAD_BYTES + PATIENT_BYTES
    inside = {(place - HEAD_BYTES, count) for _, count, place in read if place + count > HEAD_BYTES and place < end}
    assert inside == {(0, 2), (6536, 8)}


def test_one_warning_an_opening(written, caplog):
    with open_slide(written, slide_id="S1") as slide:
        slide.read_region(0, 0, 0, 300, 200)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "S1: SDPC is read experimentally" in caplog.text
