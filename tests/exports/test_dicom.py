"""DICOM annotations, read back by highdicom and held against the standard's tables and a public validator."""

import re
import shutil
import subprocess
import sys
import time
import uuid

import highdicom.ann
import numpy as np
import pyarrow as pa
import pydicom
import pytest
import shapely
from highdicom._standard_utils import check_required_attributes, get_iod_module_map

from wsi_detect import schema
from wsi_detect.errors import ConfigError, MissingExtraError, MissingSlideError, UnsupportedSlideError
from wsi_detect.exports import dicom, dicom_codes
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import CLASSES
from wsi_detect.testing.dicom import CANARY, write_dicom

#: dciodvfy of 2022 says this of each group with 2D coordinates, though it has not the attribute that is named.
NOT_THERE = "CommonZCoordinateValue"


def many(cell_map, number):
    """Cells all over a slide of 200 000 x 100 000 px, of four classes."""
    random = np.random.default_rng(3)
    x, y = random.uniform(0, 199_900, number), random.uniform(0, 99_900, number)
    width, height = random.uniform(8, 100, (2, number))
    known = {
        "cell_id": [str(uuid.UUID(int=k + 1)) for k in range(number)],
        "slide_id": ["S1"] * number,
        **dict(zip(schema.BOX_COLUMNS, (x, y, x + width, y + height), strict=True)),
        "label": random.choice(["NILM", "ASC-US", "HSIL", "CANDIDA"], number).tolist(),
        "score": random.uniform(0, 1, number).astype(np.float32),
        "support": np.ones(number, dtype=np.int32),
    }
    columns = [pa.array(known[f.name], f.type) if f.name in known else pa.nulls(number, f.type) for f in schema.CELLS]
    return CellMap(cell_map().slide, pa.table(columns, schema=schema.CELLS), (), "model")


def read(path):
    """Cells as (id, label, shape, corners, score), and the object, as highdicom reads them."""
    found = highdicom.ann.annread(path)
    cells = []
    for group in found.AnnotationGroupSequence:
        ids = group.private_block(0x0077, "wsi-detect")[0x01].value.split("\n")
        shapes = group.get_graphic_data("2D")
        (name,), values, (unit,) = group.get_measurements()
        assert (name.value, unit.value) == ("SCORE", "1")
        assert len(ids) == group.NumberOfAnnotations == len(shapes) == len(values)
        labels, kinds = [group.label] * len(ids), [group.graphic_type.value] * len(ids)
        cells += zip(ids, labels, kinds, (s.tolist() for s in shapes), values[:, 0].tolist(), strict=True)
    return cells, found


def test_cells_are_groups_by_class_and_shape(cell_map, ids, tmp_path):
    cells, found = read(dicom.write(cell_map(), tmp_path / "cells.dcm"))
    assert cells == [
        (ids[1], "HSIL", "POLYGON", [[45, 45], [55, 45], [50, 55]], np.float32(0.7)),
        (ids[2], "TRICHOMONAS", "RECTANGLE", [[100, 60.125], [130, 60.125], [130, 90], [100, 90]], np.float32(0.35)),
        (ids[0], "NILM", "RECTANGLE", [[0, 0.25], [10.5, 0.25], [10.5, 20], [0, 20]], np.float32(0.9)),
    ]
    assert (found.SOPClassUID.name, found.Modality) == ("Microscopy Bulk Simple Annotations Storage", "ANN")
    assert (found.AnnotationCoordinateType, found.PixelOriginInterpretation) == ("2D", "VOLUME")
    group = found.get_annotation_group(number=1)
    assert (group.annotated_property_type.value, group.annotated_property_type.scheme_designator) == (
        "62061000119107",
        "SCT",
    )
    assert group.annotated_property_category.value == "49755003"
    assert (group.algorithm_identification.name, group.algorithm_type.value) == ("model", "AUTOMATIC")
    own = found.get_annotation_group(number=2).annotated_property_type
    assert (own.value, own.scheme_designator, own.meaning) == ("TRICHOMONAS", "99WSIDETECT", "Trichomonas vaginalis")


def test_boxes_at_the_far_corner_come_back_to_the_last_bit(cell_map, tmp_path):
    cells = many(cell_map, 20_000)
    begun = time.perf_counter()
    path = dicom.write(cells, tmp_path / "cells.dcm")
    assert time.perf_counter() - begun < 10
    found, _ = read(path)
    rows = {row["cell_id"]: row for row in cells.rows()}
    assert len(found) == len(rows) == 20_000
    back = np.array([[*shape[0], *shape[2]] for _, _, _, shape, _ in found])
    kept = np.array([[rows[name][column] for column in schema.BOX_COLUMNS] for name, *_ in found])
    assert kept.max() > 199_900
    assert np.array_equal(back, kept)
    assert [(label, score) for _, label, _, _, score in found] == [
        (rows[name]["label"], rows[name]["score"]) for name, *_ in found
    ]


