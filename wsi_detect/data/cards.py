"""Data cards on disk: found, read, checked against their class map, their splits and their pictures."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import wsi_detect
from wsi_detect import artifact
from wsi_detect.annotations.class_map import CLASSES_NAME, ClassMap
from wsi_detect.data.card import CARD_NAME, SPLITS_NAME, read_card
from wsi_detect.data.card_schema import HEADINGS, LISTS, PERSON, UNKNOWN, Card, read_facts
from wsi_detect.data.leaks import Item, Leak, find_leaks, hash_file
from wsi_detect.data.split import check_leak, read_split_rows
from wsi_detect.errors import ConfigError, LabelError

#: Where the cards of a checkout are.
FOLDER = "data_cards"
#: Where the card of a data set is: beside its annotations.
BESIDE = "card"
#: What no draft can do without, or has by itself.
_NEEDED = ("name", "specimen", "references", "built")
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})


def find_cards(places: Sequence[Path] = ()) -> list[Path]:
    """Folders of cards, sorted.

    Args:
        places: cards, or folders of cards; none means `data_cards` here, else that of the checkout this package is in.

    Raises:
        ConfigError: a place is or holds no card.
    """
    if not places:
        homes = [Path(FOLDER), Path(wsi_detect.__file__).parents[1] / FOLDER]
        places = [home for home in homes if home.is_dir()][:1]
        if not places:
            raise ConfigError(f"there is no folder {FOLDER} here; name the folder of the cards")
    found = []
    for place in places:
        cards = [place] if (place / CARD_NAME).is_file() and (place / CLASSES_NAME).is_file() else _inside(place)
        if not cards:
            raise ConfigError(f"{place} neither is a data card ({CARD_NAME} beside {CLASSES_NAME}) nor holds one")
        found += cards
    return found


def _inside(place: Path) -> list[Path]:
    return sorted(card.parent for card in place.glob(f"*/{CARD_NAME}"))


def load_card(folder: Path, *, draft: bool = False) -> Card:
    """Read the facts of a card.

    Args:
        folder: of the card.
        draft: take what is missing, or still to be written by a person, for unknown; not its name and specimen.

    Raises:
        ConfigError: the front matter is wrong; every fault is named with its key.
    """
    values, _ = read_card(folder / CARD_NAME)
    card, faults = read_facts(_drafted(values) if draft else values, str(folder / CARD_NAME))
    if card is None:
        raise ConfigError("\n".join(faults))
    return card


def _drafted(values: dict[str, Any]) -> dict[str, Any]:
    open_keys = [key for key in Card.model_fields if values.get(key, PERSON) in (PERSON, [PERSON])]
    blank: dict[str, Any] = {key: [UNKNOWN] if key in LISTS else UNKNOWN for key in open_keys if key not in _NEEDED}
    return {"references": {}} | values | blank


def take_card(folder: Path, annotations: Path) -> Path:
    """Copy a card beside the annotations that were imported through it: from there on it travels with the data set.

    A folder without `README.md` leaves none, and takes away that of an earlier import: it spoke of other data.
    """
    target = card_of(annotations)
    if target.resolve() == folder.resolve():
        return target
    for name in (CARD_NAME, CLASSES_NAME):
        if (folder / name).is_file():
            artifact.write_bytes(target / name, (folder / name).read_bytes())
        else:
            (target / name).unlink(missing_ok=True)
    return target


def card_of(annotations: Path) -> Path:
    """Where the card of an `annotations.parquet` lies, if there is one."""
    return annotations.parent / BESIDE


def class_map_of(folder: Path) -> ClassMap:
    """The class map of a card, whatever its material is; for methods held against each other, never for slides.

    Raises:
        ConfigError: the card is broken.
        LabelError: no label has a class, or a name is not one that such material may have.
    """
    # Without a card nobody has said that these are not cells of the cervix.
    other = (folder / CARD_NAME).is_file() and load_card(folder, draft=True).specimen == "other"
    return ClassMap.from_card(folder, specimen="other" if other else "cervix")


def own_names(annotations: Path) -> tuple[str, ...]:
    """Names of its own that the card beside an `annotations.parquet` gives to what is not cells of the cervix.

    None if it is cells of the cervix, or has no card.
    """
    folder = card_of(annotations)
    if not (folder / CARD_NAME).is_file() or load_card(folder, draft=True).specimen == "cervix":
        return ()
    return ClassMap.from_card(folder, specimen="other").classes


def check_card(folder: Path) -> list[str]:
    """Every fault of a card, each with file, key and remedy; none if it is sound."""
    path = folder / CARD_NAME
    try:
        values, prose = read_card(path)
    except ConfigError as error:
        return [str(error)]
    card, faults = read_facts(values, str(path))
    headings = tuple(line.removeprefix("## ") for line in prose.splitlines() if line.startswith("## "))
    if headings != HEADINGS:
        faults.append(f"{path}: the headings of the prose are {', '.join(headings) or 'wanting'}; {_wanted()}")
    if card is not None and folder.resolve().name not in (card.name, BESIDE):
        faults.append(f"{path}: name: {card.name!r} is not the name of the folder; rename the one or the other")
    return faults + _class_faults(folder, card, prose) + _split_faults(folder, card)


def check_pictures(folder: Path, pictures: Path) -> list[Leak]:
    """Pictures of a card that look alike and are in different splits.

    Args:
        folder: of the card.
        pictures: folder that holds the pictures `splits.csv` names, at any depth.

    Raises:
        LabelError: the card has no splits, or a picture is missing, twice there, or cannot be decoded.
    """
    rows = read_split_rows(folder / SPLITS_NAME)
    places = _places(pictures, [row["image"] for row in rows], folder / SPLITS_NAME)
    return find_leaks([Item(row["image"], row["split"], looks=hash_file(places[row["image"]])) for row in rows])


def _wanted() -> str:
    return f"they should be: {', '.join(HEADINGS)}"


def _class_faults(folder: Path, card: Card | None, prose: str) -> list[str]:
    """Labels against the names they may have and the counts; what is left out is explained."""
    path = folder / CLASSES_NAME
    if not path.is_file():
        return [f"{path}: missing; it maps each label of the source to a name of the taxonomy, or to null"]
    try:
        specimen = "cervix" if card is None else card.specimen
        labels = ClassMap.from_card(folder, may_be_empty=specimen == "other", specimen=specimen).labels
    except (ConfigError, LabelError) as error:
        return [str(error)]
    left_out = [label for label, name in labels.items() if name is None]
    faults = [
        f"{path}: {label!r} is left out, but {CARD_NAME} never names it; say there why"
        for label in left_out
        if label not in prose
    ]
    if card is None:
        return faults
    if card.classes.value is not None:
        counted = set(card.classes.value)
        lost = sorted(counted - set(labels)) + sorted(set(labels) - counted - set(left_out))
        if lost:
            faults.append(f"{folder / CARD_NAME}: classes: {lost[0]!r} is not both there and in {CLASSES_NAME}; add it")
    return faults


def _split_faults(folder: Path, card: Card | None) -> list[str]:
    """`splits.csv`, which a card has only if the data give one, against the counts."""
    path = folder / SPLITS_NAME
    if not path.is_file():
        return []
    try:
        rows = read_split_rows(path)
    except LabelError as error:
        return [str(error)]
    try:
        check_leak([row["group"] for row in rows], [row["split"] for row in rows])
    except LabelError as error:
        return [f"{path}: {error}; each belongs in one"]
    counted = Counter(row["split"] for row in rows)
    if card is not None and card.splits.value is not None and counted != card.splits.value:
        said, found = (", ".join(f"{k} {v}" for k, v in sorted(d.items())) for d in (card.splits.value, counted))
        return [f"{folder / CARD_NAME}: splits: {said}, but {SPLITS_NAME} has {found}; correct the one or the other"]
    return []


def _places(pictures: Path, names: Iterable[str], source: Path) -> dict[str, Path]:
    """Find the files of the pictures a split names, with or without the ending."""
    by_name: dict[str, list[Path]] = {}
    for path in sorted(path for path in pictures.rglob("*") if path.is_file()):
        for key in {path.name, path.stem}:
            by_name.setdefault(key, []).append(path)
    found = {}
    for name in names:
        here = by_name.get(name, [])
        pick = [path for path in here if path.suffix.lower() in _PICTURES]
        if len(pick) != 1:
            raise LabelError(f"{source}: {len(pick)} pictures in {pictures} are called {name}; one is needed")
        found[name] = pick[0]
    return found
