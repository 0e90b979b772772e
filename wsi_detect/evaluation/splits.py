"""What was chosen on one split is read on another: a threshold or a temperature looks too good where it was made."""

from collections.abc import Collection
from dataclasses import dataclass

from wsi_detect.errors import LabelError


@dataclass(frozen=True, slots=True)
class Split:
    """A named part of the data.

    Attributes:
        name: `train`, `val`, `test` …
        members: patients, slides or fields in it: the largest unit that is known, so that two slides of one patient
            cannot stand on both sides.
    """

    name: str
    members: frozenset[str]

    @classmethod
    def of(cls, name: str, members: Collection[str]) -> "Split":
        """Return the split of that name with these members; repetitions count once."""
        return cls(name, frozenset(members))


def check_apart(chosen: Split, read: Split, what: str) -> None:
    """Refuse to read what was chosen on the same data, whatever the two are called.

    Args:
        chosen: where the choice was made.
        read: where its effect is to be measured.
        what: was chosen, for the message.

    Raises:
        LabelError: the splits have one name, or a member in common.
    """
    if chosen.name == read.name:
        raise LabelError(f"{what} was chosen on split {chosen.name!r}; read it on another, or ask for the same one")
    if shared := chosen.members & read.members:
        raise LabelError(
            f"{what} was chosen on split {chosen.name!r}, which shares {min(shared)!r} ({len(shared)} in all) with "
            f"{read.name!r}; split by patient"
        )
