"""The data card of a data set just built: what can be counted is filled in, the rest is left to a person, visibly."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wsi_detect import __version__, artifact, schema, taxonomy
from wsi_detect.annotations.class_map import CLASSES_NAME, ClassMap
from wsi_detect.config import MAX_BYTES, Config, digest
from wsi_detect.data.card_schema import HEADINGS, LISTS, PERSON, UNKNOWN, Card
from wsi_detect.data.leaks import Leak
from wsi_detect.errors import ConfigError

CARD_NAME = "README.md"
SPLITS_NAME = "splits.csv"
#: Names of the references a built data set's own facts have.
_FILES, _MANIFEST = "files", "manifest"
_REFERENCES = {
    _FILES: "counted by pipelines/build_dataset.py in the files of this data set",
    _MANIFEST: "the list of slides the data set was built from",
}
_BEGIN, _END = "<!-- counted: begin -->", "<!-- counted: end -->"


@dataclass(frozen=True, slots=True)
class CardSlide:
    """What the card counts of a slide.

    Attributes:
        slide_id: of the slide.
        split: train, val or test.
        said: what the manifest says: `patient_id`, `preparation`, `stain`, `scanner`; None where it does not.
        patches: in its store.
        unreadable: of those, with pixels that cannot be decoded.
        mpp: µm per px of its patches.
        codec: of its store.
        stated: whether its file says its own resolution.
    """

    slide_id: str
    split: str
    said: Mapping[str, str | None]
    patches: int
    unreadable: int
    mpp: float
    codec: str
    stated: bool


def class_counts(annotations: Path) -> Counter[tuple[str, str]]:
    """Cells by slide and class, of `annotations.parquet`."""
    return _count(annotations, "label")


def write_card(
    out: Path,
    slides: Sequence[CardSlide],
    annotations: Path,
    *,
    source: Path,
    tiling: Config,
    leaks: Sequence[Leak] = (),
) -> Path:
    """Write the card, its class map and its splits into a folder; patients are numbered in it, not named.

    Args:
        out: folder of the card.
        slides: of the data set.
        annotations: `annotations.parquet` of the data set.
        source: folder of the card that holds the class map; what a person has already written there is taken over.
        tiling: how the slides were cut.
        leaks: look-alikes between splits that were let pass.

    Returns:
        Path of the card.

    Raises:
        ConfigError: the source's card is not front matter between two lines of three dashes, and prose.
    """
    given, written = read_card(source / CARD_NAME) if (source / CARD_NAME).exists() else ({}, None)
    given = {key: value for key, value in given.items() if value not in (PERSON, [PERSON])}
    groups = _groups([slide.said.get("patient_id") or slide.slide_id for slide in slides])
    counted = _counted(slides, groups, annotations, ClassMap.from_card(source))
    counted["built"] |= {"tiling": digest(tiling), "look_alikes": [str(leak) for leak in leaks]}
    # What came through a class map has names of the Bethesda System.
    blank: dict[str, Any] = {"name": source.resolve().name, "specimen": "cervix"}
    blank |= {key: [PERSON] for key in LISTS}
    # The manifest knows better than a card that says unknown, and a person better than the manifest.
    unknown = {key: value for key, value in given.items() if value == UNKNOWN}
    known = {key: value for key, value in given.items() if value != UNKNOWN}
    facts = dict.fromkeys(Card.model_fields, PERSON) | blank | unknown | _said(slides) | known | counted
    facts["references"] = {**given.get("references", {}), **_REFERENCES}
    written = _headings() if written is None else written
    text = yaml.safe_dump(
        {key: facts[key] for key in Card.model_fields}, sort_keys=False, allow_unicode=True, width=120
    )
    tables = f"{_BEGIN}\n{_tables(counted['built'])}{_END}\n"
    artifact.write_bytes(out / CARD_NAME, f"---\n{text}---\n{_with_tables(written, tables)}".encode())
    artifact.write_bytes(out / CLASSES_NAME, (source / CLASSES_NAME).read_bytes())
    lines = [f"{slide.slide_id},{group},{slide.split}\n" for slide, group in zip(slides, groups, strict=True)]
    artifact.write_bytes(out / SPLITS_NAME, "".join(["image,group,split\n", *lines]).encode())
    return out / CARD_NAME


def read_card(path: Path) -> tuple[dict[str, Any], str]:
    """Read the facts and the prose of a card.

    Raises:
        ConfigError: it cannot be read, or is not made of both.
    """
    try:
        raw = path.read_bytes()
        parts = raw.decode().replace("\r\n", "\n").split("---\n", 2) if len(raw) <= MAX_BYTES else []
    except OSError as error:
        raise ConfigError(f"cannot read the data card {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}; save it as that") from error
    facts = _front_matter(parts[1], path) if len(parts) == 3 and not parts[0] else None
    if not isinstance(facts, dict):
        raise ConfigError(f"{path}: a card begins with its facts between two lines of three dashes")
    return facts, parts[2]


def _front_matter(text: str, path: Path) -> Any:
    try:
        facts = yaml.safe_load(text)  # first: it gives up on deep nesting, which `parse` walks for minutes
        # A dozen lines of nested aliases unfold, when somebody walks them, to more nodes than there is memory.
        aliased = any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date is a plain ValueError
        raise ConfigError(f"{path}: the front matter is not valid YAML: {error}") from error
    if aliased:
        raise ConfigError(f"{path}: YAML aliases (*name) are not used in cards; write the value out")
    return facts


def _groups(owners: Sequence[str]) -> list[str]:
    numbers = {owner: k for k, owner in enumerate(dict.fromkeys(owners), start=1)}
    return [f"G{numbers[owner]:04d}" for owner in owners]


def _count(annotations: Path, column: str) -> Counter[tuple[str, str]]:
    table = artifact.read_table(annotations, schema.ANNOTATIONS)
    return Counter(zip(table["slide_id"].to_pylist(), table[column].to_pylist(), strict=True))


def _fact(value: Any, source: str, sure: str) -> dict[str, Any]:
    return {"value": value, "source": source, "sure": sure}


def _said(slides: Sequence[CardSlide]) -> dict[str, Any]:
    """Return what the manifest says."""
    patients = {slide.said.get("patient_id") for slide in slides}
    named = None not in patients
    facts: dict[str, Any] = {"patients": _fact(len(patients), _MANIFEST, "stated") if named else UNKNOWN}
    facts["split_by"] = _fact("patient" if named else "slide", _FILES, "counted")
    for key in ("preparation", "stain", "scanner"):
        values = sorted({value for slide in slides if (value := slide.said.get(key))})
        if values:
            facts[key] = _fact("; ".join(values), _MANIFEST, "stated")
    return facts


def _counted(
    slides: Sequence[CardSlide], groups: Sequence[str], annotations: Path, class_map: ClassMap
) -> dict[str, Any]:
    """Return the facts that follow from the data."""
    names = sorted({slide.split for slide in slides})
    by_split = _cells_by_split(slides, names, class_counts(annotations), taxonomy.gravest_first(class_map.classes))
    parts = {name: [slide for slide in slides if slide.split == name] for name in names}
    built = {
        "by": f"python pipelines/build_dataset.py (wsi-detect {__version__})",
        "codec": sorted({slide.codec for slide in slides}),
        "slides": {name: len(part) for name, part in parts.items()},
        "groups": {
            name: len({g for g, slide in zip(groups, slides, strict=True) if slide.split == name}) for name in names
        },
        "patches": {name: sum(slide.patches for slide in part) for name, part in parts.items()},
        "unreadable_patches": sum(slide.unreadable for slide in slides),
        "cells": by_split,
    }
    labels = Counter(label for _, label in _count(annotations, "source_label").elements())
    imported = [label for label, name in class_map.labels.items() if name is not None]
    mpp = round(sum(slide.mpp for slide in slides) / len(slides), 6) if slides else None
    return {
        "mpp": _fact(mpp, _FILES, "counted" if all(slide.stated for slide in slides) else "assumed")
        if mpp
        else UNKNOWN,
        "slides": _fact(len(slides), _FILES, "counted"),
        "images": _fact(len(slides), _FILES, "counted"),
        "annotations": _fact(labels.total(), _FILES, "counted"),
        "classes": _fact({label: labels[label] for label in imported}, _FILES, "counted"),
        "splits": _fact({name: len(part) for name, part in parts.items()}, _FILES, "counted"),
        "built": built,
    }


def _cells_by_split(
    slides: Sequence[CardSlide], names: Sequence[str], cells: Counter[tuple[str, str]], labels: Sequence[str]
) -> dict[str, dict[str, int]]:
    split_of = {slide.slide_id: slide.split for slide in slides}
    by_split = {name: dict.fromkeys(labels, 0) for name in names}
    for (slide, label), number in cells.items():
        by_split[split_of[slide]][label] += number
    return by_split


def _tables(built: Mapping[str, Any]) -> str:
    """Slides, groups, patches and cells by split, as a Markdown table."""
    names = list(built["slides"])
    labels = built["cells"][names[0]] if names else {}
    rows = [(what, built[what]) for what in ("slides", "groups", "patches")]
    rows += [(label, {name: built["cells"][name][label] for name in names}) for label in labels]
    lines = [f"| | {' | '.join(names)} |", f"| --- |{' --- |' * len(names)}"]
    lines += [f"| {what} | {' | '.join(str(counts[name]) for name in names)} |" for what, counts in rows]
    return "\n".join(lines) + "\n"


def _headings() -> str:
    """Write the headings, and say under each that the text is wanting."""
    lines = ["# Title", *(f"## {heading}" for heading in HEADINGS)]
    return "\n" + "\n".join(f"{line}\n\n{PERSON}\n" for line in lines)


def _with_tables(prose: str, tables: str) -> str:
    """Put what was counted under the heading of the splits, in the place of what an earlier build put there."""
    begin, end = prose.find(_BEGIN), prose.find(_END)
    if 0 <= begin < end:
        return prose[:begin] + tables + prose[end + len(_END) + 1 :]
    before, heading, after = prose.partition("## Splits\n")
    return f"{before}{heading}\n{tables}{after}" if heading else f"{prose}\n{tables}"
