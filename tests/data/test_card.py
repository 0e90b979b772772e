"""The data card of a data set just built."""

from pathlib import Path

import pyarrow.compute as pc
import pytest

from wsi_detect import artifact, schema
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.data.card import CardSlide, read_card, write_card
from wsi_detect.data.card_schema import HEADINGS, PERSON, Card
from wsi_detect.data.cards import check_card, load_card
from wsi_detect.data.leaks import Item, Leak
from wsi_detect.errors import ConfigError
from wsi_detect.tiling.plan import TilingConfig


def slide(name: str, split: str, patient: str | None, **more) -> CardSlide:
    values = {"patches": 10, "unreadable": 0, "mpp": 0.25, "codec": "jpeg_tiles", "stated": True}
    said = {"patient_id": patient, "stain": "Papanicolaou", "scanner": None}
    return CardSlide(name, split, said, **{**values, **more})


@pytest.fixture
def annotations(tmp_path):
    labels = [("A", "LSIL", "low"), ("A", "NILM", "normal"), ("B", "NILM", "normal"), ("C", "NILM", "reactive")]
    rows = [
        {"slide_id": s, "annotation_id": str(k), "label": label, "source_label": said}
        | dict.fromkeys(schema.BOX_COLUMNS, 1.0)
        for k, (s, label, said) in enumerate(labels)
    ]
    path = tmp_path / "annotations.parquet"
    artifact.write_table(path, artifact.table_of(rows, schema.ANNOTATIONS), schema.ANNOTATIONS)
    return path


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "tct-lab"
    folder.mkdir()
    (folder / "classes.yaml").write_text("low: LSIL\nhigh: HSIL\nnormal: NILM\nreactive: NILM\ndirt: null\n")
    return folder


SLIDES = [slide("A", "train", "Doe"), slide("B", "train", "Doe", unreadable=2), slide("C", "val", "Roe", codec="jpeg")]


def write(folder, slides, annotations, source, **more):
    return write_card(folder, slides, annotations, source=source, tiling=TilingConfig(), **more)


def test_what_can_be_counted_is_filled_in(tmp_path, annotations, source):
    path = write(tmp_path / "card", SLIDES, annotations, source)
    facts, prose = read_card(path)
    assert list(facts) == list(Card.model_fields)
    assert tuple(line[3:] for line in prose.splitlines() if line.startswith("## ")) == HEADINGS
    assert (facts["name"], facts["specimen"]) == ("tct-lab", "cervix")
    assert set(facts["references"]) == {"files", "manifest"}
    counted = {
        key: (facts[key]["value"], facts[key]["source"], facts[key]["sure"])
        for key in ("patients", "slides", "stain", "mpp", "images", "annotations", "split_by")
    }
    assert counted == {
        "patients": (2, "manifest", "stated"),
        "slides": (3, "files", "counted"),
        "stain": ("Papanicolaou", "manifest", "stated"),
        "mpp": (0.25, "files", "counted"),
        "images": (3, "files", "counted"),
        "annotations": (4, "files", "counted"),
        "split_by": ("patient", "files", "counted"),
    }
    assert facts["classes"]["value"] == {"low": 1, "high": 0, "normal": 2, "reactive": 1}
    assert ClassMap.from_card(tmp_path / "card").labels["reactive"] == "NILM"
    built = facts["built"]
    assert built["slides"] == facts["splits"]["value"] == {"train": 2, "val": 1}
    assert built["look_alikes"] == []
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
    path = write(tmp_path / "card", SLIDES, annotations, source)
    facts, prose = read_card(path)
    open_keys = {key for key, value in facts.items() if value in (PERSON, [PERSON])}
    assert open_keys == {
        *("title", "source", "attribution", "licence", "access", "consent", "preparation", "scanner", "magnification"),
        *("image_size", "box_origin", "labelling", "readers", "known_faults", "allowed_uses", "forbidden_uses"),
    }
    assert prose.count(PERSON) == prose.count("\n#")
    faults = check_card(path.parent)
    assert {fault.split(": ")[1].split(".")[0] for fault in faults if PERSON in fault} == open_keys
    draft = load_card(path.parent, draft=True)
    assert (draft.licence.research, draft.patients.value, draft.known_faults) == ("unknown", 2, ("unknown",))
    with pytest.raises(ConfigError, match="licence: still says"):
        load_card(path.parent)


