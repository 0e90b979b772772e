"""Files that people made, with the faults they have; and what our own exporters write, taken in again."""

import json
import logging
from collections import Counter
from pathlib import Path

import pytest
import shapely

from wsi_detect import artifact, schema
from wsi_detect.annotations import IMPORTERS, ClassMap, ImportRules, SlideFacts, SourceFacts, import_annotations
from wsi_detect.annotations.rois import read_rois
from wsi_detect.errors import LabelError
from wsi_detect.exports import EXPORTERS
from wsi_detect.slides import SlideInfo
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.stitcher import StitchingConfig, stitch
from wsi_detect.testing.painter import lay_cells
from wsi_detect.testing.perfect import classes_of, perfect_table
from wsi_detect.tiling.grid import TileGrid

FILES = Path(__file__).parents[1] / "fixtures" / "annotations"


@pytest.fixture
def take(tmp_path):
    def taken(name, form, labels, facts, **rules):
        (tmp_path / "classes.yaml").write_text("".join(f"{json.dumps(k)}: {v}\n" for k, v in labels.items()))
        rules = ImportRules(**rules)
        path = import_annotations(FILES / name, form, ClassMap.from_card(tmp_path), tmp_path / "out", facts, rules)
        return artifact.read_table(path, schema.ANNOTATIONS).to_pylist()

    return taken


ASAP_LABELS = {"Artifact": "null", "HSIL": "HSIL", "Group HSIL": "HSIL", "ASCH": "ASC-H", "Metaplasia": "METAPLASIA"}


def test_an_asap_file_of_a_cervical_slide(take, tmp_path):
    facts = SourceFacts({"a.mrxs": SlideFacts("S1", None, None)}, slide="a.mrxs")
    with pytest.raises(LabelError, match=r"labels not in .*classes\.yaml: 'rect'; give each"):
        take("cytologick.xml", "asap", ASAP_LABELS, facts)
    with pytest.raises(LabelError, match=r"1 broken annotations: row 3 \(id 3\): its outline crosses itself"):
        take("cytologick.xml", "asap", ASAP_LABELS, facts, roi_labels=("rect",))
    rows = take("cytologick.xml", "asap", ASAP_LABELS, facts, roi_labels=("rect",), faulty="repair")
    assert Counter(row["label"] for row in rows) == {"HSIL": 3, "METAPLASIA": 2, "ASC-H": 1}
    assert {row["source_label"] for row in rows} == set(ASAP_LABELS) - {"Artifact"}
    first = next(row for row in rows if row["annotation_id"] == "6")
    assert [first[name] for name in schema.BOX_COLUMNS] == [34992.5, 112326.0, 35035.0, 112375.0]
    assert shapely.from_wkb(first["geometry"]).bounds == (34992.5, 112326.0, 35035.0, 112375.0)
    assert len(read_rois(tmp_path / "out")["S1"].geoms) == 3


def test_a_voc_file_with_a_box_without_area(take):
    labels = {"RBC": "NILM", "WBC": "INFL", "Platelets": "REACTIVE"}
    facts = SourceFacts({"BloodImage_00343.jpg": SlideFacts("B", (640, 480))})
    with pytest.raises(LabelError, match=r"1 broken .*: row 4 \(id 4\): box \[181, 329, 181, 329\] has no area"):
        take("BloodImage_00343.xml", "voc", labels, facts)
    rows = take("BloodImage_00343.xml", "voc", labels, facts, faulty="drop")
    assert Counter(row["source_label"] for row in rows) == {"RBC": 8, "Platelets": 2, "WBC": 1}


def test_points_of_cric_with_a_cell_that_is_there_twice(take, caplog):
    caplog.set_level(logging.WARNING)
    labels = {"Negative for intraepithelial lesion": "NILM", "LSIL": "LSIL", "HSIL": "HSIL"}
    name = "5e5f9e511001c3ead65b7dc51897a1ba.png"
    facts = SourceFacts({name: SlideFacts("C", (1376, 1020), 0.25)})
    rows = take("cric.csv", "cric", labels, facts, point_um=22.5, faulty="repair")
    assert Counter(row["label"] for row in rows) == {"HSIL": 72, "LSIL": 18, "NILM": 2}
    assert "lies exactly where" in caplog.text
    cell = next(row for row in rows if row["annotation_id"] == "8825")
    assert [cell[column] for column in schema.BOX_COLUMNS] == [541.5, 683.5, 631.5, 773.5]


@pytest.fixture(scope="module")
def cell_map():
    truth, grid = lay_cells(700, 530, 12, seed=5), TileGrid(700, 530, 256, 96)
    table = stitch(perfect_table(truth, grid, slide_id="S1"), grid, StitchingConfig(), model_id="painted")
    slide = SlideInfo("S1", Path("name.svs"), 700, 530, 0.25, "file", (1.0,))
    return CellMap(slide, table, tuple(classes_of(truth)), "painted")


@pytest.mark.parametrize(
    ("exporter", "importer", "name"),
    [
        ("geojson", "geojson", "name.geojson"),
        ("geojson", "geojson", "name.geojson.gz"),
        ("asap", "asap", "name.xml"),
        ("coco", "coco", "name.json"),
        ("csv", "table", "name.csv"),
        ("parquet", "table", "name.parquet"),
    ],
)
def test_what_was_exported_can_be_corrected_and_taken_in_again(cell_map, tmp_path, exporter, importer, name):
    """Where the format keeps the cells' ids, they come back: what a reader corrected is known for what it was."""
    path = EXPORTERS[exporter](cell_map, tmp_path / name)
    facts = SourceFacts({"name.svs": SlideFacts("S1", (700, 530), 0.25), "S1": SlideFacts("S1", (700, 530), 0.25)})
    found = {(e.annotation_id, e.source_label, tuple(e.box)) for e in IMPORTERS[importer].read(path, facts)}
    boxes = [tuple(row[column] for column in schema.BOX_COLUMNS) for row in cell_map.rows()]
    ids = [row["cell_id"] for row in cell_map.rows()]
    if exporter == "coco":
        # Its ids are numbers; the cell's own is a field of its own.
        ids = [str(k) for k in range(1, len(ids) + 1)]
    expected = {(i, row["label"], box) for i, row, box in zip(ids, cell_map.rows(), boxes, strict=True)}
    assert found == expected
