"""What a user declares about an import; nothing of it happens unless it is said here."""

from dataclasses import dataclass
from typing import Literal

from wsi_detect.errors import ConfigError

Faulty = Literal["refuse", "drop", "repair"]


@dataclass(frozen=True, slots=True)
class VoteRule:
    """How what several annotators said of one cell becomes its label.

    Attributes:
        settle: `majority` of those who marked the cell, or the `gravest` label any of them gave.
        ties: of a majority: the `gravest` of the labels with most votes, or `refuse` the source and list the cells.
        min_iou: boxes of two annotators that overlap at least so much are of one cell.
    """

    settle: Literal["majority", "gravest"] = "majority"
    ties: Literal["gravest", "refuse"] = "gravest"
    min_iou: float = 0.5

    def __post_init__(self) -> None:
        """Refuse a rule that means nothing.

        Raises:
            ConfigError: a word is unknown, or the overlap is not in (0, 1].
        """
        _one_of("votes are settled by", self.settle, ("majority", "gravest"))
        _one_of("ties are settled by", self.ties, ("gravest", "refuse"))
        if not 0 < self.min_iou <= 1:
            raise ConfigError(f"boxes of one cell overlap by more than 0 and at most 1, not {self.min_iou:g}")


@dataclass(frozen=True, slots=True)
class ImportRules:
    """What is done with what a file holds.

    Attributes:
        faulty: `refuse` a source with broken annotations; `drop` them; or `repair` what can be mended and drop the
            rest (see `faults.mended`; of several cells at one place the gravest is kept). What was done is logged.
        point_um: side of the square box that a point gets, µm; needs the µm per px of its slide.
        point_px: the same in slide px, for pictures without a known resolution. One of the two, where there are points.
        roi_labels: source labels that mark areas inside which everything was labelled.
        votes: how the labels of several annotators of one slide become cells; None where each slide has one.
    """

    faulty: Faulty = "refuse"
    point_um: float | None = None
    point_px: float | None = None
    roi_labels: tuple[str, ...] = ()
    votes: VoteRule | None = None

    def __post_init__(self) -> None:
        """Refuse rules that mean nothing.

        Raises:
            ConfigError: a word is unknown, a size is not positive, or both sizes are given.
        """
        _one_of("faulty annotations are treated by", self.faulty, ("refuse", "drop", "repair"))
        sizes = [size for size in (self.point_um, self.point_px) if size is not None]
        if len(sizes) > 1 or any(not 0 < size < float("inf") for size in sizes):
            raise ConfigError("the box of a point has one size, in µm or in px, and it is positive")


def _one_of(what: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise ConfigError(f"{what} {', '.join(words[:-1])} or {words[-1]}, not {word!r}")
