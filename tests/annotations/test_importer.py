"""From a file to the table: labels translated, slides named, broken boxes reported with their rows."""

import gc
import json
import logging

import pytest

from wsi_detect import artifact, schema
from wsi_detect.annotations import ClassMap, ImportRules, import_annotations
from wsi_detect.errors import ConfigError, LabelError, UnmappedLabelError

NAN, INF = float("nan"), float("inf")


def card(folder, text="Normal: NILM\nHSIL: HSIL\nDebris: null\n"):
    folder.mkdir(exist_ok=True)
    (folder / "classes.yaml").write_text(text)
    return folder


def run(folder, cells, *, slide_ids=None, **options):
    """Import cells given as (label, [x, y, width, height]) of one image of 100 x 80 px."""
    names = sorted({label for label, _ in cells})
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
        "annotations": [
            {"id": 100 + k, "image_id": 1, "category_id": names.index(label), "bbox": bbox}
            for k, (label, bbox) in enumerate(cells)
        ],
    }
    (folder / "truth.json").write_text(json.dumps(content))
    path = import_annotations(
        folder / "truth.json", options.pop("format", "coco"), ClassMap.from_card(card(folder / "card")), folder / "out",
        {"a.jpg": "S1"} if slide_ids is None else slide_ids, ImportRules(**options),
    )  # fmt: skip
    return artifact.read_table(path, schema.ANNOTATIONS).to_pylist()


def test_labels_are_translated_and_rows_are_in_a_fixed_order(tmp_path):
    rows = run(tmp_path, [("HSIL", [50, 0, 10, 10]), ("Normal", [0, 0, 10, 20]), ("Debris", [5, 5, 5, 5])])
    assert [(r["slide_id"], r["annotation_id"], r["label"], r["source_label"]) for r in rows] == [
        ("S1", "101", "NILM", "Normal"),
        ("S1", "100", "HSIL", "HSIL"),
    ]
    assert [rows[0][name] for name in schema.BOX_COLUMNS] == [0, 0, 10, 20]
    assert all("a.jpg" not in str(row) for row in rows)


def boxes(rows, name):
    return [[row[key] for key in schema.BOX_COLUMNS] for row in rows if row["annotation_id"] == name]


@pytest.mark.parametrize(
    ("bbox", "problem", "repaired"),
    [
        ([10, 10, 0, 5], "has no area", None),
        ([15, 10, -5, 5], "has no area", [10, 10, 15, 15]),
        ([NAN, 10, 5, 5], "is not finite", None),
        ([10, 10, INF, 5], "is not finite", None),
        ([100, 10, 5, 5], "lies outside its image of 100 x 80 px", None),
        ([10, -20, 5, 5], "lies outside its image", None),
        ([90, 10, 20, 5], "reaches beyond its image", [90, 10, 100, 15]),
    ],
)
def test_broken_boxes_are_refused_with_their_row_or_dropped_or_repaired_on_purpose(
    tmp_path, caplog, bbox, problem, repaired
):
    cells = [("HSIL", [0, 0, 10, 10]), ("HSIL", bbox)]
    with pytest.raises(LabelError, match=rf"1 broken annotations: row 2 \(id 101\): box .* {problem}"):
        run(tmp_path, cells)
    assert not (tmp_path / "out").exists()
    for faulty, kept in (("drop", None), ("repair", repaired)):
        caplog.clear()
        rows = run(tmp_path, cells, faulty=faulty)
        assert "row 2 (id 101)" in caplog.text
        assert boxes(rows, "101") == ([kept] if kept else [])
        assert boxes(rows, "100") == [[0, 0, 10, 10]]


def test_rounding_at_the_edge_is_cut_without_a_word(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    assert boxes(run(tmp_path, [("HSIL", [-0.4, 10, 5, 5])]), "100") == [[0, 10, pytest.approx(4.6), 15]]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("labels", "kept", "words"),
    [
        (["HSIL", "HSIL"], "100", r"row 2 \(id 101\): lies exactly where row 1 says the same"),
        (["Normal", "HSIL"], "101", r"row 1 \(id 100\): lies exactly where row 2 says 'HSIL' there"),
    ],
)
def test_of_two_cells_at_one_place_the_gravest_is_kept(tmp_path, labels, kept, words):
    cells = [(label, [5, 5, 10, 10]) for label in labels]
    with pytest.raises(LabelError, match=words):
        run(tmp_path, cells)
    for faulty in ("drop", "repair"):
        assert [row["annotation_id"] for row in run(tmp_path, cells, faulty=faulty)] == [kept]


def test_every_broken_row_is_counted_and_twenty_are_listed(tmp_path):
    with pytest.raises(LabelError, match=r"25 broken .*row 20 .*; and 5 more;"):
        run(tmp_path, [("HSIL", [0, 0, 0, 0])] * 25)


def test_the_search_for_cycles_goes_on_after_an_import_that_failed(tmp_path):
    (tmp_path / "truncated.json").write_text("{")
    with pytest.raises(LabelError):
        import_annotations(tmp_path / "truncated.json", "coco", ClassMap(tmp_path, {"a": "HSIL"}), tmp_path, {})
    assert gc.isenabled()


def test_an_unknown_label_names_the_card(tmp_path):
    with pytest.raises(UnmappedLabelError, match=r"labels not in .*card.classes\.yaml: 'ASC', 'Odd'; give each"):
        run(tmp_path, [("Odd", [0, 0, 5, 5]), ("ASC", [0, 0, 5, 5])])


def test_an_image_without_a_slide_is_refused(tmp_path):
    with pytest.raises(LabelError, match=r"no slide id for a\.jpg"):
        run(tmp_path, [("HSIL", [0, 0, 5, 5])], slide_ids={"b.jpg": "S1"})


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'excel'; known: asap, coco, cric, "):
        run(tmp_path, [], format="excel")


def test_no_annotations_give_a_typed_table(tmp_path):
    assert run(tmp_path, []) == []


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("HSIL: Hsil\n", UnmappedLabelError, "not in the taxonomy"),
        ("no: NILM\n", LabelError, "quote it"),
        ("HSIL: 3\n", LabelError, "quote it"),
        ("Debris: null\n", LabelError, "no label is mapped"),
        ("- HSIL\n", ConfigError, "mapping"),
    ],
)
def test_a_wrong_card_is_refused(tmp_path, text, error, words):
    with pytest.raises(error, match=words):
        ClassMap.from_card(card(tmp_path / "card", text))


def test_a_card_without_classes_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"classes\.yaml"):
        ClassMap.from_card(tmp_path)


def test_a_class_map_keeps_the_cards_order(tmp_path):
    found = ClassMap.from_card(card(tmp_path / "card", "b: HSIL\na: NILM\nc: HSIL\nd: null\n"))
    assert found.classes == ("HSIL", "NILM")
    assert (found.to_taxonomy("c"), found.to_taxonomy("d")) == ("HSIL", None)
