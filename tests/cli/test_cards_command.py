"""`cards`: what a user sees of the data cards, and of what is wrong with them."""

import json
import shutil
from pathlib import Path

import pytest

from wsi_detect.testing.painter import lay_cells, paint_region

FOLDER = Path(__file__).parents[2] / "data_cards"


def test_the_cards_are_a_table(cli):
    code, out, err = cli("cards", FOLDER)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert {folder.name for folder in FOLDER.iterdir() if folder.is_dir()} <= set(rows)
    cric = rows["cric-cervix-pap"]
    for part in (
        "CC-BY-4.0",
        "research, commercial, release",
        "169",
        "4,192",
        "conventional smear",
        "~0.27",
        "SCC, HSIL",
    ):
        assert part in cric
    assert "comparison" in rows["bccd-blood"]
    assert "~CC-BY-4.0" in rows["mendeley-lbc"]
    assert max(map(len, out.splitlines())) <= 200


def test_or_json(cli):
    rows = json.loads(cli("cards", FOLDER, "--json")[1])
    (riva,) = (row for row in rows if row["name"] == "riva")
    assert (riva["folder"], riva["licence"]["spdx"]) == (str(FOLDER / "riva"), "CC-BY-4.0")
    assert riva["may_be_used_for"] == ["research", "commercial", "release"]
    assert riva["taxonomy"] == ["SCC", "HSIL", "ASC-H", "LSIL", "ASC-US", "ENDO", "INFL", "NILM"]
    assert (riva["images"]["value"], riva["images"]["sure"], riva["mpp"]["value"]) == (1040, "third party", None)


def test_without_a_folder_those_of_the_checkout_are_listed(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "cric-cervix-pap" in cli("cards")[1]


def test_a_folder_without_cards_is_named(cli, tmp_path):
    code, _, err = cli("cards", tmp_path)
    assert code == 2
    assert f"{tmp_path} neither is a data card" in err


def test_sound_cards(cli):
    assert cli("cards", "--check", FOLDER) == (0, "cards: 9, faults: 0\n", "")


@pytest.fixture
def broken(tmp_path):
    """Two cards with three faults."""
    for name in ("riva", "sipakmed", "apcdata"):
        shutil.copytree(FOLDER / name, tmp_path / name)
    text = (tmp_path / "riva" / "README.md").read_text()
    (tmp_path / "riva" / "README.md").write_text(text.replace("stain:", "stian:"))
    (tmp_path / "sipakmed" / "classes.yaml").unlink()
    return tmp_path


def test_every_fault_is_listed_with_exit_code_4(cli, broken):
    code, out, err = cli("cards", "--check", broken)
    faults = out.splitlines()
    assert (code, err, len(faults)) == (4, "", 4)
    assert "riva/README.md: stain: missing" in faults[0]
    assert "riva/README.md: stian: unknown key; did you mean 'stain'?" in faults[1]
    assert "sipakmed/classes.yaml: missing" in faults[2]
    assert faults[3] == "cards: 3, faults: 3"
    assert len(json.loads(cli("cards", "--check", "--json", broken)[1])["faults"]) == 3


def test_a_broken_card_is_not_listed_but_named(cli, broken):
    code, _, err = cli("cards", broken / "riva")
    assert code == 2
    assert "riva/README.md: stain: missing" in err


def test_pictures_are_compared(cli, tmp_path):
    from PIL import Image

    card = tmp_path / "riva"
    shutil.copytree(FOLDER / "riva", card)
    text = (card / "README.md").read_text()
    (card / "README.md").write_text(
        text.replace("splits: {value: {train: 828, val: 131, test: 81}", "splits: {value: {train: 1, val: 1}").replace(
            "value: 1040", "value: 2"
        )
    )
    (card / "splits.csv").write_text("image,group,split\na.png,a,train\nb.png,b,val\n")
    rgb = paint_region(lay_cells(320, 240, 15, seed=1), width=320, height=240, seed=1)
    for name, picture in (("a", rgb), ("b", rgb[::-1].copy())):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    code, out, _ = cli("cards", "--check", card, "--images", tmp_path)
    assert code == 4
    assert "a.png (train) and b.png (val) look alike (" in out
    assert "move one of them\ncards: 1, faults: 1" in out
    (card / "splits.csv").write_text("image,group,split\na.png,a,train\nc.png,b,val\n")
    (card / "classes.yaml").write_text("SCC: SCD\n")
    code, out, _ = cli("cards", "--check", card, "--images", tmp_path)
    assert (code, len(out.splitlines())) == (4, 3)
    assert "'SCD', which is not in the taxonomy" in out.splitlines()[0]
    assert "0 pictures in" in out.splitlines()[1]


@pytest.mark.parametrize("words", [[FOLDER / "riva"], ["--check", FOLDER]])
def test_pictures_are_of_one_card_that_is_checked(cli, tmp_path, words):
    code, _, err = cli("cards", *words, "--images", tmp_path)
    assert code == 2
    assert "--images" in err
