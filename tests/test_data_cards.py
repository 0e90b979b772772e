"""Data cards: facts present and consistent, labels in the taxonomy, nobody in two splits."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from wsi_detect import taxonomy
from wsi_detect.annotations import ClassMap
from wsi_detect.data.split import read_splits

FOLDER = Path(__file__).parents[1] / "data_cards"
CARDS = sorted(path.parent for path in FOLDER.glob("*/README.md"))


def front_matter(path):
    opening, facts, prose = path.read_text(encoding="utf-8").split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(facts), [line for line in prose.splitlines() if line.startswith("## ")]


TEMPLATE, HEADINGS = front_matter(FOLDER / "TEMPLATE.md")


def test_there_is_a_card():
    assert "cric-cervix-pap" in {card.name for card in CARDS}


@pytest.fixture(params=CARDS, ids=lambda card: card.name)
def card(request):
    return request.param


def test_a_card_has_every_fact_and_heading_of_the_template(card):
    facts, headings = front_matter(card / "README.md")
    assert list(facts) == list(TEMPLATE)
    assert headings == HEADINGS
    assert facts["name"] == card.name
    assert all(value not in (None, "", [], {}) for value in facts.values())
    assert 0.05 < facts["mpp"] < 10
    assert isinstance(facts["mpp_assumed"], bool)
    assert facts["split_by"] in {"patient", "slide", "image"}


def test_labels_are_in_the_taxonomy_and_counts_add_up(card):
    facts, _ = front_matter(card / "README.md")
    assert set(facts["classes"]) <= set(taxonomy.CLASSES)
    assert set(ClassMap.from_card(card).classes) == set(facts["classes"])
    assert sum(facts["classes"].values()) == facts["annotations"]


def test_splits_are_those_the_facts_state(card):
    facts, _ = front_matter(card / "README.md")
    splits = read_splits(card / "splits.csv")
    assert Counter(splits.values()) == facts["splits"]
    assert len(splits) == facts["images"]
