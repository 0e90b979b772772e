"""A finished store held against what it says was written, and what is damaged made again from the slide.

A shard is a pure function of slide, plan and number, so what is made again is the very bytes that were lost; the
recorded checksum proves it, and nothing else is accepted.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import ArtifactError, DamagedArtifactError, MissingSlideError, StaleArtifactError
from wsi_detect.slides import MAX_PIXELS, open_slide
from wsi_detect.slides.reader import SlideReader
from wsi_detect.tiling import shard
from wsi_detect.tiling.patch_store import (
    MASK_COLUMNS,
    PIXEL_COLUMNS,
    ROOT,
    digest_of,
    read_attributes,
    runs_of,
    shard_path,
)
from wsi_detect.tiling.plan import Plan, TilingConfig, key_of, make_plan
from wsi_detect.tiling.tiler import make_shard

#: Column → type, and numbers a row where it is more than one.
_COLUMNS: dict[str, tuple[str, int | None]] = {
    "patch_id": ("int64", None),
    "origin_px": ("int64", 2),
    **dict.fromkeys((*MASK_COLUMNS, *PIXEL_COLUMNS), ("float32", None)),
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Fault:
    """One damaged part of a store.

    Attributes:
        part: which, in words.
        file: its path in the store.
        problem: what is wrong with it.
        shard: its number from 0, if it is a shard.
        column: its name, if it is the values of a column.
    """

    part: str
    file: str
    problem: str
    shard: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        return f"{self.part} {self.problem} ({self.file})"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What `repair` did.

    Attributes:
        faults: what was damaged, and is whole again.
        shards_read: shards made again from the slide, for their bytes or for the columns measured on their pixels.
    """

    faults: tuple[Fault, ...]
    shards_read: int


def verify(path: Path) -> list[Fault]:
    """Read every file of a finished store and return all that is missing or not as it was written.

    Args:
        path: the folder `patches.zarr`.

    Raises:
        MissingArtifactError: there is no finished store.
        DamagedArtifactError: its own metadata, which holds the checksums, makes no sense.
        SchemaVersionError: it was written under another schema version.
    """
    facts = read_attributes(path)
    try:
        return list(_faults(path, facts))
    except (KeyError, TypeError) as error:
        raise DamagedArtifactError(f"{path}: metadata invalid ({error!r}); tile the slide again") from error


def repair(path: Path, slide: SlideReader | Path) -> Repaired:
    """Make what is damaged in a store again; of the slide only the damaged shards are read.

    Columns measured on pixels are written by all shards together: if one of them is damaged, all shards are read.

    Args:
        path: the folder `patches.zarr`.
        slide: the slide it was made from, or its file.

    Raises:
        MissingSlideError: the slide's file is not there.
        StaleArtifactError: it is another slide, or the store was made under a configuration this program cannot read.
        DamagedArtifactError: what is made again differs from what was recorded, or see `verify`.
        OutputBusyError: another run holds the store's folder.
    """
    faults = verify(path)
    if not faults:
        return Repaired((), 0)
    facts = read_attributes(path)
    with artifact.lock(path.parent), _opened(path, facts, slide, len(faults)) as reader:
        plan = _plan(path, facts, reader)
        _write_metadata(path, facts)
        return Repaired(tuple(faults), _mend(path, facts, faults, plan, reader))


def _faults(path: Path, facts: Mapping[str, Any]) -> Iterator[Fault]:
    for file, expected in _metadata(facts).items():
        problem = _json_problem(path / file, expected)
        if problem:
            yield Fault(f"metadata of {file.parent}", str(file), problem)
    for name, (dtype, width) in _COLUMNS.items():
        shape = (facts["patches"],) if width is None else (facts["patches"], width)
        file = shard.column_path(Path(name), len(shape))
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        problem = _size_problem(path / file, size + 4) if size else ""
        if not problem:
            try:
                shard.read_column(path / name, facts["patches"], dtype, width)
            except ArtifactError:
                problem = "fails its checksum"
        if problem:
            yield Fault(f"column {name}", str(file), problem, column=name)
    for number, entry in enumerate(facts["shards"]):
        file = shard_path(Path(), number)
        problem = _size_problem(path / file, entry["size"])
        if not problem:
            with (path / file).open("rb") as stream:
                same = hashlib.file_digest(stream, "sha256").hexdigest() == entry["sha256"]
            problem = "" if same else "fails its checksum"
        if problem:
            yield Fault(f"shard {number + 1} of {len(facts['shards'])}", str(file), problem, shard=number)


def _size_problem(path: Path, size: int) -> str:
    if not path.is_file():
        return "is missing"
    found = path.stat().st_size
    if found == size:
        return ""
    return "is empty" if found == 0 else f"has {found} bytes, {size} were written"


