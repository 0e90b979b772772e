"""Leaks between splits: patients, slides, and pictures that look alike however they were turned or encoded."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from programs import load_program

from wsi_detect.data.leaks import (
    MAX_DISTANCE,
    Item,
    check_slides,
    distance,
    find_leaks,
    hash_file,
    hash_slide,
    image_hash,
)
from wsi_detect.errors import LabelError
from wsi_detect.testing.painter import lay_cells, paint_region, paint_slide


def field(seed: int) -> Image.Image:
    return Image.fromarray(paint_region(lay_cells(640, 480, 25, seed=seed), width=640, height=480, seed=seed))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


TURN = Image.Transpose
#: What was done to a field, and whether it is still taken for the same.
PAIRS = [
    ("identical", lambda image: image, True),
    ("re-encoded, JPEG 90", lambda image: jpeg(image, 90), True),
    ("re-encoded, JPEG 30", lambda image: jpeg(image, 30), True),
    ("half the size", lambda image: image.resize((320, 240)), True),
    ("turned by 90°", lambda image: image.transpose(TURN.ROTATE_90), True),
    ("turned by 180°", lambda image: image.transpose(TURN.ROTATE_180), True),
    ("turned by 270°", lambda image: image.transpose(TURN.ROTATE_270), True),
    ("mirrored left to right", lambda image: image.transpose(TURN.FLIP_LEFT_RIGHT), True),
    ("mirrored upside down", lambda image: image.transpose(TURN.FLIP_TOP_BOTTOM), True),
    ("mirrored and turned", lambda image: image.transpose(TURN.TRANSVERSE), True),
    ("brighter", lambda image: ImageEnhance.Brightness(image).enhance(1.1), True),
    ("darker", lambda image: ImageEnhance.Brightness(image).enhance(0.7), True),
    (
        "less contrast, re-encoded and turned",
        lambda image: jpeg(ImageEnhance.Contrast(image).enhance(0.6), 60).transpose(TURN.ROTATE_90),
        True,
    ),
    ("grey", lambda image: image.convert("L"), True),
    ("another field", lambda image: field(99), False),
    ("another field, turned", lambda image: field(98).transpose(TURN.ROTATE_90), False),
    ("its left half", lambda image: image.crop((0, 0, 320, 480)), False),
]


@pytest.mark.parametrize(("what", "change", "same"), PAIRS, ids=[name for name, *_ in PAIRS])
def test_pairs(what, change, same):
    one = field(1)
    found = distance(image_hash(np.asarray(one)), image_hash(np.asarray(change(one))))
    assert (found <= MAX_DISTANCE) is same


def test_identical_pictures_do_not_differ_at_all():
    assert distance(image_hash(np.asarray(field(1))), image_hash(np.asarray(field(1)))) == 0


def test_different_fields_are_far_from_the_limit():
    hashes = [image_hash(np.asarray(field(seed))) for seed in range(12)]
    apart = [distance(a, b) for k, a in enumerate(hashes) for b in hashes[:k]]
    assert min(apart) > MAX_DISTANCE + 15


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans())
def test_orientation_does_not_matter(seed, turns, mirrored):
    """Exact for a square whose sides are a multiple of the hash's."""
    rgb = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    other = np.rot90(rgb[:, ::-1] if mirrored else rgb, turns)
    first, second = image_hash(rgb), image_hash(np.ascontiguousarray(other))
    assert distance(first, second) <= 1  # the last digit may tip a frequency that is nearly absent
    assert distance(first, second) == distance(second, first)


def test_a_blank_picture_is_like_nothing():
    assert image_hash(np.full((100, 80, 3), 255, np.uint8)) is None
    items = [Item("a", "train"), Item("b", "val")]
    assert find_leaks(items) == []


def test_nothing_leaks_out_of_nothing():
    assert find_leaks([]) == []


