"""Configuration files: one YAML per job, sections named after stages; an unknown key is met with the nearest."""

import copy
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from wsi_detect.errors import ConfigError, UnknownKeyError

#: A configuration is a page, not a data file; the limit also stops alias bombs before they are walked.
MAX_BYTES = 1_000_000


class Config(BaseModel):
    """Base of every stage's configuration: frozen, typed, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


C = TypeVar("C", bound=Config)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file with the safe loader.

    Raises:
        ConfigError: the file is absent, too large, not YAML, or not a mapping.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes; a configuration may have {MAX_BYTES}")
    try:
        content = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # an impossible date is a plain ValueError
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a configuration is a mapping of sections, this is a {type(content).__name__}")
    return content


def parse(values: Mapping[str, Any], kind: type[C], *, where: str) -> C:
    """Make a config of `kind` from plain values; `where` names the file for messages.

    Raises:
        UnknownKeyError: with the nearest valid key.
        ConfigError: a value is of the wrong type or out of range.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            raise UnknownKeyError(_unknown_key(where, place, kind)) from error
        raise ConfigError(f"{where}: {place or 'configuration'}: {problem['msg']}") from error


def read(path: Path, section: str, kind: type[C]) -> C:
    """Read one section of a YAML file as a config; an absent section means all defaults."""
    values = read_yaml(path).get(section) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: section {section!r} must be a mapping")
    return parse(values, kind, where=f"{path}: section {section!r}")


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `section.key=value` overrides (values in YAML syntax) to plain values."""
    # deepcopy keeps shared aliases shared, so that an alias bomb stays small.
    result = copy.deepcopy(dict(values))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {override!r}: expected section.key=value")
        node = result
        *parents, last = key.split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigError(f"--set {override!r}: {parent!r} is not a section")
            node = child
        try:
            node[last] = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"--set {override!r}: the value is not valid YAML: {error}") from error
    return result


def load(path: Path | None, kind: type[C], overrides: Sequence[str] = ()) -> C:
    """Read a whole job configuration: the file (or nothing), then the overrides."""
    values = read_yaml(path) if path else {}
    where = str(path) if path else "command line"
    return parse(with_overrides(values, overrides), kind, where=where)


def digest(config: Config) -> str:
    """Hash of a config's resolved values, 16 hex digits: equal configs, equal digest."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _unknown_key(where: str, place: str, kind: type[Config]) -> str:
    *parents, last = place.split(".")
    valid = list(_section(kind, parents).model_fields)
    near = difflib.get_close_matches(last, valid, n=1, cutoff=0.0)
    inside = f" in {'.'.join(parents)!r}" if parents else ""
    return (
        f"{where}: unknown key {last!r}{inside}; did you mean {near[0]!r}?"
        if near
        else f"{where}: unknown key {last!r}"
    )


def _section(kind: type[Config], parents: Sequence[str]) -> type[Config]:
    for parent in parents:
        field = kind.model_fields.get(parent)
        inner = [] if field is None else [field.annotation, *get_args(field.annotation)]
        found = [entry for entry in inner if isinstance(entry, type) and issubclass(entry, Config)]
        if found:
            kind = found[0]
    return kind