def test_a_class_with_boxes_and_outlines_has_two_groups(cell_map, ids, tmp_path):
    three = cell_map()
    labels = pa.array(["HSIL"] * 3)
    both = CellMap(three.slide, three.table.set_column(6, schema.CELLS.field("label"), labels), (), "model")
    found, _ = read(dicom.write(both, tmp_path / "cells.dcm"))
    assert [(name, label, kind) for name, label, kind, _, _ in found] == [
        (ids[0], "HSIL", "RECTANGLE"),
        (ids[2], "HSIL", "RECTANGLE"),
        (ids[1], "HSIL", "POLYGON"),
    ]


BOX = [[45, 45], [55, 45], [55, 55], [45, 55]]


@pytest.mark.parametrize(
    ("outline", "corners"),
    [
        (shapely.Point(50, 50), BOX),
        (shapely.Polygon([(45, 45), (55, 45), (45, 45), (45, 45)]), BOX),
        (shapely.MultiPolygon([shapely.box(45, 45, 46, 46), shapely.Polygon([(47, 47), (55, 47), (55, 55)])]),
         [[47, 47], [55, 47], [55, 55]]),
        (shapely.Polygon([(45, 45), (55, 45), (50, 55)], [[(49, 47), (51, 47), (50, 48)]]),
         [[45, 45], [55, 45], [50, 55]]),
    ],
    ids=["point", "returns to its start", "parts", "hole"],
)  # fmt: skip
def test_an_outline_is_one_simple_polygon_or_else_the_box(cell_map, outline, corners, tmp_path):
    found, _ = read(dicom.write(cell_map(outline=shapely.to_wkb(outline)), tmp_path / "cells.dcm"))
    assert [shape for _, label, _, shape, _ in found if label == "HSIL"] == [corners]


def test_a_map_without_cells_is_a_file_without_groups(cell_map, tmp_path):
    found, read_back = read(dicom.write(cell_map(number=0), tmp_path / "cells.dcm"))
    assert found == []
    assert "AnnotationGroupSequence" in read_back


def uids(path):
    tags = pydicom.dcmread(path)
    return {
        "study": tags.StudyInstanceUID,
        "series": tags.SeriesInstanceUID,
        "image": tags.ReferencedImageSequence[0].ReferencedSOPInstanceUID,
        "object": tags.SOPInstanceUID,
        "group": tags.AnnotationGroupSequence[0].AnnotationGroupUID,
    }


@pytest.mark.parametrize(
    ("other", "options", "changed"),
    [
        (lambda make: make(), {}, set()),
        (lambda make: make(mpp=None), {}, set()),
        (lambda make: make(number=2), {}, {"object", "group"}),
        (lambda make: make(outline=None), {}, {"object", "group"}),
        (lambda make: make(), {"date": "20250131"}, {"object", "group"}),
        (lambda make: CellMap(make().slide, make().table, (), "other"), {}, {"series", "object", "group"}),
        (lambda make: make(slide_id="S2"), {}, {"study", "series", "image", "object", "group"}),
    ],
    ids=["nothing", "resolution", "cells", "outline", "date", "model", "slide"],
)
def test_uids_change_with_what_they_name(cell_map, other, options, changed, tmp_path):
    first = uids(dicom.write(cell_map(), tmp_path / "a.dcm"))
    second = uids(dicom.write(other(cell_map), tmp_path / "b.dcm", **options))
    assert {name for name in first if first[name] != second[name]} == changed
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in [*first.values(), *second.values()])
    assert ((tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()) == (not changed)


def test_no_patient_and_no_time(cell_map, tmp_path):
    path = dicom.write(cell_map(), tmp_path / "cells.dcm")
    everything = list(pydicom.dcmread(path).iterall())
    assert {str(e.value) for e in everything if e.VR == "PN" or e.tag.group == 0x0010} == {""}
    assert {str(e.value) for e in everything if e.VR in ("DA", "TM", "DT")} == {"", "19000101", "000000"}
    assert b"Jane" not in path.read_bytes()
    assert pydicom.dcmread(dicom.write(cell_map(), path, date="20250131")).ContentDate == "20250131"


@pytest.mark.parametrize("date", ["", "2025", "2025-01-31", "20250231", "2025131 "])
def test_a_date_that_is_none_is_refused(cell_map, date, tmp_path):
    with pytest.raises(ConfigError, match="eight digits"):
        dicom.write(cell_map(), tmp_path / "cells.dcm", date=date)
    assert list(tmp_path.iterdir()) == []


def slide_file(folder, **changes):
    """A DICOM slide of a patient, 200 x 100 px."""
    tags = pydicom.dcmread(write_dicom(folder, [np.zeros((100, 200, 3), np.uint8)], levels=1))
    for name, value in changes.items():
        setattr(tags, name, value)
    path = folder / "slide.dcm"
    tags.save_as(path)
    return path


def test_a_dicom_slide_gives_its_uids_and_nothing_else(cell_map, tmp_path):
    source = slide_file(tmp_path, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4", SOPInstanceUID="1.2.5")
    path = dicom.write(cell_map(), tmp_path / "cells.dcm", source=source)
    found = uids(path)
    assert (found["study"], found["image"]) == ("1.2.3", "1.2.5")
    assert pydicom.dcmread(path).ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.4"
    assert CANARY.encode() not in path.read_bytes()
    assert b"slide.dcm" not in path.read_bytes()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"TotalPixelMatrixRows": 50}, UnsupportedSlideError, "200 x 100 px"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"}, UnsupportedSlideError, "not level 0"),
        ({"StudyInstanceUID": None}, UnsupportedSlideError, "ValueError"),
        (b"no DICOM", UnsupportedSlideError, "not a DICOM file"),
        (None, MissingSlideError, "does not exist"),
    ],
)
def test_another_file_than_the_slides_is_refused(cell_map, changes, error, message, tmp_path):
    path = tmp_path / "in" / "slide.dcm"
    if isinstance(changes, dict):
        slide_file(path.parent, **changes)
    elif changes is not None:
        path.parent.mkdir()
        path.write_bytes(changes)
    with pytest.raises(error, match=message) as caught:
        dicom.write(cell_map(), tmp_path / "cells.dcm", source=path)
    assert CANARY not in str(caught.value)
    assert not (tmp_path / "cells.dcm").exists()


