"""What dialects of pictures and tables mean by their fields, and which words a file gets that means nothing."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from dialect_files import FACTS, read, seen

from wsi_detect.annotations import IMPORTERS, SourceFacts
from wsi_detect.errors import LabelError

# --- VOC -----------------------------------------------------------------------------------------------------------


def voc(objects, head="<filename>a.svs</filename><size><width>640</width><height>480</height></size>"):
    return f"<annotation>{head}{objects}</annotation>"


def box(x0, y0, x1, y1, name="HSIL"):
    sides = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<object><name> {name} </name><bndbox>{sides}</bndbox></object>"


@pytest.mark.parametrize(("first_px", "expected"), [(0, (1, 1, 640, 480)), (1, (0, 0, 640, 480))])
def test_voc_counts_from_the_px_that_is_declared(tmp_path, first_px, expected):
    facts = SourceFacts(FACTS.slides, first_px=first_px)
    (entry,) = read(tmp_path, "voc", "x.xml", voc(box(1, 1, 640, 480)), facts)
    assert (tuple(entry.box), entry.source_label, entry.image_size) == (expected, "HSIL", (640, 480))


def test_voc_without_picture_name_and_size_takes_them_from_the_slides(tmp_path):
    (entry,) = read(tmp_path, "voc", "a.xml", voc(box(1, 2, 3, 4), "<size><width>0</width><height>0</height></size>"))
    assert (entry.image, entry.image_size) == ("a.svs", (2000, 1000))


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        (box(1, 2, 3, 4) + "<object><name>x</name></object>", "object 2 has no name, or no bndbox"),
        (box(1, 2, 3, 4, name=""), "object 1 has no name"),
        (box(1, 2, "wide", 4), "object 1: 'wide' is not a number"),
        (box(1, 2, "3,5", 4), "write a point for the decimal comma"),
    ],
)
def test_voc_that_means_nothing(tmp_path, objects, words):
    with pytest.raises(LabelError, match=words):
        read(tmp_path, "voc", "a.xml", voc(objects))


# --- YOLO ----------------------------------------------------------------------------------------------------------


NAMED = SourceFacts(FACTS.slides, names=("NILM", "HSIL"))


def test_yolo_boxes_and_outlines(tmp_path):
    text = "1 0.5 0.5 0.1 0.2\n\n0 0.1 0.1 0.2 0.1 0.2 0.3\n"
    first, second = read(tmp_path, "yolo", "a.txt", text, NAMED)
    assert (first.source_label, tuple(first.box), first.row) == ("HSIL", (900, 400, 1100, 600), 1)
    assert (second.source_label, tuple(second.box), second.row) == ("NILM", (200, 100, 400, 300), 3)
    assert shapely.from_wkb(second.geometry).area == pytest.approx(20_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 0.5 0.5 0.1", "line 1: 4 fields; expected 5"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 fields"),
        ("HSIL 0.5 0.5 0.1 0.1", "class 'HSIL' is not a number"),
        ("-1 0.5 0.5 0.1 0.1", "class '-1' is not a number"),
        ("2 0.5 0.5 0.1 0.1", "class 2 has no name; 2 names were given"),
        ("0 0.5 left 0.1 0.1", "'left' is not a number"),
    ],
)
def test_yolo_that_means_nothing(tmp_path, text, words):
    with pytest.raises(LabelError, match=words):
        read(tmp_path, "yolo", "a.txt", text, NAMED)


def test_yolo_needs_the_size_of_the_picture_if_there_is_a_cell(tmp_path):
    assert read(tmp_path, "yolo", "b.txt", "", NAMED) == []
    with pytest.raises(LabelError, match=r"the size of b\.svs is not known"):
        read(tmp_path, "yolo", "b.txt", "0 0.5 0.5 0.1 0.1", NAMED)


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("image,label,x0,y0,x1,y1\na.svs,HSIL,1,2,3,4\n", "cell", (1, 2, 3, 4)),
        ("slide_id;label;x0_px;y0_px;x1_px;y1_px\r\na.svs;HSIL;1;2;3;4\r\n", "cell", (1, 2, 3, 4)),
        ("image\tlabel\tx\ty\twidth\theight\na.svs\tHSIL\t1\t2\t3\t4", "cell", (1, 2, 4, 6)),
        ("image,label,x,y\na.svs,HSIL,1,2\n", "point", (1, 2, 1, 2)),
        ("label,x,y,comment\nHSIL,1,2,\n", "point", (1, 2, 1, 2)),
    ],
)
def test_a_table_says_by_its_columns_what_a_cell_is(tmp_path, text, kind, expected):
    (entry,) = read(tmp_path, "table", "a.csv", text)
    assert (entry.kind, tuple(entry.box), entry.image, entry.row) == (kind, expected, "a.svs", 2)


def test_a_table_in_parquet_with_annotators_and_ids(tmp_path):
    table = pa.table(
        {"image": ["a.svs"] * 2, "label": ["HSIL", "NILM"], "x": [1.5, 2.5], "y": [3, 4], "annotator": ["ann", None],
         "annotation_id": ["p", "q"]}
    )  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    found = list(IMPORTERS["table"].read(tmp_path / "t.parquet", FACTS))
    assert [(e.annotation_id, e.annotator, e.box.x0, e.row) for e in found] == [
        ("p", "ann", 1.5, 1),
        ("q", None, 2.5, 2),
    ]
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LabelError, match=r"t\.parquet cannot be read as Parquet"):
        list(IMPORTERS["table"].read(tmp_path / "t.parquet", FACTS))


@pytest.mark.parametrize(
    ("text", "columns", "words"),
    [
        ("image,label,x0,y0\na,b,1,2\n", {}, "has columns image, label, x0, y0; expected label, and x0 y0 x1 y1"),
        ("image,x,y\na,1,2\n", {}, "expected label"),
        ("image,label,x,y\na,b,1\n", {}, "line 2: 3 fields, the header has 4"),
        ("image,label,x,y\na,,1,2\n", {}, "row 2 has no label"),
        ('image,label,x,y\na,b,"1,5",2\n', {}, "row 2: '1,5' is not a number; write a point"),
        ("image,label,x,y\na,b,1,2\n", {"colour": "label"}, "no column of ours is called colour; ours: image, label"),
        ("image,label,x,y\na,b,1,2\n", {"label": "class"}, "it has no class"),
        ('image,label,x,y\na,"b,1,2\n', {}, "line 2: unexpected end of data"),
        ("\n", {}, "is empty"),
    ],
)
def test_a_table_that_means_nothing(tmp_path, text, columns, words):
    with pytest.raises(LabelError, match=words):
        read(tmp_path, "table", "t.csv", text, SourceFacts(FACTS.slides, columns=columns))


# --- Tianchi, CRIC, RIVA -------------------------------------------------------------------------------------------


def test_tianchi_says_where_it_was_labelled(tmp_path):
    entries = [
        {"x": 0, "y": 0, "w": 500, "h": 400, "class": "roi"},
        {"x": 10, "y": 20, "w": 30, "h": 40, "class": "LSIL"},
    ]
    assert seen(read(tmp_path, "tianchi", "a.json", json.dumps(entries))) == [
        ("1", "roi", "roi", (0, 0, 500, 400)),
        ("2", "LSIL", "cell", (10, 20, 40, 60)),
    ]
    with pytest.raises(LabelError, match="has 1 cells but no entry of class 'roi'"):
        read(tmp_path, "tianchi", "a.json", json.dumps(entries[1:]))
    with pytest.raises(LabelError, match="entry 2 lacks one of x, y, w, h, class"):
        read(tmp_path, "tianchi", "a.json", json.dumps([entries[0], {"x": 1}]))
    with pytest.raises(LabelError, match="entry 1: None is not a number"):
        read(tmp_path, "tianchi", "a.json", json.dumps([{**entries[0], "w": None}]))


def test_cric_counts_px_from_1(tmp_path):
    text = (
        "image_id,image_filename,image_doi,cell_id,bethesda_system,nucleus_x,nucleus_y\n9,a.svs,10.1,77,ASC-US,1,12\n"
    )
    cell = {"cell_id": 77, "bethesda_system": "ASC-US", "nucleus_x": 1, "nucleus_y": 12}
    content = [{"image_id": 9, "image_doi": "10.1", "image_name": "a.svs", "classifications": [cell]}]
    expected = [("77", "ASC-US", "point", (0.5, 11.5, 0.5, 11.5))]
    assert seen(read(tmp_path, "cric", "c.csv", text)) == expected
    assert seen(read(tmp_path, "cric", "c.json", json.dumps(content))) == expected
    for broken, words in (
        ([{**content[0], "classifications": 5}], "image 1 has no list of classifications"),
        ([{"classifications": [cell]}], "image 1 has no image_name"),
        ([{**content[0], "classifications": [cell, {**cell, "nucleus_x": None}]}], "cell 2 lacks nucleus_x"),
    ):
        with pytest.raises(LabelError, match=words):
            read(tmp_path, "cric", "c.json", json.dumps(broken))
    with pytest.raises(LabelError, match="expected image_filename, cell_id"):
        read(tmp_path, "cric", "c.csv", "file_name,x,y\na,1,2\n")


def test_boxes_of_riva_lie_around_their_centre(tmp_path):
    text = "image_filename,x,y,width,height,class_name,class\na.svs,60,70,100,100,ASCUS,3\n"
    assert seen(read(tmp_path, "riva", "t.csv", text)) == [("2", "ASCUS", "cell", (10, 20, 110, 120))]
    with pytest.raises(LabelError, match="it lacks class_name"):
        read(tmp_path, "riva", "t.csv", "image_filename,x,y,width,height\n")
    with pytest.raises(LabelError, match="row 2 has no class_name"):
        read(tmp_path, "riva", "t.csv", text.replace("ASCUS", ""))
