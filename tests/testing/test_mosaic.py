"""Mosaics: fields where the table says, labels moved along, pixels that survive."""

import json

import numpy as np
import pytest
from PIL import Image

from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box
from wsi_detect.slides import open_slide
from wsi_detect.testing.demo import demo_fields
from wsi_detect.testing.mosaic import STEP_PX, build_mosaic, field_pixels, read_offsets
from wsi_detect.testing.painter import PaintedCell, paint_region

BOXES = {
    "a.png": [[10.0, 20.0, 30.0, 40.0]],
    "b.png": [[100.0, 50.0, 40.0, 40.0], [0.5, 0.25, 20.0, 20.0]],
    "c.png": [[60.0, 60.0, 20.0, 20.0]],
}
SIZES = {"a.png": (200, 150), "b.png": (180, 160), "c.png": (190, 150)}


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Three painted fields and their labels; `d.png` is labelled but not there."""
    folder = tmp_path_factory.mktemp("fields")
    images, annotations = [{"id": 9, "file_name": "d.png", "width": 10, "height": 10}], []
    for number, (name, boxes) in enumerate(BOXES.items()):
        width, height = SIZES[name]
        cells = [PaintedCell("NILM", Box(x, y, x + w, y + h)) for x, y, w, h in boxes]
        Image.fromarray(paint_region(cells, width=width, height=height, seed=number)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        annotations += [{"id": len(annotations), "image_id": number, "category_id": 4, "bbox": box} for box in boxes]
    annotations.append({"id": 99, "image_id": 9, "category_id": 4, "bbox": [0, 0, 5, 5]})
    content = {"images": images, "categories": [{"id": 4, "name": "NILM"}], "annotations": annotations}
    (folder / "labels.json").write_text(json.dumps(content))
    return [folder / name for name in BOXES], folder / "labels.json"


@pytest.fixture(scope="module")
def mosaic(fields, tmp_path_factory):
    return build_mosaic(*fields, tmp_path_factory.mktemp("mosaic") / "m.svs", mpp=0.27, columns=2)


def test_fields_lie_in_rows_at_multiples_of_64(mosaic):
    # Widest 200 → 256, highest 160 → 192; gaps of 64.
    assert [(f.name, f.x_px, f.y_px) for f in mosaic.fields] == [
        ("a.png", 64, 64),
        ("b.png", 384, 64),
        ("c.png", 64, 320),
    ]
    assert (mosaic.width, mosaic.height) == (384 + 180 + 64, 320 + 150 + 64)


def test_labels_move_along(mosaic):
    assert mosaic.cells == (
        PaintedCell("NILM", Box(74, 84, 104, 124)),
        PaintedCell("NILM", Box(484, 114, 524, 154)),
        PaintedCell("NILM", Box(384.5, 64.25, 404.5, 84.25)),
        PaintedCell("NILM", Box(124, 380, 144, 400)),
    )


def test_truth_and_offsets_are_files(mosaic):
    truth = json.loads(mosaic.truth.read_bytes())
    assert truth["images"] == [{"id": 1, "file_name": "m.svs", "width": 628, "height": 534}]
    assert [(a["field"], a["bbox"]) for a in truth["annotations"]][2] == ("b.png", [384.5, 64.25, 20.0, 20.0])
    assert read_offsets(mosaic.offsets) == mosaic.fields


def test_pixels_survive_and_glass_is_white(mosaic, fields):
    for path in fields[0]:
        with Image.open(path) as image:
            original = np.asarray(image.convert("RGB")).astype(int)
        decoded = field_pixels(mosaic, path.name)
        assert decoded.shape == original.shape
        assert np.abs(decoded - original).mean() < 2
    with open_slide(mosaic.path) as slide:
        assert slide.info.mpp == pytest.approx(0.27)
        glass, _ = slide.read_region(0, 0, 0, mosaic.width, STEP_PX)
    # The gap is whole JPEG blocks: nothing of a field rings into it.
    assert (glass == 255).all()


def test_limit_takes_the_first_fields(fields, tmp_path):
    few = build_mosaic(*fields, tmp_path / "m.svs", mpp=0.27, limit=1)
    assert [field.name for field in few.fields] == ["a.png"]
    assert len(few.cells) == 1


def test_what_is_refused(fields, tmp_path):
    paths, labels = fields
    with pytest.raises(ValueError, match="64"):
        build_mosaic(paths, labels, tmp_path / "m.svs", mpp=0.27, gap_px=10)
    with pytest.raises(ValueError, match="fields"):
        build_mosaic([], labels, tmp_path / "m.svs", mpp=0.27)
    Image.new("RGB", (30, 30)).save(tmp_path / "e.png")
    with pytest.raises(LabelError, match=r"e\.png"):
        build_mosaic([tmp_path / "e.png"], labels, tmp_path / "m.svs", mpp=0.27)


def test_the_demonstration_fields_are_complete():
    fields, labels = demo_fields()
    content = json.loads(labels.read_bytes())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    counts = {name: 0 for name in names.values()}
    for entry in content["annotations"]:
        counts[names[entry["category_id"]]] += 1
    assert [field.name for field in fields] == [entry["file_name"] for entry in content["images"]]
    assert counts == {"NILM": 152, "ASC-US": 29, "LSIL": 40, "ASC-H": 14, "HSIL": 49, "SCC": 9}
    assert sum(field.stat().st_size for field in fields) < 3_500_000
    assert "CC BY 4.0" in (fields[0].parent / "README.md").read_text()


def test_every_demonstration_field_opens_in_its_stated_size():
    fields, labels = demo_fields()
    sizes = {e["file_name"]: (e["width"], e["height"]) for e in json.loads(labels.read_bytes())["images"]}
    for field in fields:
        with Image.open(field) as image:
            assert image.size == sizes[field.name]
            image.verify()
