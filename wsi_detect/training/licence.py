"""The data card a training run answers to: its licence is held against the declared use."""

import logging
from pathlib import Path
from typing import TypeVar

from wsi_detect.data.card import CARD_NAME
from wsi_detect.data.cards import load_card
from wsi_detect.data.use import Use, check_use
from wsi_detect.detectors.info import DetectorInfo
from wsi_detect.errors import ConfigError, LicenceError
from wsi_detect.training.config import TrainingConfig
from wsi_detect.training.heatmap_config import EvidenceTrainingConfig

C = TypeVar("C", TrainingConfig, EvidenceTrainingConfig)

#: What weights may be used for that were trained for a use.
_WITHIN: dict[str, tuple[Use, ...]] = {
    "comparison": ("comparison",),
    "research": ("comparison", "research"),
    "release": ("comparison", "research", "release"),
    "commercial": ("comparison", "research", "release", "commercial"),
}

_log = logging.getLogger(__name__)


def with_card(config: C, folder: Path | None) -> C:
    """Check the use against the card of the data set, and enter the card's name where the configuration has none.

    A data set without a card, put together by hand, may be trained on for research, with a warning; nobody has said
    that more is allowed.

    Args:
        config: of the run.
        folder: where the card is, if there is one.

    Raises:
        ConfigError: the card is broken, or another than the configuration names.
        LicenceError: its licence does not allow the use, or there is no card to allow it.
    """
    named = config.description.data_card
    if folder is None or not (folder / CARD_NAME).is_file():
        where = "given" if folder is None else f"in {folder}"
        if config.use != "research":
            raise LicenceError(
                f"no data card {where}, so nothing allows the use {config.use!r}; train on a data set with a card that "
                "states its licence, or for research (its setting `use`)"
            )
        _log.warning("train: no data card %s; nobody has checked what the licence of the data allows", where)
        return config
    card = load_card(folder, draft=True)
    check_use(card, config.use)
    if named not in ("unknown", card.name):
        raise ConfigError(f"description.data_card is {named!r}, but the card in {folder} is {card.name!r}")
    licence = card.licence
    _log.info("train: data card %s, %s; %s", card.name, licence.name, licence.conditions or "no conditions stated")
    description = config.description.model_copy(update={"data_card": card.name})
    return config.model_copy(update={"description": description})


def check_start(info: DetectorInfo, use: Use) -> None:
    """Refuse to begin with weights that were trained for less: the licence of their data goes on in them.

    Bundles that say nothing of a use were made before there was one to declare, and pass.

    Raises:
        LicenceError: with bundle and both uses.
    """
    before = info.training.get("config", {}).get("use")
    if before is not None and use not in _WITHIN.get(before, ()):
        raise LicenceError(
            f"training.start_from: {info.model_id} was trained for the use {before!r} on {info.data_card}, which does "
            f"not cover {use!r}; begin with other weights, or train for {before!r} (training.use)"
        )
