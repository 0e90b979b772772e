from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_detect import artifact, schema
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, MissingResolutionError
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap

OUTLINE = shapely.to_wkb(shapely.Point(50, 50).buffer(5))


@pytest.fixture
def cells():
    rows = [
        ("a", 0, 0, 10, 20, "NILM", 0.5, None),
        ("b", 45, 45, 55, 55, "HSIL", 0.9, OUTLINE),
        ("c", 100, 60, 130, 90, "NILM", 0.75, None),
    ]
    names = ("cell_id", *schema.BOX_COLUMNS, "label", "score", "geometry")
    fixed = {"slide_id": "S1", "class_scores": None, "support": 1}
    table = artifact.table_of([{**dict(zip(names, row, strict=True)), **fixed} for row in rows], schema.CELLS)
    return CellMap(SlideInfo("S1", Path("x.svs"), 2000, 1000, 0.5, "file", (1.0,)), table, ("NILM", "HSIL"), "m")


def test_counts_put_the_gravest_class_first(cells):
    assert list(cells.counts().items()) == [("HSIL", 1), ("NILM", 2)]
    assert len(cells) == 3


def test_density_is_per_square_millimetre(cells):
    # The slide is 1 mm by 0.5 mm.
    assert cells.density_per_mm2() == {"HSIL": 2.0, "NILM": 4.0}
    assert cells.density_per_mm2(area_um2=250_000) == {"HSIL": 4.0, "NILM": 8.0}
    with pytest.raises(ValueError, match="positive"):
        cells.density_per_mm2(area_um2=0)


def test_density_without_a_resolution_says_what_to_do(cells):
    unknown = CellMap(SlideInfo("S1", Path("x"), 10, 10, None, "missing", (1.0,)), cells.table)
    with pytest.raises(MissingResolutionError, match="--mpp"):
        unknown.density_per_mm2()


@pytest.mark.parametrize(
    ("labels", "min_score", "expected"),
    [
        (None, None, ["a", "b", "c"]),
        (["NILM"], None, ["a", "c"]),
        (None, 0.75, ["b", "c"]),
        ({"NILM", "SCC"}, 0.6, ["c"]),
        ([], None, []),
    ],
)
def test_filter(cells, labels, min_score, expected):
    assert cells.filter(labels=labels, min_score=min_score).table["cell_id"].to_pylist() == expected


def test_at_its_edge_the_map_is_pandas_and_shapely(cells):
    assert list(cells.to_pandas()["label"]) == ["NILM", "HSIL", "NILM"]
    shapes = cells.to_shapely()
    assert [shape.bounds for shape in shapes] == [(0, 0, 10, 20), (45, 45, 55, 55), (100, 60, 130, 90)]
    assert [round(shape.area) for shape in shapes] == [200, 78, 900]
    assert len(cells.filter(labels=[]).to_shapely()) == 0
    assert [row["cell_id"] for row in cells.rows(chunk=2)] == ["a", "b", "c"]


def test_what_was_written_is_read_and_no_file_name_travels(cells, tmp_path):
    again = CellMap.read(cells.write(tmp_path / "cells.parquet"))
    assert again.table.equals(cells.table)
    assert (again.classes, again.model_id) == (("NILM", "HSIL"), "m")
    assert (again.slide.slide_id, again.slide.width_px, again.slide.mpp, again.slide.path) == ("S1", 2000, 0.5, Path())


def test_a_file_that_is_no_cell_map_is_refused(cells, tmp_path):
    with pytest.raises(MissingArtifactError):
        CellMap.read(tmp_path / "cells.parquet")
    pq.write_table(pa.table(cells.table.columns, schema=schema.CELLS), tmp_path / "bare.parquet")
    with pytest.raises(DamagedArtifactError, match="slide facts"):
        CellMap.read(tmp_path / "bare.parquet")
