"""Where a slide was labelled: what is written, what is read back, what is refused."""

import numpy as np
import pyarrow as pa
import pytest
import shapely

from wsi_detect import artifact, schema
from wsi_detect.annotations.rois import ROIS_NAME, Roi, is_inside, read_rois, write_rois
from wsi_detect.errors import DamagedArtifactError, LabelError, SchemaVersionError


def test_without_a_table_every_slide_is_labelled_everywhere(tmp_path):
    assert read_rois(tmp_path) == {}


def test_areas_of_a_slide_are_united(tmp_path):
    rois = [
        Roi("B", "1", shapely.box(0, 0, 5, 5)),
        Roi("A", "2", shapely.box(5, 0, 20, 10)),
        Roi("A", "1", shapely.box(0, 0, 10, 10)),
        Roi("A", "3", shapely.box(100, 100, 101, 101)),
    ]
    path = write_rois(tmp_path, rois)
    assert path == tmp_path / ROIS_NAME
    found = read_rois(tmp_path)
    assert list(found) == ["A", "B"]
    assert found["A"].area == 201
    assert found["A"].equals(shapely.union_all([shapely.box(0, 0, 20, 10), shapely.box(100, 100, 101, 101)]))
    first = path.read_bytes()
    assert write_rois(tmp_path, reversed(rois)).read_bytes() == first


def test_no_areas_leave_no_table_of_an_earlier_import(tmp_path):
    write_rois(tmp_path, [Roi("A", "1", shapely.box(0, 0, 5, 5))])
    write_rois(tmp_path, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rois", "words"),
    [
        ([Roi("A", "1", shapely.Point(1, 1))], "region 1 of slide A is not a valid polygon"),
        ([Roi("A", "1", shapely.Polygon())], "with an area"),
        ([Roi("A", "1", shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)]))], "not a valid polygon"),
        ([Roi("A", "1", shapely.box(0, 0, 1, 1)), Roi("A", "1", shapely.box(2, 2, 3, 3))], "two regions called 1"),
    ],
)
def test_an_area_that_is_none_is_refused(tmp_path, rois, words):
    with pytest.raises(LabelError, match=words):
        write_rois(tmp_path, rois)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_table_is_named(tmp_path):
    rows = [{"slide_id": "A", "roi_id": "1", "geometry": b"no"}]
    artifact.write_table(tmp_path / ROIS_NAME, artifact.table_of(rows, schema.ROIS), schema.ROIS)
    with pytest.raises(DamagedArtifactError, match=r"rois\.parquet holds a geometry that is not WKB"):
        read_rois(tmp_path)
    pa.parquet.write_table(pa.table({"slide_id": ["A"]}), tmp_path / ROIS_NAME)
    with pytest.raises(SchemaVersionError):
        read_rois(tmp_path)


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([10, 10, 20, 20], True),
        ([80, 10, 118, 20], True),  # centre at 99
        ([82, 10, 120, 20], False),  # centre at 101
        ([80, 10, 120, 20], True),  # centre on the edge
        ([45, 45, 55, 55], False),  # in the hole
        ([300, 300, 310, 310], False),
    ],
)
def test_a_cell_belongs_to_the_area_its_centre_lies_in(box, inside):
    area = shapely.difference(shapely.box(0, 0, 100, 100), shapely.box(40, 40, 60, 60))
    assert is_inside(area, np.array([box])).tolist() == [inside]
    assert is_inside(None, np.array([box])).tolist() == [True]


def test_no_boxes_are_inside_nothing():
    for area in (None, shapely.box(0, 0, 1, 1)):
        found = is_inside(area, np.zeros((0, 4)))
        assert (found.shape, found.dtype) == ((0,), np.bool_)
