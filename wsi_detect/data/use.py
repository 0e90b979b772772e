"""What a data set may be used for, by the licence on its card."""

from typing import Literal

from wsi_detect.data.card_schema import Card
from wsi_detect.errors import LicenceError

#: What a training run is for. `release`: research whose detector is handed on to others. `comparison`: methods are held
#: against each other, and the detector is for nothing else; what is not cells of the cervix is good for no other use.
Use = Literal["research", "commercial", "release", "comparison"]
USES: tuple[Use, ...] = ("research", "commercial", "release")

#: What the licence must allow for each use. A trained detector counts as a derivative of its data: whether it is one in
#: law is open, and whoever hands it on should not be the one to find out.
_NEEDS: dict[Use, tuple[str, ...]] = {
    "research": ("research",),
    "commercial": ("commercial", "derivatives"),
    "release": ("research", "derivatives"),
    "comparison": ("research",),
}
_GRANTED = ("allowed", "share-alike")
#: Beyond research hearsay is not enough: the terms must have been read where their owner put them.
_SURE = ("counted", "stated")


def allowed_uses(card: Card) -> tuple[Use, ...]:
    """Uses the licence allows, a comparison only where no other can be. What it does not say, it does not allow."""
    possible: tuple[Use, ...] = USES if card.specimen == "cervix" else ("comparison",)
    return tuple(use for use in possible if not _missing(card, use))


def check_use(card: Card, use: Use) -> None:
    """Refuse a use the licence does not allow.

    Silence is no permission: an unknown licence allows nothing, unless the card's writer put down `research: allowed`
    and answers for it. Terms that only third parties tell of allow research alone.

    Raises:
        LicenceError: with card, licence and use.
    """
    if card.specimen != "cervix" and use != "comparison":
        raise LicenceError(
            f"data card {card.name}: not cells of the cervix; no detector of slides is trained on them (methods may be "
            "compared on them: training.use: comparison)"
        )
    missing = _missing(card, use)
    if missing:
        name = f"{card.licence.name} ({card.licence.spdx})" if card.licence.spdx else card.licence.name
        raise LicenceError(
            f"data card {card.name}: its licence, {name}, does not allow the use {use!r} ({', '.join(missing)}); train "
            "for another use (training.use), or ask the owners and write their answer on the card"
        )


def _missing(card: Card, use: Use) -> list[str]:
    said = {need: str(getattr(card.licence, need)) for need in _NEEDS[use]}
    faults = [f"{need}: {answer}" for need, answer in said.items() if answer not in _GRANTED]
    if not faults and use not in ("research", "comparison") and card.licence.sure not in _SURE:
        faults = [f"its terms are {card.licence.sure}"]
    return faults
