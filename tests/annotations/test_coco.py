"""COCO files: what is read, and which words a broken one gets."""

import json

import pytest
import shapely

from wsi_detect.annotations import SourceFacts, coco
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box

NOTHING = SourceFacts({})
IMAGE = {"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}
CELL = {"id": 3, "image_id": 7, "category_id": 2, "bbox": [10, 20, 30, 40]}


def write(folder, **changed):
    content = {"images": [IMAGE], "categories": [{"id": 2, "name": "HSIL"}], "annotations": [CELL], **changed}
    path = folder / "truth.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def test_a_box_is_read_as_corners(tmp_path):
    (found,) = coco.read(write(tmp_path), NOTHING)
    assert found.box == Box(10, 20, 40, 60)
    assert (found.annotation_id, found.source_label, found.image, found.image_size, found.row) == (
        "3", "HSIL", "a.jpg", (100, 80), 1,
    )  # fmt: skip
    assert found.geometry is None


@pytest.mark.parametrize(
    ("segmentation", "kind", "area"),
    [
        ([[0, 0, 10, 0, 10, 10, 0, 10]], "Polygon", 100),
        ([[0, 0, 10, 0, 10, 10], [50, 50, 60, 50, 60, 60]], "MultiPolygon", 100),
        ({"size": [80, 100], "counts": "abc"}, None, None),
        ([], None, None),
    ],
)
def test_outlines_are_kept(tmp_path, segmentation, kind, area):
    (found,) = coco.read(write(tmp_path, annotations=[{**CELL, "segmentation": segmentation}]), NOTHING)
    shape = shapely.from_wkb(found.geometry) if found.geometry else None
    assert (shape.geom_type if shape else None) == kind
    assert (shape.area if shape else None) == area


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"images": None}, "no list of images"),
        ({"annotations": {}}, "no list of annotations"),
        ({"annotations": [CELL, {"id": 1, "image_id": 7, "category_id": 2}]}, "entry 2 of annotations lacks bbox"),
        ({"annotations": [{**CELL, "image_id": 8}]}, r"annotation 1 \(id 3\) refers to image 8"),
        ({"annotations": [{**CELL, "category_id": 9}]}, "category 9"),
        ({"annotations": [{**CELL, "bbox": [1, 2, 3]}]}, "not four numbers"),
        ({"annotations": [{**CELL, "bbox": [1, 2, "wide", 3]}]}, "not four numbers"),
        ({"annotations": [{**CELL, "iscrowd": 1}]}, "crowd region"),
        ({"annotations": [{**CELL, "segmentation": [[1, 2, 3]]}]}, "not a list of polygons"),
    ],
)
def test_a_broken_file_is_refused_with_its_row(tmp_path, changed, words):
    with pytest.raises(LabelError, match=words):
        list(coco.read(write(tmp_path, **changed), NOTHING))


@pytest.mark.parametrize(("content", "words"), [(b"{", "not valid JSON"), (b"[1]", "no COCO file")])
def test_what_is_no_coco_file_is_refused(tmp_path, content, words):
    path = tmp_path / "truth.json"
    path.write_bytes(content)
    with pytest.raises(LabelError, match=words):
        list(coco.read(path, NOTHING))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(LabelError, match=r"cannot read annotations .*gone\.json"):
        list(coco.read(tmp_path / "gone.json", NOTHING))