def test_a_card_that_is_complete_is_sound_when_built(tmp_path, annotations, source):
    """What a person has to add, and no more, makes the card of a built data set pass the check."""
    facts = read_card(write(tmp_path / "draft", SLIDES, annotations, source))[0]
    wanting = [key for key, value in facts.items() if value in (PERSON, [PERSON])]
    lists = {"known_faults": "[]", "allowed_uses": "[research]", "forbidden_uses": "[diagnosis]"}
    front = "".join(f"{key}: {lists.get(key, 'unknown')}\n" for key in [*wanting, "patients"])
    headings = "\n".join(f"## {heading}\n\nSaid. No dirt.\n" for heading in HEADINGS)
    (source / "README.md").write_text(f"---\n{front}---\n\n# Ours\n\n{headings}")
    built = tmp_path / "card"
    facts, _ = read_card(write(built, SLIDES, annotations, source))
    assert check_card(built) == []
    assert facts["consent"] == "unknown"
    assert facts["patients"]["value"] == 2  # the manifest knows


def test_look_alikes_that_were_let_pass_are_on_the_card(tmp_path, annotations, source):
    leak = Leak("look-alike", Item("A", "train"), Item("C", "val"), 3)
    facts, _ = read_card(write(tmp_path / "card", SLIDES, annotations, source, leaks=[leak]))
    assert facts["built"]["look_alikes"] == ["A (train) and C (val) look alike (3 of 255 bits differ)"]


def test_what_a_person_has_written_is_kept(tmp_path, annotations, source):
    licence = "{name: CC0, research: allowed, source: us, sure: stated}"
    (source / "README.md").write_text(
        f"---\nlicence: {licence}\nreferences: {{us: our laboratory}}\nimages: 99\nconsent: unknown\n---\n"
        "\n# Ours\n\nOur words.\n\n## Splits\n\nBy the day.\n"
    )
    path = write(tmp_path / "card", SLIDES, annotations, source)
    facts, prose = read_card(path)
    assert (facts["licence"]["name"], facts["images"]["value"], facts["consent"]) == ("CC0", 3, "unknown")
    assert set(facts["references"]) == {"us", "files", "manifest"}
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
    assert (facts["patients"], facts["split_by"]["value"], facts["mpp"]["sure"]) == ("unknown", "slide", "assumed")
    assert facts["built"]["groups"] == {"train": 2, "val": 1}


def test_an_empty_data_set(tmp_path, annotations, source):
    facts, _ = read_card(write(tmp_path / "card", [], annotations_of(annotations, "nobody"), source))
    values = [facts[key]["value"] for key in ("images", "annotations", "splits")]
    assert (values, facts["mpp"]) == ([0, 0, {}], "unknown")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "begins with its facts"),
        (b"# A card\n", "begins with its facts"),
        (b"---\n- a list\n---\n", "begins with its facts"),
        (b"---\na: [\n---\n", "not valid YAML"),
        (b"---\na: 2026-13-45\n---\n", "not valid YAML"),
        (b"---\na: &x [1]\nb: *x\n---\n", "aliases"),
        (b"---\na: " + b"[" * 700 + b"\n---\n", "not valid YAML"),
        (b"---\ntitle: \xff\n---\n", "not UTF-8"),
        (b"---\na: 1\n---\n" + b"x" * 1_000_001, "begins with its facts"),
    ],
)
def test_what_is_no_card(tmp_path, text, says):
    (tmp_path / "README.md").write_bytes(text)
    with pytest.raises(ConfigError, match=rf"README\.md: .*{says}"):
        read_card(tmp_path / "README.md")


def test_an_absent_card(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the data card"):
        read_card(tmp_path / "README.md")


def test_windows_lines_are_lines(tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\r\ntitle: x\r\n---\r\n# X\r\n")
    assert read_card(tmp_path / "README.md") == ({"title": "x"}, "# X\n")
