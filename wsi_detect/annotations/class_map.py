"""Source labels → taxonomy names, read from a data card; a label the card does not know is an error.

Material that is not cells of the cervix has names of its own, which are never names of the taxonomy.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wsi_detect import config, taxonomy
from wsi_detect.errors import LabelError, UnmappedLabelError

CLASSES_NAME = "classes.yaml"
#: What material is: cells of the cervix, named by the Bethesda System, or anything else.
Specimen = Literal["cervix", "other"]
_FOLDED = frozenset(name.casefold() for name in taxonomy.CLASSES)


@dataclass(frozen=True, slots=True)
class ClassMap:
    """What a data set's labels mean.

    Attributes:
        source: file the map was read from, for messages.
        labels: source label → taxonomy name, or a name of its own; None for a label left out on purpose.
    """

    source: Path
    labels: Mapping[str, str | None]

    @classmethod
    def from_card(cls, folder: Path, *, may_be_empty: bool = False, specimen: Specimen = "cervix") -> "ClassMap":
        """Read `classes.yaml` of a data card: a mapping of source labels to taxonomy names or null.

        Args:
            folder: of the card.
            may_be_empty: accept a map without a single class, of material that nothing is trained on.
            specimen: what the card says the material is. The names of what is not cells of the cervix are its own:
                what follows from them is never a call on a slide, so they must not look like one.

        Raises:
            LabelError: an entry is not text or null, or no label has a class.
            UnmappedLabelError: a name is not in the taxonomy, or one of its own is.
            ConfigError: the file is absent or not a YAML mapping.
        """
        path = folder / CLASSES_NAME
        entries = config.read_yaml(path)
        for label, name in entries.items():
            # YAML reads an unquoted `no` as false and `1` as a number.
            if not isinstance(label, str) or not isinstance(name, str | None):
                raise LabelError(f"{path}: {label!r}: {name!r} must be text to text (quote it), or text to null")
            if name is not None:
                _check_name(f"{path}: {label!r} is mapped to {name!r}", name, specimen)
        if not may_be_empty and not any(entries.values()):
            raise LabelError(f"{path}: no label is mapped to a class")
        return cls(path, entries)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names that occur, in the card's order."""
        return tuple(dict.fromkeys(name for name in self.labels.values() if name is not None))

    def check(self, labels: Iterable[str]) -> None:
        """Refuse labels the card does not know, all of them at once.

        Raises:
            UnmappedLabelError: with the labels and the card's file.
        """
        unknown = sorted(set(labels) - set(self.labels))
        if unknown:
            raise UnmappedLabelError(
                f"labels not in {self.source}: {', '.join(map(repr, unknown))}; give each a taxonomy name, or null "
                "to leave it out"
            )

    def to_taxonomy(self, label: str) -> str | None:
        """Return the taxonomy name of a source label, None if it is left out on purpose.

        Raises:
            UnmappedLabelError: the card does not know the label.
        """
        self.check([label])
        return self.labels[label]

    def gravity(self, label: str) -> int:
        """Return the gravity of a source label's class; 0 for what has none: left out, or no cell of the cervix."""
        name = self.labels.get(label)
        return 0 if name is None or name not in taxonomy.CLASSES else taxonomy.gravity(name)


def _check_name(what: str, name: str, specimen: Specimen) -> None:
    if specimen == "cervix" and name not in taxonomy.CLASSES:
        raise UnmappedLabelError(f"{what}, which is not in the taxonomy")
    if specimen == "other" and name.casefold() in _FOLDED:
        raise UnmappedLabelError(
            f"{what}, a name of the taxonomy, but the card says that these are not cells of the cervix; give it a name "
            "of its own, or null"
        )
