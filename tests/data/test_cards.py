"""Cards on disk: each thing that can be wrong gives one fault, which names the file, the key and what to do."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.data.card_schema import HEADINGS
from wsi_detect.data.cards import (
    check_card,
    check_pictures,
    class_map_of,
    find_cards,
    load_card,
    own_names,
    take_card,
)
from wsi_detect.data.use import USES, allowed_uses, check_use
from wsi_detect.errors import ConfigError, LabelError, LicenceError, UnmappedLabelError
from wsi_detect.testing.painter import lay_cells, paint_region


def said(value, **more):
    return {"value": value, "source": "paper", "sure": "stated", **more}


CC_BY = {
    "name": "Creative Commons Attribution 4.0",
    "spdx": "CC-BY-4.0",
    **dict.fromkeys(("research", "commercial", "redistribution", "derivatives"), "allowed"),
    "source": "paper",
    "sure": "stated",
}
FACTS = {
    "name": "ours",
    "title": "fields of ours",
    "specimen": "cervix",
    "references": {"paper": "Doe, A journal (2026)", "files": "the files"},
    "source": said("our laboratory"),
    "attribution": said("Doe"),
    "licence": CC_BY,
    "access": "unknown",
    "consent": "unknown",
    "patients": said(2, source=["paper", "files"]),
    "slides": "unknown",
    "preparation": said("ThinPrep"),
    "stain": said("Papanicolaou"),
    "scanner": "unknown",
    "magnification": "unknown",
    "mpp": {"value": 0.25, "sure": "assumed"},
    "images": said(3, note="and one that was lost"),
    "image_size": "unknown",
    "annotations": said(30),
    "classes": said({"low": 10, "normal": 20}),
    "box_origin": said("drawn by hand"),
    "labelling": "unknown",
    "readers": "unknown",
    "splits": said({"train": 2, "val": 1}),
    "split_by": said("patient"),
    "known_faults": [],
    "allowed_uses": ["research"],
    "forbidden_uses": ["diagnosis"],
    "built": None,
}
PROSE = "".join(f"\n## {heading}\n\nWords. Of dirt.\n" for heading in HEADINGS)
CLASSES = "low: LSIL\nnormal: NILM\ndirt: null\n"
SPLITS = "image,group,split\na,G1,train\nb,G1,train\nc,G2,val\n"


def write(folder: Path, prose=PROSE, class_map: str | None = CLASSES, table: str | None = SPLITS, **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {key: value for key, value in {**FACTS, **changes}.items() if value != "ABSENT"}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n{prose}")
    for name, text in (("classes.yaml", class_map), ("splits.csv", table)):
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_a_sound_card(tmp_path):
    folder = write(tmp_path / "ours")
    assert check_card(folder) == []
    card = load_card(folder)
    assert (card.patients.value, card.patients.source) == (2, ("paper", "files"))
    assert (card.consent.value, card.consent.sure) == (None, "unknown")


NC = {**CC_BY, "spdx": "CC-BY-NC-4.0"}
#: What is wrong with the front matter, and what the one fault says.
BROKEN = [
    ({"stain": "ABSENT"}, "stain: missing. It says stain, such as Papanicolaou, or `unknown`"),
    ({"title": "ABSENT"}, "title: missing. It says what the material is, in one line"),
    ({"licence": "ABSENT"}, "licence: missing. It says the terms"),
    ({"stian": "unknown"}, "stian: unknown key; did you mean 'stain'?"),
    ({"stain": said("Pap", sourc="x")}, "stain.sourc: unknown key; did you mean 'source'?"),
    ({"stain": {"value": "a", "source": "paper", "sure": "stated", "b": None}}, "quote the text"),
    ({"stain": "Papanicolaou"}, "stain: 'Papanicolaou' does not say where it is from; write value, source and sure"),
    ({"stain": None}, "stain: None does not say where it is from"),
    ({"stain": {"value": "Pap", "source": "paper"}}, "stain.sure: missing"),
    ({"stain": {"value": "Pap", "sure": "stated"}}, "stain: stated by whom? name one of the references"),
    ({"stain": {"value": "Pap", "sure": "certain"}}, "stain.sure: input should be 'counted', 'stated'"),
    ({"stain": {"value": "Pap", "sure": "unknown"}}, "stain: what has a value is not unknown"),
    ({"stain": {"source": "paper", "sure": "stated"}}, "stain: has no value; give one, or write unknown"),
    ({"stain": said("Pap", source="book")}, "stain: 'book' is not one of the references; add its citation there"),
    ({"stain": said("TO BE WRITTEN BY A PERSON")}, "stain.value: still says 'TO BE WRITTEN BY A PERSON'"),
    ({"stain": "TO BE WRITTEN BY A PERSON"}, "stain: still says 'TO BE WRITTEN BY A PERSON'"),
    ({"specimen": "blood"}, "specimen: input should be 'cervix' or 'other'"),
    ({"patients": said("many")}, "patients.value: input should be a valid integer"),
    ({"patients": said(-1)}, "patients.value: input should be greater than or equal to 0"),
    ({"patients": said(True)}, "patients.value: input should be a valid integer"),
    ({"mpp": said(250.0)}, "mpp.value: input should be less than or equal to 10"),
    ({"mpp": said(float("nan"))}, "mpp.value: input should be a finite number"),
    ({"split_by": said("day")}, "split_by.value: input should be 'patient', 'slide' or 'image'"),
    ({"classes": said({"low": 10, "normal": 21})}, "classes: 31 in all, but annotations says 30"),
    ({"classes": said({"low": 31, "normal": None})}, "classes: 31 in all, but annotations says 30"),
    ({"images": said(4)}, "splits: 3 in all, but images says 4"),
    ({"allowed_uses": []}, "allowed_uses: tuple should have at least 1 item"),
    ({"licence": NC}, "licence: CC-BY-NC-4.0 says forbidden to commercial, not allowed"),
    (
        {"licence": {**CC_BY, "spdx": "CC-BY-SA-4.0"}},
        "licence: CC-BY-SA-4.0 says share-alike to derivatives, not allowed",
    ),
    (
        {"licence": {**CC_BY, "research": "yes"}},
        "licence.research: input should be 'allowed', 'forbidden' or 'unknown'",
    ),
    ({"licence": "CC-BY-4.0"}, "licence: 'CC-BY-4.0' does not say where it is from"),
]


#: What only the other files of the folder show to be wrong.
BROKEN_BESIDE = [
    ({"classes": said({"low": 10, "normal": 10, "rare": 10})}, "classes: 'rare' is not both there and in classes.yaml"),
    ({"classes": said({"low": 30})}, "classes: 'normal' is not both there and in classes.yaml"),
    ({"splits": said({"train": 1, "val": 2})}, "splits: train 1, val 2, but splits.csv has train 2, val 1"),
    ({"name": "theirs"}, "name: 'theirs' is not the name of the folder"),
]


@pytest.mark.parametrize(("change", "says"), [*BROKEN, *BROKEN_BESIDE])
def test_one_thing_wrong_is_one_fault(tmp_path, change, says):
    folder = write(tmp_path / "ours", **change)
    (fault,) = check_card(folder)
    assert says in fault
    assert fault.startswith(str(folder / "README.md"))


@pytest.mark.parametrize("change", [change for change, _ in BROKEN])
def test_what_the_check_finds_the_loader_refuses(tmp_path, change):
    folder = write(tmp_path / "ours", **change)
    with pytest.raises(ConfigError) as caught:
        load_card(folder)
    assert str(caught.value) == "\n".join(check_card(folder))


def test_all_faults_are_named_at_once(tmp_path):
    folder = write(tmp_path / "ours", stain="Pap", patients=said("many"), class_map="low: LISL\n", table="image\nb\n")
    says = ["patients.value: input", "stain: 'Pap'", "'low' is mapped to 'LISL'", "expected rows with the columns"]
    assert [part in fault for part, fault in zip(says, check_card(folder), strict=True)] == [True] * 4


OTHER_FILES = [
    ({"class_map": None}, "classes.yaml: missing"),
    ({"class_map": "low: LSIL\nnormal: NLIM\n"}, "'normal' is mapped to 'NLIM', which is not in the taxonomy"),
    ({"class_map": "low: null\nnormal: null\n"}, "no label is mapped to a class"),
    ({"prose": PROSE.replace("dirt", "nothing")}, "'dirt' is left out, but README.md never names it; say there why"),
    ({"prose": PROSE.replace("## Uses", "## Use")}, "they should be: Source, Licence and attribution"),
    ({"prose": "No dirt."}, "headings of the prose are wanting"),
    ({"table": SPLITS.replace("c,G2", "c,G1")}, "1 groups are in more than one split: G1 (train, val)"),
    ({"table": SPLITS.replace("b,", "a,")}, "1 images are named twice"),
    ({"table": SPLITS.replace("b,G1", "b,")}, "a row has no group or no split"),
]


@pytest.mark.parametrize(("change", "says"), OTHER_FILES, ids=[says[:40] for _, says in OTHER_FILES])
def test_a_fault_of_another_file(tmp_path, change, says):
    (fault,) = check_card(write(tmp_path / "ours", **change))
    assert says in fault
    assert fault.startswith(str(tmp_path / "ours"))


def test_without_splits_a_card_is_sound(tmp_path):
    assert check_card(write(tmp_path / "ours", table=None)) == []


def test_other_material_has_no_names_in_the_taxonomy(tmp_path):
    blank = {
        "specimen": "other",
        "class_map": "low: null\nnormal: null\n",
        "prose": PROSE.replace("dirt", "low, normal"),
    }
    folder = write(tmp_path / "ours", **blank)
    assert check_card(folder) == []
    assert ClassMap.from_card(folder, may_be_empty=True).classes == ()
    with pytest.raises(LabelError, match="no label is mapped"):
        ClassMap.from_card(folder)


BLOOD = {"specimen": "other", "class_map": "low: RBC\nnormal: null\n", "prose": PROSE.replace("dirt", "normal")}


def test_other_material_has_names_of_its_own(tmp_path):
    folder = write(tmp_path / "ours", **BLOOD)
    assert check_card(folder) == []
    assert class_map_of(folder).classes == ("RBC",)
    with pytest.raises(UnmappedLabelError, match="'low' is mapped to 'RBC', which is not in the taxonomy"):
        ClassMap.from_card(folder)


@pytest.mark.parametrize("name", ["HSIL", "hsil", "INFL"])
def test_names_of_its_own_do_not_look_like_a_call(tmp_path, name):
    folder = write(tmp_path / "ours", **BLOOD | {"class_map": f"low: {name}\nnormal: null\n"})
    (fault,) = check_card(folder)
    assert f"'low' is mapped to {name!r}, a name of the taxonomy, but the card says" in fault
    with pytest.raises(UnmappedLabelError, match="give it a name of its own"):
        class_map_of(folder)


def test_own_names_are_those_of_the_card_beside(tmp_path):
    annotations = tmp_path / "data" / "annotations.parquet"
    assert own_names(annotations) == ()
    take_card(write(tmp_path / "ours"), annotations)
    assert own_names(annotations) == ()
    take_card(write(tmp_path / "ours", **BLOOD), annotations)
    assert own_names(annotations) == ("RBC",)


def test_cards_are_found(tmp_path, monkeypatch):
    ours, theirs = write(tmp_path / "data_cards" / "ours"), write(tmp_path / "data_cards" / "theirs", name="theirs")
    assert find_cards([tmp_path / "data_cards"]) == [ours, theirs]
    assert find_cards([theirs, ours]) == [theirs, ours]
    monkeypatch.chdir(tmp_path)
    assert [folder.name for folder in find_cards()] == ["ours", "theirs"]
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert "cric-cervix-pap" in {folder.name for folder in find_cards()}  # those of this checkout
    with pytest.raises(ConfigError, match="neither is a data card"):
        find_cards([tmp_path / "empty"])
    monkeypatch.setattr("wsi_detect.__file__", str(tmp_path / "installed" / "wsi_detect" / "__init__.py"))
    with pytest.raises(ConfigError, match="there is no folder data_cards here"):
        find_cards()


def test_a_card_travels_with_its_annotations(tmp_path):
    folder, annotations = write(tmp_path / "ours"), tmp_path / "data" / "annotations.parquet"
    card = take_card(folder, annotations)
    assert card == tmp_path / "data" / "card"
    assert (card / "README.md").read_bytes() == (folder / "README.md").read_bytes()
    assert load_card(card) == load_card(folder)
    assert check_card(card) == []
    assert take_card(card, annotations) == card
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "classes.yaml").write_text(CLASSES)
    assert not (take_card(bare, annotations) / "README.md").exists()


def licence(**changes):
    return {**CC_BY, "spdx": None, "name": "terms", **changes}


UNKNOWN = dict.fromkeys(("research", "commercial", "redistribution", "derivatives"), "unknown")
#: Licence and the uses it allows.
LICENCES = [
    (CC_BY, USES),
    ({**NC, "commercial": "forbidden"}, ("research", "release")),
    ({**CC_BY, "spdx": "CC-BY-SA-4.0", "derivatives": "share-alike"}, USES),
    ({**CC_BY, "spdx": "CC-BY-ND-4.0", "derivatives": "forbidden"}, ("research",)),
    (licence(research="forbidden"), ("commercial",)),
    ("unknown", ()),
    (licence(**UNKNOWN), ()),
    (licence(**{**UNKNOWN, "research": "allowed"}, sure="assumed"), ("research",)),
    ({**CC_BY, "sure": "third party"}, ("research",)),
    ({**CC_BY, "sure": "unchecked"}, ("research",)),
]


@pytest.mark.parametrize(("terms", "uses"), LICENCES)
def test_what_a_licence_does_not_allow_is_refused(tmp_path, terms, uses):
    card = load_card(write(tmp_path / "ours", licence=terms))
    assert allowed_uses(card) == uses
    for use in uses:
        check_use(card, use)
    for use in set(USES) - set(uses):
        with pytest.raises(LicenceError) as caught:
            check_use(card, use)
        text = str(caught.value)
        assert "data card ours" in text
        assert card.licence.name in text
        assert repr(use) in text


@pytest.mark.parametrize("use", USES)
def test_other_material_trains_nothing_but_what_is_compared(tmp_path, use):
    card = load_card(write(tmp_path / "ours", specimen="other"))
    with pytest.raises(LicenceError, match=r"data card ours: not cells of the cervix.*training.use: comparison"):
        check_use(card, use)
    check_use(card, "comparison")
    assert allowed_uses(card) == ("comparison",)


@pytest.mark.parametrize("specimen", ["cervix", "other"])
def test_a_comparison_is_research(tmp_path, specimen):
    heard = load_card(write(tmp_path / "ours", specimen=specimen, licence={**CC_BY, "sure": "third party"}))
    check_use(heard, "comparison")
    closed = load_card(write(tmp_path / "ours", specimen=specimen, licence=licence(research="forbidden")))
    with pytest.raises(LicenceError, match="does not allow the use 'comparison'"):
        check_use(closed, "comparison")


def picture(path: Path, seed: int, turn: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = paint_region(lay_cells(320, 240, 15, seed=seed), width=320, height=240, seed=seed)
    Image.fromarray(np.ascontiguousarray(np.rot90(rgb, turn))).save(path)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    for name, seed, turn in (("a", 1, 0), ("b", 2, 0), ("deep/c", 1, 1)):
        picture(folder / f"{name}.png", seed, turn)
    (folder / "a.txt").write_text("not a picture of that name")
    return folder


def test_pictures_that_look_alike_across_the_split(tmp_path, pictures):
    (leak,) = check_pictures(write(tmp_path / "ours"), pictures)
    assert str(leak).startswith("a (train) and c (val) look alike")
    alike_in_train = SPLITS.replace("c,G2,val", "c,G2,train").replace("b,G1,train", "b,G3,val")
    assert check_pictures(write(tmp_path / "ours", table=alike_in_train), pictures) == []


def test_a_picture_that_is_missing_or_twice_there(tmp_path, pictures):
    folder = write(tmp_path / "ours", table=SPLITS + "d,G4,val\n")
    with pytest.raises(LabelError, match=r"0 pictures in .* are called d; one is needed"):
        check_pictures(folder, pictures)
    picture(pictures / "b.jpg", 2)
    with pytest.raises(LabelError, match=r"2 pictures in .* are called b"):
        check_pictures(write(tmp_path / "ours"), pictures)


def test_pictures_without_splits(tmp_path, pictures):
    with pytest.raises(LabelError, match="cannot read splits"):
        check_pictures(write(tmp_path / "ours", table=None), pictures)
