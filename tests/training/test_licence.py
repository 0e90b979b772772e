"""Training answers to the data card beside the annotations: its licence, its name."""

import logging
from dataclasses import replace

import pytest
import yaml

from wsi_detect.data.card_schema import PERSON
from wsi_detect.detectors.info import bundled_models, read_info
from wsi_detect.errors import ConfigError, LicenceError
from wsi_detect.training.config import TrainingConfig
from wsi_detect.training.heatmap_config import EvidenceTrainingConfig
from wsi_detect.training.heatmap_trainer import train_evidence
from wsi_detect.training.licence import check_start, with_card

UNKNOWN = (
    *("source", "attribution", "access", "consent", "patients", "slides", "preparation", "stain", "scanner", "mpp"),
    *("magnification", "images", "image_size", "annotations", "classes", "box_origin", "labelling", "readers"),
    *("splits", "split_by"),
)
NC = {
    "name": "Attribution-NonCommercial",
    "spdx": "CC-BY-NC-4.0",
    "research": "allowed",
    "commercial": "forbidden",
    "redistribution": "allowed",
    "derivatives": "allowed",
    "conditions": "name the authors",
    "source": "page",
    "sure": "stated",
}


@pytest.fixture
def data(tmp_path):
    """Write a card; gives its folder."""

    def make(**changes):
        facts = dict.fromkeys(UNKNOWN, "unknown") | {
            "name": "tct-lab",
            "title": "ours",
            "specimen": "cervix",
            "references": {"page": "our page"},
            "licence": NC,
            "known_faults": [],
            "allowed_uses": ["research"],
            "forbidden_uses": ["diagnosis"],
        }
        (tmp_path / "card").mkdir(exist_ok=True)
        (tmp_path / "card" / "README.md").write_text(f"---\n{yaml.safe_dump(facts | changes)}---\n")
        return tmp_path / "card"

    return make


def config(**changes) -> TrainingConfig:
    return TrainingConfig.model_validate(changes)


def test_an_allowed_use_goes_on_under_the_name_of_the_card(data, caplog):
    caplog.set_level(logging.INFO)
    settled = with_card(config(use="research", steps=7), data())
    assert (settled.description.data_card, settled.steps, settled.use) == ("tct-lab", 7, "research")
    assert "tct-lab, Attribution-NonCommercial; name the authors" in caplog.text


@pytest.mark.parametrize("use", ["release", "research", "comparison"])
def test_other_uses_of_the_licence(data, use):
    assert with_card(config(use=use), data()).use == use


def test_methods_are_compared_on_other_material(data):
    settled = with_card(config(use="comparison"), data(specimen="other"))
    assert (settled.use, settled.description.data_card) == ("comparison", "tct-lab")


@pytest.mark.parametrize(
    ("changes", "use", "says"),
    [
        ({}, "commercial", "Attribution-NonCommercial (CC-BY-NC-4.0), does not allow the use 'commercial'"),
        (
            {"licence": "unknown"},
            "research",
            "its licence, unknown, does not allow the use 'research' (research: unknown)",
        ),
        ({"licence": PERSON}, "research", "its licence, unknown, does not allow"),
        ({"licence": {**NC, "sure": "third party"}}, "release", "its terms are third party"),
        ({"specimen": "other"}, "research", "not cells of the cervix"),
    ],
)
def test_a_use_that_is_not_allowed_is_one_error(data, changes, use, says):
    with pytest.raises(LicenceError) as caught:
        with_card(config(use=use), data(**changes))
    assert "data card tct-lab" in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_person_still_has_to_write_does_not_stop_research(data):
    changes = {"title": PERSON, "consent": PERSON, "known_faults": [PERSON]}
    assert with_card(config(), data(**changes)).description.data_card == "tct-lab"


@pytest.mark.parametrize("lost", ["title", "consent", "references", "known_faults"])
def test_nor_does_what_is_missing(data, tmp_path, lost):
    folder = data(licence={**NC, "source": [], "sure": "assumed"})
    path = tmp_path / "card" / "README.md"
    facts = yaml.safe_load(path.read_text().strip("-\n"))
    path.write_text(f"---\n{yaml.safe_dump({k: v for k, v in facts.items() if k != lost})}---\n")
    assert with_card(config(), folder).description.data_card == "tct-lab"


@pytest.mark.parametrize("lost", ["name", "specimen"])
def test_a_card_has_at_least_a_name_and_a_specimen(data, tmp_path, lost):
    folder, path = data(), tmp_path / "card" / "README.md"
    facts = yaml.safe_load(path.read_text().strip("-\n"))
    path.write_text(f"---\n{yaml.safe_dump({k: v for k, v in facts.items() if k != lost})}---\n")
    with pytest.raises(ConfigError, match=rf"README\.md: {lost}: missing"):
        with_card(config(), folder)


def test_a_broken_card_stops_it(data):
    with pytest.raises(ConfigError, match=r"README\.md: stain: 'Pap' does not say where it is from"):
        with_card(config(), data(stain="Pap"))


@pytest.mark.parametrize("named", ["unknown", "tct-lab"])
def test_the_name_of_the_card_may_be_given(data, named):
    assert with_card(config(description={"data_card": named}), data()).description.data_card == "tct-lab"


def test_another_name_is_refused(data):
    with pytest.raises(ConfigError, match=r"data_card is 'cric', but the card in .* is 'tct-lab'"):
        with_card(config(description={"data_card": "cric"}), data())


def test_without_a_card_research_goes_on_with_a_warning(tmp_path, caplog):
    given = config(description={"data_card": "mine"})
    assert with_card(given, tmp_path) == given
    assert "nobody has checked what the licence of the data allows" in caplog.text


@pytest.mark.parametrize("use", ["commercial", "release"])
def test_without_a_card_nothing_else_does(tmp_path, use):
    with pytest.raises(LicenceError, match=f"nothing allows the use '{use}'"):
        with_card(config(use=use), tmp_path)


def test_so_does_the_training_of_an_evidence_model(data, tmp_path):
    settled = with_card(EvidenceTrainingConfig(), data())
    assert (settled.description.data_card, settled.use) == ("tct-lab", "research")
    with pytest.raises(LicenceError, match=r"data card tct-lab: .* does not allow the use 'commercial'"):
        train_evidence([], tmp_path / "run", EvidenceTrainingConfig(use="commercial"), data())
    with pytest.raises(LicenceError, match="no data card given, so nothing allows the use 'release'"):
        with_card(EvidenceTrainingConfig(use="release"), None)


def test_a_use_nobody_knows():
    with pytest.raises(ValueError, match="research"):
        config(use="diagnosis")


@pytest.mark.parametrize(
    ("before", "allowed"),
    [
        ("research", {"research"}),
        ("release", {"research", "release"}),
        ("commercial", {"research", "release", "commercial"}),
        (None, {"research", "release", "commercial"}),
        ("a later invention", set()),
    ],
)
def test_weights_carry_the_use_they_were_trained_for(before, allowed):
    trained = {} if before is None else {"config": {"use": before}}
    info = replace(read_info(next(iter(bundled_models().values()))), training=trained)
    for use in ("research", "release", "commercial"):
        if use in allowed:
            check_start(info, use)
        else:
            with pytest.raises(LicenceError, match=f"was trained for the use '{before}' on cric-cervix-pap"):
                check_start(info, use)
