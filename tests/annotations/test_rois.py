"""Where a slide was labelled: what is written, what is read back, what is refused."""

import pyarrow as pa
import pytest
import shapely

from wsi_detect import artifact, schema
from wsi_detect.annotations.rois import ROIS_NAME, Roi, read_rois, write_rois
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