def test_every_kind_of_leak_is_named_without_naming_a_patient():
    looks = image_hash(np.asarray(field(1)))
    items = [
        Item("a.png", "train", patient="Doe", slide="S1", looks=looks),
        Item("b.png", "train", patient="Doe", slide="S2", looks=looks),
        Item("c.png", "val", patient="Doe", slide="S3"),
        Item("d.png", "val", patient="Roe", slide="S1", looks=image_hash(np.asarray(field(2)))),
        Item("e.png", "test", patient="Poe", looks=looks),
    ]
    assert [str(leak) for leak in find_leaks(items)] == [
        "a.png (train) and c.png (val) are of one patient",
        "a.png (train) and d.png (val) are of one slide",
        "a.png (train) and e.png (test) look alike (0 of 255 bits differ)",
        "b.png (train) and e.png (test) look alike (0 of 255 bits differ)",
    ]


def test_the_limit_can_be_set():
    one, two = (image_hash(np.asarray(field(seed))) for seed in (1, 2))
    items = [Item("a", "train", looks=one), Item("b", "val", looks=two)]
    apart = distance(one, two)
    assert len(find_leaks(items, apart)) == 1
    assert find_leaks(items, apart - 1) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
def test_a_file_has_the_hash_of_its_picture(tmp_path, suffix):
    field(3).save(tmp_path / f"a{suffix}")
    assert distance(hash_file(tmp_path / f"a{suffix}"), image_hash(np.asarray(field(3)))) <= 8


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0 cut"])
def test_a_file_that_is_no_picture(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(LabelError, match=r"a\.jpg: the picture cannot be decoded"):
        hash_file(tmp_path / "a.jpg")


def test_a_cut_picture(tmp_path):
    field(3).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    with pytest.raises(LabelError, match=r"b\.png"):
        hash_file(tmp_path / "b.png")


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two painted slides, and the first once more as a picture."""
    folder = tmp_path_factory.mktemp("slides")
    painted = [paint_slide(folder / f"{k}.svs", width=600, height=500, n_cells=25, seed=k) for k in (1, 2)]
    pixels = paint_region(painted[0].cells, width=600, height=500, seed=1)
    Image.fromarray(pixels).save(folder / "copy.jpg", quality=80)
    (folder / "bad.svs").write_text("no slide")
    return {path.name: path for path in folder.iterdir()}


SPLIT = {"1.svs": "train", "2.svs": "val", "copy.jpg": "val", "bad.svs": "train"}


def test_a_slide_in_two_formats_is_refused(slides):
    with pytest.raises(LabelError, match=r"(?s)1 pairs.*1\.svs \(train\) and copy\.jpg \(val\).*look_alikes: report"):
        check_slides(dict(sorted(slides.items())), SPLIT, "refuse")


def test_or_reported(slides, caplog):
    (leak,) = check_slides(dict(sorted(slides.items())), SPLIT, "report")
    assert (leak.first.name, leak.second.name) == ("1.svs", "copy.jpg")
    assert "copy.jpg" in caplog.text


def test_or_not_looked_for(slides):
    assert check_slides(slides, SPLIT, "off") == []


@pytest.mark.parametrize("rule", ["refuse", "report"])
def test_on_one_side_a_copy_is_no_leak(slides, rule):
    assert check_slides(slides, dict.fromkeys(SPLIT, "train"), rule) == []


def test_what_is_no_slide_has_no_looks(slides):
    assert hash_slide(slides["bad.svs"]) is None


def test_the_script_that_measures_the_limit(tmp_path, capsys):
    for seed in (1, 2, 3):
        field(seed).save(tmp_path / f"{seed}.png")
    figures = load_program("scripts/look_alikes.py").main(tmp_path)
    assert "3 pictures, 3 pairs; the limit is 64 of 255 bits" in capsys.readouterr().out
    assert figures["turned by 90 degrees/most"] <= 4
    assert figures["of two pictures/least"] > MAX_DISTANCE
