"""The data card of a data set just built."""

from pathlib import Path

import pyarrow.compute as pc
import pytest

from wsi_detect import artifact, schema
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.data.card import PERSON, CardSlide, read_card, write_card
from wsi_detect.errors import ConfigError
from wsi_detect.tiling.plan import TilingConfig

TEMPLATE = Path(__file__).parents[2] / "data_cards" / "TEMPLATE.md"


def slide(name: str, split: str, patient: str | None, **more) -> CardSlide:
    values = {"patches": 10, "unreadable": 0, "mpp": 0.25, "codec": "jpeg_tiles", "stated": True}
    said = {"patient_id": patient, "stain": "Papanicolaou", "scanner": None}
    return CardSlide(name, split, said, **{**values, **more})


@pytest.fixture
def annotations(tmp_path):
    labels = [("A", "LSIL"), ("A", "NILM"), ("B", "NILM"), ("C", "NILM")]
    rows = [
        {"slide_id": s, "annotation_id": str(k), "label": label, "source_label": label}
        | dict.fromkeys(schema.BOX_COLUMNS, 1.0)
        for k, (s, label) in enumerate(labels)
    ]
    path = tmp_path / "annotations.parquet"
    artifact.write_table(path, artifact.table_of(rows, schema.ANNOTATIONS), schema.ANNOTATIONS)
    return path


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "tct-lab"
    folder.mkdir()
    (folder / "classes.yaml").write_text("low: LSIL\nhigh: HSIL\nnormal: NILM\n")
    return folder


SLIDES = [slide("A", "train", "Doe"), slide("B", "train", "Doe", unreadable=2), slide("C", "val", "Roe", codec="jpeg")]


def write(folder, slides, annotations, source):
    config = TilingConfig()
    return write_card(folder, slides, annotations, template=TEMPLATE, source=source, tiling=config)


def test_what_can_be_counted_is_filled_in(tmp_path, annotations, source):
    path = write(tmp_path / "card", SLIDES, annotations, source)
    facts, prose = read_card(path)
    keys, template = read_card(TEMPLATE)
    assert list(facts) == list(keys)
    headings = [line for line in template.splitlines() if line.startswith("#")]
    assert [line for line in prose.splitlines() if line.startswith("#")] == headings
    counted = {key: facts[key] for key in ("name", "patients", "stain", "mpp", "mpp_assumed", "images", "annotations")}
    assert counted == {
        "name": "tct-lab",
        "patients": 2,
        "stain": "Papanicolaou",
        "mpp": 0.25,
        "mpp_assumed": False,
        "images": 3,
        "annotations": 4,
    }
    assert facts["classes"] == {"HSIL": 0, "LSIL": 1, "NILM": 3}
    assert set(facts["classes"]) == set(ClassMap.from_card(tmp_path / "card").classes)
    built = facts["built"]
    assert built["slides"] == facts["splits"] == {"train": 2, "val": 1}
    assert built["groups"] == {"train": 1, "val": 1}
    assert built["patches"] == {"train": 20, "val": 10}
    assert built["unreadable_patches"] == 2
    assert built["codec"] == ["jpeg", "jpeg_tiles"]
    assert built["cells"] == {"train": {"HSIL": 0, "LSIL": 1, "NILM": 2}, "val": {"HSIL": 0, "LSIL": 0, "NILM": 1}}
    assert "| NILM | 2 | 1 |" in prose
    assert (
        tmp_path / "card" / "splits.csv"
    ).read_text() == "image,group,split\nA,G0001,train\nB,G0001,train\nC,G0002,val\n"
    assert "Doe" not in path.read_text()


def test_what_cannot_be_counted_is_left_to_a_person(tmp_path, annotations, source):
    facts, prose = read_card(write(tmp_path / "card", SLIDES, annotations, source))
    assert {key for key, value in facts.items() if value == PERSON} == {
        "title",
        "source",
        "licence",
        "attribution",
        "consent",
        "preparation",
        "scanner",
        "box_origin",
        "allowed_uses",
        "forbidden_uses",
    }
    assert prose.count(PERSON) == prose.count("\n#")


def test_what_a_person_has_written_is_kept(tmp_path, annotations, source):
    (source / "README.md").write_text(
        "---\nlicence: CC0-1.0\nimages: 99\nconsent: unknown\n---\n\n# Ours\n\nOur words.\n\n## Splits\n\nBy the day.\n"
    )
    path = write(tmp_path / "card", SLIDES, annotations, source)
    facts, prose = read_card(path)
    assert (facts["licence"], facts["images"], facts["consent"]) == ("CC0-1.0", 3, PERSON)
    assert "Our words." in prose
    assert "By the day." in prose
    (source / "README.md").write_text(path.read_text())
    assert read_card(write(tmp_path / "card", SLIDES, annotations, source)) == (facts, prose)
    _, prose = read_card(write(tmp_path / "card", SLIDES[:1], annotations_of(annotations, "A"), source))
    assert prose.count("| slides |") == 1
    assert "| slides | 1 |" in prose


def annotations_of(path: Path, name: str) -> Path:
    table = artifact.read_table(path, schema.ANNOTATIONS)
    kept = table.filter(pc.equal(table["slide_id"], name))
    artifact.write_table(path.with_name("some.parquet"), kept, schema.ANNOTATIONS)
    return path.with_name("some.parquet")


def test_slides_without_patient_are_their_own_groups(tmp_path, annotations, source):
    slides = [slide("A", "train", None), slide("B", "train", "Doe"), slide("C", "val", "Roe", stated=False)]
    facts, _ = read_card(write(tmp_path / "card", slides, annotations, source))
    assert (facts["patients"], facts["split_by"], facts["mpp_assumed"]) == ("unknown", "slide", True)
    assert facts["built"]["groups"] == {"train": 2, "val": 1}


def test_an_empty_data_set(tmp_path, annotations, source):
    facts, _ = read_card(write(tmp_path / "card", [], annotations_of(annotations, "nobody"), source))
    assert (facts["images"], facts["annotations"], facts["splits"]) == (0, 0, {})


@pytest.mark.parametrize("text", ["", "# A card\n", "---\n- a list\n---\n", "---\na: [\n---\n"])
def test_what_is_no_card(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(ConfigError, match=r"README\.md"):
        read_card(tmp_path / "README.md")