def _json_problem(path: Path, expected: Mapping[str, Any]) -> str:
    if not path.is_file():
        return "is missing"
    try:
        return "" if artifact.read_json(path) == expected else "is not what was written"
    except ArtifactError:
        return "is not what was written"


def _metadata(facts: Mapping[str, Any]) -> dict[Path, dict[str, Any]]:
    """Content of every metadata file but the root's, by path in the store."""
    rows = facts["patches"]
    found = {
        Path(name) / ROOT: shard.column_metadata((rows,) if width is None else (rows, width), dtype)
        for name, (dtype, width) in _COLUMNS.items()
    }
    if facts["codec"] != "none":
        images = shard.images_metadata(rows, facts["patch_px"], facts["shard_patches"], facts["codec"])
        found[Path("images") / ROOT] = images
    return found


def _write_metadata(path: Path, facts: Mapping[str, Any]) -> None:
    for file, content in _metadata(facts).items():
        if _json_problem(path / file, content):
            artifact.write_json(path / file, content)


def _opened(
    path: Path, facts: Mapping[str, Any], slide: SlideReader | Path, count: int
) -> AbstractContextManager[SlideReader]:
    """The slide, opened as it was for tiling; one that is open already is left to its owner."""
    if not isinstance(slide, Path):
        return nullcontext(slide)
    key, grid = facts["key"], facts["grid"]
    stated = {} if key["mpp_source"] == "file" else {"mpp": key["mpp"], "mpp_source": key["mpp_source"]}
    most = max(MAX_PIXELS, grid["width"] * grid["height"])
    try:
        return open_slide(slide, slide_id=key["slide_id"], max_pixels=most, **stated)
    except MissingSlideError as error:
        raise MissingSlideError(
            f"{path} has damaged parts ({count}), and the slide to mend them from is not there: {error}. "
            "Connect its disk, or say with --slide where it lies now"
        ) from error


def _plan(path: Path, facts: Mapping[str, Any], slide: SlideReader) -> Plan:
    key = facts["key"]
    try:
        config = TilingConfig(**key["config"])
    except (TypeError, ValueError) as error:
        raise StaleArtifactError(
            f"{path} was made by version {key['version']} under a configuration this program does not know; "
            "tile the slide again"
        ) from error
    now = key_of(slide.info, config)
    differing = [f"{name} {key[name]!r}, given is {now[name]!r}" for name in ("slide", "mpp") if key[name] != now[name]]
    if differing:
        raise StaleArtifactError(f"{path} was made from another slide: {'; '.join(differing)}; give the one it is of")
    return make_plan(slide, config)


def _mend(path: Path, facts: Mapping[str, Any], faults: list[Fault], plan: Plan, slide: SlideReader) -> int:
    """Write what is damaged; returns how many shards were made for it."""
    broken = {fault.shard for fault in faults if fault.shard is not None}
    columns = {fault.column for fault in faults if fault.column is not None}
    known: dict[str, NDArray[Any]] = {
        "patch_id": plan.patch_ids,
        "origin_px": plan.origins,
        "coverage": plan.coverage,
        **{name: np.full(facts["patches"], np.nan, dtype=np.float32) for name in PIXEL_COLUMNS},
    }
    count = len(facts["shards"])
    if len(plan.patch_ids) != facts["patches"] or count not in (0, len(plan.shards)):
        raise _another(path, f"the slide gives {len(plan.patch_ids)} patches, {facts['patches']} are recorded")
    measured = columns.intersection(PIXEL_COLUMNS)
    if measured and count:
        _log.info("repair: %s measured on pixels: all %d shards are read", ", ".join(sorted(measured)), count)
    numbers = range(count) if measured else sorted(broken)
    runs = runs_of(facts["patches"], facts["shard_patches"])
    for number in numbers:
        content, values = make_shard(plan, slide, number)
        if digest_of(content) != facts["shards"][number]["sha256"]:
            raise _another(path, f"shard {number + 1} of {count} comes out with another checksum")
        if number in broken:
            artifact.write_bytes(shard_path(path, number), content)
            _log.info("repair: shard %d of %d made again", number + 1, count)
        for name in PIXEL_COLUMNS:
            known[name][runs[number].start : runs[number].stop] = np.array(values[name], dtype=np.float32)
    for name in sorted(columns):
        shard.write_column(path / name, known[name])
    return len(numbers)


def _another(path: Path, what: str) -> DamagedArtifactError:
    return DamagedArtifactError(
        f"{path} cannot be mended: {what}; the slide's file or this program has changed since. Tile the slide again"
    )
