"""What the front matter of a data card says, key by key; `docs/data-cards.md` shows the same table."""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from wsi_detect.annotations.class_map import Specimen
from wsi_detect.config import Config

#: How sure a fact is, from a count down to nothing.
SURE = {
    "counted": "counted in or read from the files themselves",
    "stated": "the makers say so: their paper, their page, the README of their repository",
    "third party": "somebody else says so, such as a participant of a challenge",
    "assumed": "the writer of the card decided or guessed it",
    "unchecked": "general knowledge; no source was looked at",
    "unknown": "nobody says; the fact has no value",
}
#: What `build_dataset` writes where only a person can know.
PERSON = "TO BE WRITTEN BY A PERSON"
UNKNOWN = "unknown"
#: Headings of the prose, in their order.
HEADINGS = (
    "Source",
    "Licence and attribution",
    "Patients and consent",
    "Preparation, stain, scanner",
    "Labels",
    "Splits",
    "Known faults",
    "Uses",
)
#: Keys that are lists of sentences, not facts.
LISTS = ("known_faults", "allowed_uses", "forbidden_uses")

T = TypeVar("T")
Sure = Literal["counted", "stated", "third party", "assumed", "unchecked", "unknown"]
Permission = Literal["allowed", "forbidden", "unknown"]
Derivatives = Literal["allowed", "share-alike", "forbidden", "unknown"]
Text = Annotated[str, Field(min_length=1), AfterValidator(lambda text: _by_a_person(text))]
Count = Annotated[int, Field(ge=0, strict=True)]
#: The range `open_slide` accepts, µm per px.
Resolution = Annotated[float, Field(ge=0.05, le=10, strict=True)]
#: One name of a reference, or several.
Sources = Annotated[tuple[Text, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]

#: What known licences allow: commercial use, redistribution, derivatives. A card may say less, never more.
_KNOWN: dict[str, tuple[Permission, Permission, Derivatives]] = {
    **dict.fromkeys(("CC0-1.0", "MIT", "Apache-2.0", "BSD-3-Clause"), ("allowed", "allowed", "allowed")),
    **dict.fromkeys(("CC-BY-3.0", "CC-BY-4.0"), ("allowed", "allowed", "allowed")),
    **dict.fromkeys(("CC-BY-SA-3.0", "CC-BY-SA-4.0", "GPL-3.0-only"), ("allowed", "allowed", "share-alike")),
    **dict.fromkeys(("CC-BY-NC-3.0", "CC-BY-NC-4.0"), ("forbidden", "allowed", "allowed")),
    **dict.fromkeys(("CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0"), ("forbidden", "allowed", "share-alike")),
    **dict.fromkeys(("CC-BY-ND-3.0", "CC-BY-ND-4.0"), ("allowed", "allowed", "forbidden")),
    **dict.fromkeys(("CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0"), ("forbidden", "allowed", "forbidden")),
}
_FREEDOM = ("forbidden", "unknown", "share-alike", "allowed")


def _by_a_person(value: Any) -> Any:
    if value == PERSON:
        raise ValueError(f"still says {PERSON!r}")
    return value


def _written_out(values: Any, empty: Mapping[str, Any]) -> Any:
    """Read `unknown` as a fact without a value, and tell a bare value what a fact looks like."""
    if values == UNKNOWN:
        return {**empty, "sure": UNKNOWN}
    _by_a_person(values)
    if not isinstance(values, Mapping | Fact | Licence):
        raise ValueError(f"{values!r} does not say where it is from; write value, source and sure")
    return values


def _check_source(sure: Sure, sources: tuple[str, ...], has_value: bool) -> None:
    if has_value and sure == UNKNOWN:
        raise ValueError("what has a value is not unknown; say how sure it is")
    if not has_value and sure != UNKNOWN:
        raise ValueError("has no value; give one, or write unknown for the whole fact")
    if sure in ("counted", "stated", "third party") and not sources:
        raise ValueError(f"{sure} by whom? name one of the references as its source")


class Fact(Config, Generic[T]):
    """A value, the names of the references it is from, and how sure it is; written `unknown` if nobody says."""

    value: T | None = None
    source: Sources = ()
    sure: Sure
    note: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_unknown(cls, values: Any) -> Any:
        return _written_out(values, {})

    @model_validator(mode="after")
    def _check(self) -> "Fact[T]":
        _check_source(self.sure, self.source, self.value is not None)
        return self


class Licence(Config):
    """Under which terms the material may be used, and what follows from them.

    Attributes:
        name: of the licence or agreement, in words.
        spdx: its identifier at spdx.org, if it has one.
        research: whether detectors may be trained and compared with it.
        commercial: whether something that is sold may be made with it.
        redistribution: whether copies may be handed on.
        derivatives: whether what was changed may be handed on; a trained detector is counted as such.
        conditions: what must be done in return.
        source: names of the references.
        sure: how sure the terms are.
        note: anything else.
    """

    name: Text
    spdx: Text | None = None
    research: Permission
    commercial: Permission
    redistribution: Permission
    derivatives: Derivatives
    conditions: Text | None = None
    source: Sources = ()
    sure: Sure
    note: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_unknown(cls, values: Any) -> Any:
        closed = dict.fromkeys(("name", "research", "commercial", "redistribution", "derivatives"), UNKNOWN)
        return _written_out(values, closed)

    @model_validator(mode="after")
    def _check(self) -> "Licence":
        said = {self.research, self.commercial, self.redistribution, self.derivatives} - {UNKNOWN}
        _check_source(self.sure, self.source, self.name != UNKNOWN or bool(said))
        if self.spdx is not None and self.spdx in _KNOWN:
            names = ("commercial", "redistribution", "derivatives")
            for name, most in zip(names, _KNOWN[self.spdx], strict=True):
                mine = getattr(self, name)
                if _FREEDOM.index(mine) > _FREEDOM.index(most):
                    raise ValueError(f"{self.spdx} says {most} to {name}, not {mine}; correct the one or the other")
        return self


class Card(Config):
    """The front matter of a data card."""

    name: Text = Field(description="name of the card's folder")
    title: Text = Field(description="what the material is, in one line")
    specimen: Specimen = Field(
        description="`cervix`: cells of the cervix, named by the Bethesda System; `other`: anything else, with names "
        "of its own, which methods may be compared on and no detector of slides is trained on"
    )
    references: dict[str, Text] = Field(
        description="short name of each source of a fact → its citation, with a DOI rather than an address"
    )
    source: Fact[Text] = Field(description="where the material is from, and which part of it the card is about")
    attribution: Fact[Text] = Field(description="who must be named, and how")
    licence: Licence = Field(description="the terms, and whether they allow research, commercial use and so on")
    access: Fact[Text] = Field(description="how one gets the material")
    consent: Fact[Text] = Field(description="ethics vote, consent form, or why none is needed")
    patients: Fact[Count] = Field(description="how many patients the material is from")
    slides: Fact[Count] = Field(description="how many glass slides or smears it is from")
    preparation: Fact[Text] = Field(description="conventional smear, ThinPrep, SurePath, other liquid-based, or both")
    stain: Fact[Text] = Field(description="stain, such as Papanicolaou")
    scanner: Fact[Text] = Field(description="maker and model of scanner, or of microscope and camera")
    magnification: Fact[Text] = Field(description="objective, such as 40x")
    mpp: Fact[Resolution] = Field(description="µm per px of the images as used; `sure: assumed` if nobody measured it")
    images: Fact[Count] = Field(description="how many images: slides, fields or single cells")
    image_size: Fact[Text] = Field(description="their size in px, and their file format")
    annotations: Fact[Count] = Field(description="how many labelled cells or boxes")
    classes: Fact[dict[str, Count | None]] = Field(
        description="label in the source, as in `classes.yaml` → how many; null where nobody says"
    )
    box_origin: Fact[Text] = Field(
        description="what a box is: drawn by hand, of one size around a point, derived from outlines, or none there"
    )
    labelling: Fact[Text] = Field(description="who labelled, by which protocol, and how disagreement was settled")
    readers: Fact[Count] = Field(description="how many people labelled each image at most")
    splits: Fact[dict[str, Count]] = Field(description="part, such as train or val → how many images")
    split_by: Fact[Literal["patient", "slide", "image"]] = Field(
        description="what stays together in a part: patient, slide or image"
    )
    known_faults: tuple[Text, ...] = Field(description="what a user would be angry not to have been told")
    allowed_uses: tuple[Text, ...] = Field(
        description="what the material is good for, within the licence", min_length=1
    )
    forbidden_uses: tuple[Text, ...] = Field(
        description="what it must not be used for, beyond the licence", min_length=1
    )
    built: dict[str, Any] | None = Field(
        default=None, description="counted by `pipelines/build_dataset.py`; null if that did not make the data set"
    )

    @model_validator(mode="after")
    def _check(self) -> "Card":
        for key in Card.model_fields:
            entry = getattr(self, key)
            lost = set(entry.source) - set(self.references) if isinstance(entry, Fact | Licence) else set()
            if lost:
                raise ValueError(f"{key}: {sorted(lost)[0]!r} is not one of the references; add its citation there")
        _check_sum("classes", self.classes.value, "annotations", self.annotations.value)
        _check_sum("splits", self.splits.value, "images", self.images.value)
        return self


def _check_sum(parts: str, counts: Mapping[str, int | None] | None, whole: str, total: int | None) -> None:
    known = [number for number in (counts or {}).values() if number is not None]
    if counts is None or total is None:
        return
    summed, complete = sum(known), len(known) == len(counts)
    if summed > total or (complete and summed != total):
        raise ValueError(f"{parts}: {summed} in all, but {whole} says {total}; correct the one or the other")


def read_facts(values: Mapping[str, Any], where: str) -> tuple[Card | None, list[str]]:
    """Make a card of plain values; or tell every fault of them: file, key, what is wrong, what to do."""
    try:
        return Card.model_validate(dict(values)), []
    except ValidationError as error:
        found = [_fault(dict(problem)) for problem in error.errors()]
        return None, [f"{where}: {text}" for text in dict.fromkeys(found)]


def key_table() -> str:
    """Every key and what it means, as a Markdown table."""
    lines = [f"| `{name}` | {field.description} |" for name, field in Card.model_fields.items()]
    return "\n".join(["| key | what it says |", "| --- | --- |", *lines]) + "\n"


def sure_table() -> str:
    """Every degree of certainty and what it means, as a Markdown table."""
    return "\n".join(["| sure | means |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in SURE.items())]) + "\n"


def _fault(problem: Mapping[str, Any]) -> str:
    """One sentence on one fault of the front matter."""
    place = [str(part) for part in problem["loc"]]
    where, message = ".".join(place), str(problem["msg"]).removeprefix("Value error, ")
    field = Card.model_fields.get(place[0]) if place else None
    if problem["type"] == "extra_forbidden":
        section = Card if len(place) == 1 else Licence if place[0] == "licence" else Fact
        near = difflib.get_close_matches(place[-1], list(section.model_fields), n=1, cutoff=0.0)
        # What comes after a comma in {value: a, b} is a key to YAML, one without a value.
        hint = " If it is part of a text with a comma, quote the text." if problem["input"] is None else ""
        return f"{where}: unknown key; did you mean {near[0]!r}?{hint}"
    if field is None:
        return message  # of the card as a whole; the sentence names its keys
    if problem["type"] == "missing":
        message = "missing"
    elif problem["type"] != "value_error":
        message = message[0].lower() + message[1:]  # pydantic begins with a capital
    return f"{where}: {message}. It says {field.description}" + (", or `unknown`" if _may_be_unknown(field) else "")


def _may_be_unknown(field: FieldInfo) -> bool:
    kind = field.annotation
    return isinstance(kind, type) and issubclass(kind, Fact | Licence)