def test_odd_names_fit_into_what_dicom_allows(cell_map, tmp_path):
    odd = cell_map(slide_id="Süd\\7\n" + "x" * 100)
    path = dicom.write(CellMap(odd.slide, odd.table, (), "modèle\\" * 20), tmp_path / "cells.dcm")
    _, found = read(path)
    assert found.ContentDescription == f"Cells of slide Süd/7{'x' * 43}"
    assert found.AnnotationGroupSequence[0].algorithm_identification.name == "modèle/" * 8


def test_without_highdicom_the_extra_is_named(cell_map, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    monkeypatch.setitem(sys.modules, "highdicom.ann", None)
    with pytest.raises(MissingExtraError, match=re.escape('pip install "wsi-detect[dicom]"')):
        dicom.write(cell_map(), tmp_path / "cells.dcm")


def test_every_attribute_the_standard_requires_is_there(cell_map, tmp_path):
    found = pydicom.dcmread(dicom.write(cell_map(), tmp_path / "cells.dcm"))
    modules = get_iod_module_map()["microscopy-bulk-simple-annotations"]
    required = [module["key"] for module in modules if module["usage"] == "M"]
    assert len(required) == 9
    for module in required:
        check_required_attributes(found, module=module)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian's dicom3tools) is not installed")
@pytest.mark.parametrize("number", [1, 3])
def test_dciodvfy_finds_no_error(cell_map, number, tmp_path):
    path = dicom.write(cell_map(number=number), tmp_path / "cells.dcm")
    said = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, timeout=60).stderr
    assert "MicroscopyBulkSimpleAnnotations" in said
    assert [line for line in said.splitlines() if line.startswith("Error") and NOT_THERE not in line] == []
    assert all(element.keyword != NOT_THERE for element in pydicom.dcmread(path).iterall())


# Verhoeff's check digit, which every SNOMED CT code ends with.
def verhoeff(code):
    multiply = [[0] * 10 for _ in range(10)]
    for a in range(10):
        for b in range(10):
            turn = (a + b if a < 5 else a - b) % 5
            multiply[a][b] = turn + 5 * ((a >= 5) != (b >= 5))
    shift = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)
    permutation = [list(range(10))]
    for _ in range(7):
        permutation.append([shift[digit] for digit in permutation[-1]])
    check = 0
    for k, digit in enumerate(reversed(code)):
        check = multiply[check][permutation[k % 8][int(digit)]]
    return check == 0


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_a_term_dicom_can_hold(name):
    for term in (dicom_codes.kind(name), dicom_codes.category(name)):
        assert 0 < len(term.value) <= 16
        assert 0 < len(term.meaning) <= 64
        assert term.scheme in ("SCT", dicom_codes.SCHEME)
        assert term.scheme != "SCT" or verhoeff(term.value)


def test_the_check_digit_finds_a_wrong_code():
    assert verhoeff("1162767002")
    assert not verhoeff("1162767003")
    assert not verhoeff("1162776002")
