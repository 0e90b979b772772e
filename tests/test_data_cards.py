"""The data cards of this repository: sound, complete, and without a fault nobody knows of."""

import re
from pathlib import Path

import pytest

from wsi_detect.data.card import read_card
from wsi_detect.data.card_schema import HEADINGS, Card, key_table, read_facts, sure_table
from wsi_detect.data.cards import check_card, find_cards, load_card
from wsi_detect.data.split import read_splits
from wsi_detect.data.use import allowed_uses

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "data_cards"
CARDS = find_cards([FOLDER])
#: Facts of the collections that a card may not lose: text that has to be in it.
FACTS = {
    "cric-cervix-pap": [
        *("11,534", "6,779", "606", "1,360", "925", "1,703", "161", "1,376 x 1,020", "count from 1", "conventional"),
        *("10.6084/m9.figshare.c.4960286.v2", "10.1038/s41597-021-00933-8", "1abfbaaf21d1ac32f26e1d4ee26dcc3d91c9f5d9"),
        *("90 px", "x = 1279", "y = 1019", "neutrophils", "4:2:0", "outlines", "40x", "figshare"),
        *("`scale_from_original`", "points.csv", "61 NILM to one SCC", "7, 10 and 8", "2, 3 and 3", "JSON and CSV"),
    ],
    "riva": [
        *("828", "131", "81", "13,267", "2,112", "100 x 100", "clustering", "INFL: 4360", "NILM: 3821", "LSIL: 1581"),
        *("HSIL: 1232", "SCC: 1082", "CC-BY-4.0", "conventional", "1024 x 1024", "ISBI 2026"),
    ],
    "comparison-detector": [
        "7,410",
        "48,587",
        "6,666",
        "744",
        "762",
        "3DHISTECH Pannoramic MIDI II",
        "herps",
        "no licence",
    ],
    "tianchi-tct-2019": [
        *("KFBio", "20x", "300 to 400 MB", "500 positive", "300 negative", "6,194", "5,945", "2,818", "3,382", "1,651"),
        *("11,510", "Outside the regions positives may exist", "12,000", "98.7 %", "`roi` is left out"),
    ],
    "hicervix": ["40,229", "4,496", "29 classes", "three", "11087263", "92.08 %", "82.93 %", "73.59 %", "centres"],
    "sipakmed": ["966", "4,049", ".dat", "831", "787", "825", "813", "793", "CCD", "cite", "BMP"],
    "mendeley-lbc": [
        *("963", "460", "Leica ICC50 HD", "40x", "613", "163", "113", "74", "CC-BY-4.0", "962", "10.17632/zddtpgzv63"),
        *("2048 x 1536", "under-exposed", "LSIL_1_1.jpg", "12fe696cbeb76076c8e45ed63445c3b019a2c3e4", "AGPL", "NL_*"),
    ],
    "apcdata": [
        "425",
        "3619",
        "3,619",
        "six Bethesda classes",
        "CC-BY-4.0",
        "third party",
        "best suited",
        "liquid-based",
    ],
    "bccd-blood": [
        *("292", "640 x 480", "2382", "214", "209", "968", "87", "83", "72 test images", "BloodImage_00343", "MIT"),
        *("BloodImage_00338", "unlabelled", "d272fb14cdff6e473fafeeeba32aba5f560e9e43", "BloodImage_00037"),
    ],
}


@pytest.fixture(params=CARDS, ids=lambda card: card.name)
def card(request):
    return request.param


def test_the_cards_are_those_that_are_known():
    assert {folder.name for folder in CARDS} == set(FACTS)


def test_a_card_is_sound(card):
    assert check_card(card) == []


def test_a_card_has_the_keys_in_the_order_of_the_schema(card):
    assert list(read_card(card / "README.md")[0]) == list(Card.model_fields)


def test_a_card_keeps_what_is_known_of_its_data_set(card):
    text = " ".join((card / "README.md").read_text().split())
    assert [fact for fact in FACTS[card.name] if fact not in text] == []


def test_a_card_points_nowhere_on_the_web(card):
    """Citations outlive addresses."""
    assert "http" not in (card / "README.md").read_text()


def test_a_split_keeps_groups_together(card):
    if (card / "splits.csv").exists():
        assert len(read_splits(card / "splits.csv")) == load_card(card).images.value


def test_what_each_licence_allows():
    """Read this table before changing a card: training believes it."""
    assert {folder.name: allowed_uses(load_card(folder)) for folder in CARDS} == {
        "apcdata": ("research",),  # CC BY 4.0, but only third parties say so
        "bccd-blood": ("comparison",),  # MIT, but not cells of the cervix
        "comparison-detector": ("research",),
        "cric-cervix-pap": ("research", "commercial", "release"),
        "hicervix": ("research",),
        "mendeley-lbc": ("research",),
        "riva": ("research", "commercial", "release"),
        "sipakmed": ("research",),
        "tianchi-tct-2019": (),
    }


def test_the_template_is_a_card_without_facts():
    values, prose = read_card(FOLDER / "TEMPLATE.md")
    template, faults = read_facts(values, "TEMPLATE.md")
    assert faults == []
    assert list(values) == list(Card.model_fields)
    assert tuple(line[3:] for line in prose.splitlines() if line.startswith("## ")) == HEADINGS
    assert allowed_uses(template) == ()


@pytest.mark.parametrize("table", [key_table(), sure_table()], ids=["keys", "sure"])
def test_the_guide_has_the_tables_of_the_schema(table):
    assert table in (ROOT / "docs" / "data-cards.md").read_text()


def test_the_example_of_the_guide_is_a_card():
    text = (ROOT / "docs" / "data-cards.md").read_text()
    (example,) = re.findall(r"```yaml\n(---\n.*?---\n)```", text, re.DOTALL)
    import yaml

    _, faults = read_facts(yaml.safe_load(example.strip("-\n")), "example")
    assert faults == []
