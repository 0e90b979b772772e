"""Folders of files, outlines that need mending, points, areas, and readers in folders of their own."""

import json

import numpy as np
import pytest
import shapely

from wsi_detect import artifact, schema
from wsi_detect.annotations import (
    ANNOTATIONS_NAME,
    ClassMap,
    ImportRules,
    SlideFacts,
    SourceFacts,
    VoteRule,
    import_annotations,
)  # fmt: skip
from wsi_detect.annotations.rois import ROIS_NAME, read_rois
from wsi_detect.annotations.votes import VOTES_NAME, read_votes
from wsi_detect.errors import ConfigError, LabelError

SIZE = (200, 100)
BOW = [[10, 10], [30, 30], [30, 10], [10, 30], [10, 10]]


@pytest.fixture
def trial(tmp_path):
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "classes.yaml").write_text("HSIL: HSIL\nNILM: NILM\nDebris: null\n")
    (tmp_path / "in").mkdir()
    return tmp_path


def run(folder, source, form, *, slides=("a.svs", "b.svs"), **rules):
    facts = SourceFacts({name: SlideFacts(name[0].upper(), SIZE, 0.5) for name in slides}, names=("NILM", "HSIL"))
    class_map = ClassMap.from_card(folder / "card")
    path = import_annotations(folder / source, form, class_map, folder / "out", facts, ImportRules(**rules))
    return artifact.read_table(path, schema.ANNOTATIONS).to_pylist()


def polygon(*rings, label="HSIL"):
    geometry = {"type": "Polygon", "coordinates": list(rings)}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": label}}}


def square(x, y, side=10, label="HSIL"):
    return polygon([[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]], label=label)


def point(x, y):
    geometry = {"type": "Point", "coordinates": [x, y]}
    return {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "HSIL"}}}


def write(path, *features):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(features))


def box(row):
    return [row[name] for name in schema.BOX_COLUMNS]


def test_all_files_of_a_folder_are_read_and_all_their_faults_told(trial):
    (trial / "in" / "a.txt").write_text("1 0.5 0.5 0.1 0.1\n0 0.5 0.5 0 0.1\n")
    (trial / "in" / "b.txt").write_text("0 1.5 0.5 0.1 0.1\n")
    (trial / "in" / "classes.txt").write_text("NILM\nHSIL\n")
    (trial / "in" / "notes.doc").write_text("no labels")
    with pytest.raises(LabelError) as caught:
        run(trial, "in", "yolo")
    lines = str(caught.value).splitlines()
    assert "a.txt: 1 broken annotations: row 2 (id 2): box [100, 45, 100, 55] has no area" in lines[0]
    assert "b.txt: 1 broken annotations: row 1 (id 1): box [290, 45, 310, 55] lies outside its image of 200" in lines[1]
    assert not (trial / "out").exists()
    assert [(row["slide_id"], row["annotation_id"]) for row in run(trial, "in", "yolo", faulty="drop")] == [("A", "1")]


def test_a_folder_without_files_of_the_format_is_refused(trial):
    with pytest.raises(LabelError, match=r"in holds no file that ends in \.txt"):
        run(trial, "in", "yolo")


def test_ids_of_two_files_about_one_slide_are_told_apart(trial):
    write(trial / "in" / "a.geojson", square(10, 10))
    write(trial / "in" / "a.svs.geojson", square(50, 50))
    write(trial / "in" / "b.geojson", square(50, 50))
    assert [(row["slide_id"], row["annotation_id"]) for row in run(trial, "in", "geojson")] == [
        ("A", "1"), ("A", "2:1"), ("B", "1"),
    ]  # fmt: skip


def test_a_cell_that_two_files_of_a_slide_have_is_refused(trial):
    write(trial / "in" / "a.geojson", square(10, 10), square(40, 40))
    write(trial / "in" / "a.svs.geojson", square(40, 40, label="NILM"))
    with pytest.raises(LabelError, match=r"have a cell at one place: 2 and 2:1 of a\.svs; keep one of the files"):
        run(trial, "in", "geojson")


def test_one_id_of_two_cells_is_refused(trial):
    text = "image,label,annotation_id,x0,y0,x1,y1\na.svs,HSIL,7,0,0,5,5\nb.svs,HSIL,7,0,0,5,5\na.svs,NILM,7,9,9,20,20\n"
    (trial / "in" / "t.csv").write_text(text)
    with pytest.raises(LabelError, match="different annotations of a slide have one id: id 7 in rows 2 and 4"):
        run(trial, "in/t.csv", "table")


@pytest.mark.parametrize(
    ("entry", "problem", "area", "bounds"),
    [
        # A bow of two triangles of 100 px each.
        (polygon(BOW), "outline crosses itself", 200, [10, 10, 30, 30]),
        (polygon([[190, 10], [210, 10], [210, 30], [190, 30], [190, 10]]), "reaches beyond", 200, [190, 10, 200, 30]),
        (polygon([[10, 10], [20, 20], [30, 30], [10, 10]]), "outline crosses itself, or has no area", None, None),
        (polygon([[10, 10], [20, 20]]), "has an outline of 2 points", None, None),
        (polygon([[10, 10], [float("nan"), 20], [30, 10]]), "is not finite", None, None),
        (polygon([[300, 10], [310, 20], [320, 10]]), "lies outside", None, None),
    ],
)
def test_outlines_are_mended_where_that_can_be(trial, entry, problem, area, bounds):
    write(trial / "in" / "a.json", square(100, 50), entry)
    with pytest.raises(LabelError, match=rf"1 broken annotations: row 2 \(id 2\): .*{problem}"):
        run(trial, "in", "geojson")
    assert [row["annotation_id"] for row in run(trial, "in", "geojson", faulty="drop")] == ["1"]
    mended = [row for row in run(trial, "in", "geojson", faulty="repair") if row["annotation_id"] == "2"]
    assert [box(row) for row in mended] == ([] if bounds is None else [bounds])
    for row in mended:
        shape = shapely.from_wkb(row["geometry"])
        assert shape.is_valid
        assert shape.area == pytest.approx(area)
        assert list(shape.bounds) == bounds


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"point_um": 10.0}, [[0, 10, 15, 30], [90, 40, 110, 60]]),
        ({"point_px": 8.0}, [[1, 16, 9, 24], [96, 46, 104, 54]]),
    ],
)
def test_points_get_the_declared_box_cut_to_the_slide(trial, rules, expected):
    write(trial / "in" / "a.json", point(100, 50), point(5, 20))
    with pytest.raises(LabelError, match=r"2 cells are points \(the first in row 1\); say how large"):
        run(trial, "in", "geojson")
    assert [box(row) for row in run(trial, "in", "geojson", **rules)] == expected


@pytest.mark.parametrize(
    ("x", "problem"), [(201, "point .201, 5. lies outside its image"), (float("nan"), "not finite")]
)
def test_a_point_outside_is_a_fault(trial, x, problem):
    write(trial / "in" / "a.json", point(x, 5))
    with pytest.raises(LabelError, match=problem):
        run(trial, "in", "geojson", point_px=4)
    assert run(trial, "in", "geojson", point_px=4, faulty="repair") == []


@pytest.mark.parametrize("rules", [{"point_um": 1, "point_px": 1}, {"point_um": 0}, {"point_px": float("nan")}])
def test_a_size_of_points_that_means_nothing_is_refused(rules):
    with pytest.raises(ConfigError):
        ImportRules(**rules)


def test_areas_are_kept_beside_the_cells_and_an_import_without_them_removes_them(trial):
    write(trial / "in" / "a.json", square(0, 0, 60, "Region"), square(10, 10), square(30, 30, 5, "Debris"))
    rows = run(trial, "in", "geojson", roi_labels=("Region",))
    assert [box(row) for row in rows] == [[10, 10, 20, 20]]
    assert {slide: area.bounds for slide, area in read_rois(trial / "out").items()} == {"A": (0, 0, 60, 60)}
    write(trial / "in" / "a.json", square(10, 10))
    run(trial, "in", "geojson")
    assert sorted(path.name for path in (trial / "out").iterdir()) == [ANNOTATIONS_NAME]


def test_a_broken_area_is_a_fault_like_any_other(trial):
    write(trial / "in" / "a.json", polygon(BOW, label="Region"), square(10, 10))
    with pytest.raises(LabelError, match=r"row 1 .* crosses itself"):
        run(trial, "in", "geojson", roi_labels=("Region",))
    run(trial, "in", "geojson", roi_labels=("Region",), faulty="repair")
    assert read_rois(trial / "out")["A"].area == pytest.approx(200)
    run(trial, "in", "geojson", roi_labels=("Region",), faulty="drop")
    assert not (trial / "out" / ROIS_NAME).exists()


def test_readers_in_folders_of_their_own(trial):
    for reader, label in (("ann", "NILM"), ("bob", "HSIL")):
        write(trial / "in" / reader / "a.json", square(10, 10, label=label))
        write(trial / "in" / reader / "b.json", square(50, 50, label="NILM"))
    with pytest.raises(LabelError, match=r"a\.svs was read by ann, bob"):
        run(trial, "in", "geojson")
    rows = run(trial, "in", "geojson", votes=VoteRule())
    assert [(row["slide_id"], row["label"], row["annotator"]) for row in rows] == [
        ("A", "HSIL", "bob"), ("B", "NILM", "ann"),
    ]  # fmt: skip
    votes = read_votes(trial / "out")
    assert [(v.slide_id, v.annotator, v.label) for v in votes] == [
        ("A", "ann", "NILM"), ("A", "bob", "HSIL"), ("B", "ann", "NILM"), ("B", "bob", "NILM"),
    ]  # fmt: skip
    assert {v.annotation_id for v in votes if v.slide_id == "A"} == {rows[0]["annotation_id"]}
    run(trial, "in/ann", "geojson")
    assert not (trial / "out" / VOTES_NAME).exists()


def test_many_outlines_keep_their_places(trial):
    """More features than are made at a time, of all kinds, so that none gets the outline of another."""
    features = [
        point(k % 190 + 4, 50) if k % 7 == 0 else square(k % 180, (k // 180) * 3 % 80, 5 + k % 3) for k in range(5000)
    ]
    write(trial / "in" / "a.json", *features)
    rows = run(trial, "in", "geojson", point_px=2, faulty="repair")
    sides = np.array([box(row) for row in rows])
    numbers = np.array([int(row["annotation_id"]) - 1 for row in rows])
    of_squares = numbers % 7 != 0
    assert len(rows) > 3000
    assert (sides[of_squares, 0] == numbers[of_squares] % 180).all()
    assert (sides[of_squares, 2] - sides[of_squares, 0] == 5 + numbers[of_squares] % 3).all()
