"""Artefacts on disk: written beside their final name and renamed, listed in a manifest, never half there.

All writing of results goes through `atomic`, so that a crash at any moment leaves either the old file or the
new one, and so that a test can stop the program at the N-th write or rename (`WSI_DETECT_FAULT`).
"""

import errno
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from wsi_detect import schema as schemas
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, OutputBusyError, SchemaVersionError

MANIFEST = "manifest.json"
PARTIAL = ".partial"
_SAMPLE = 1 << 20
_SAMPLES = 16
_steps = itertools.count(1)


def _fault_point() -> None:
    """Stop here if a test asked: `WSI_DETECT_FAULT=kill:N` or `errno:N:CODE` at the N-th step of this process."""
    plan = os.environ.get("WSI_DETECT_FAULT")
    if not plan:
        return
    action, number, *rest = plan.split(":")
    if next(_steps) != int(number):
        return
    if action == "kill":
        os.killpg(os.getpgrp(), signal.SIGKILL)
    code = int(rest[0])
    raise OSError(code, os.strerror(code))


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a name to write to; on success sync it and rename it to `path`, on failure remove it.

    The temporary file lies in the same folder and ends in `.partial`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    _fault_point()
    try:
        yield partial
        _sync(partial)
        _fault_point()
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            # Libraries that write leave out where; a full disk without its name helps nobody.
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
        raise
    _sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically."""
    with atomic(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically: sorted keys, no NaN, so that equal content is equal bytes."""
    write_bytes(path, (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON mapping this package wrote.

    Raises:
        MissingArtifactError: the file is not there.
        DamagedArtifactError: it is not a JSON mapping.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingArtifactError(f"{path} is missing; run the stage that writes it again") from error
    except ValueError as error:
        raise DamagedArtifactError(f"{path} is not valid JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict):
        raise DamagedArtifactError(f"{path} does not hold a JSON mapping; delete it and run again")
    return content


def write_table(
    path: Path,
    table: pa.Table,
    schema: pa.Schema,
    metadata: Mapping[str, str] | None = None,
    layout: Mapping[str, Any] | None = None,
) -> None:
    """Write a table under a schema of `schema.py`, atomically; equal tables give equal bytes.

    Args:
        path: the Parquet file.
        table: columns in any order, at least those of the schema; others are dropped.
        schema: one of `schema.TABLES`.
        metadata: further keys for the file, such as `classes`.
        layout: how the rows lie in the file, in the words of `pyarrow.parquet.write_table`.
    """
    extra = {key.encode(): value.encode() for key, value in (metadata or {}).items()}
    target = schema.with_metadata({**(schema.metadata or {}), **extra})
    cast = table.select(schema.names).cast(target)
    with atomic(path) as partial:
        pq.write_table(cast, partial, compression="zstd", **(layout or {}))


def read_table(path: Path, schema: pa.Schema, groups: Callable[[pq.FileMetaData], list[int]] | None = None) -> pa.Table:
    """Read a table and hold it against its schema.

    Args:
        path: the Parquet file.
        schema: what its columns must be.
        groups: chooses the row groups to read, by what the file says of them; all when not given.

    Raises:
        MissingArtifactError: the file is not there.
        DamagedArtifactError: it is not Parquet, or columns are missing or of another type.
        SchemaVersionError: it was written under another version.
    """
    with open_table(path, schema) as file:
        return file.read() if groups is None else file.read_row_groups(groups(file.metadata))


@contextmanager
def open_table(path: Path, schema: pa.Schema, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """Open a table to read parts of it, and hold it against its schema.

    Args:
        path: the Parquet file.
        schema: what its columns must be.
        dictionaries: columns of text to be read as dictionaries.

    Raises:
        MissingArtifactError, DamagedArtifactError, SchemaVersionError: as `read_table`, whenever they show.
    """
    if not path.exists():
        raise MissingArtifactError(f"{path} is missing; run the stage that writes it again")
    try:
        with pq.ParquetFile(path, read_dictionary=list(dictionaries)) as file:
            _check_schema(path, file.schema_arrow, _with_dictionaries(schema, dictionaries))
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DamagedArtifactError(f"{path} cannot be read as Parquet ({error}); delete it and run again") from error


def _with_dictionaries(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    for name in names:
        kind = pa.dictionary(pa.int32(), schema.field(name).type)
        schema = schema.set(schema.get_field_index(name), schema.field(name).with_type(kind))
    return schema


def _check_schema(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    version = schemas.version_of(found)
    if version != schemas.SCHEMA_VERSION:
        raise SchemaVersionError(f"{path} has schema version {version}, this program writes {schemas.SCHEMA_VERSION}")
    if not found.equals(expected):
        raise DamagedArtifactError(f"{path} has columns {found.names}, expected {expected.names}")


def empty_table(schema: pa.Schema) -> pa.Table:
    """Return the typed table without rows."""
    return pa.Table.from_batches([], schema=schema)


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return a typed table of rows given as mappings."""
    return pa.Table.from_pylist(rows, schema=schema)


def fingerprint(path: Path) -> str:
    """Content fingerprint of a slide, 64 hex digits.

    Size, plus 16 blocks of 1 MiB evenly spread over the file (all of a smaller file): the cost does not grow with
    the slide. A format that keeps its pixels in a folder of the same name (MRXS) has that folder's files counted in.
    """
    companion = path.with_suffix("") if path.suffix.lower() == ".mrxs" else None
    parts = sorted(p for p in companion.rglob("*") if p.is_file()) if companion and companion.is_dir() else []
    stats = [(part, part.stat()) for part in [path, *parts]]
    return _fingerprint(tuple((part, stat.st_size, stat.st_mtime_ns, stat.st_ino) for part, stat in stats))


@lru_cache(maxsize=64)
def _fingerprint(parts: tuple[tuple[Path, int, int, int], ...]) -> str:
    """Hash files given with size, time and inode: several stages ask for the same slide, and it is 16 MiB to read."""
    digest = hashlib.sha256()
    for part, size, _, _ in parts:
        digest.update(size.to_bytes(8, "little"))
        with part.open("rb") as stream:
            if size <= _SAMPLE * _SAMPLES:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
                continue
            for k in range(_SAMPLES):
                stream.seek((size - _SAMPLE) * k // (_SAMPLES - 1))
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()


def slide_id(path: Path) -> str:
    """Default id of a slide: `S` and ten hex digits of its content, so that no file name travels."""
    return f"S{fingerprint(path)[:10]}"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Stages recorded in a slide's folder; an empty mapping when there is no manifest yet."""
    path = folder / MANIFEST
    return read_json(path) if path.exists() else {}


def record_stage(folder: Path, stage: str, entry: Mapping[str, Any]) -> None:
    """Enter a finished stage: what it was made from (`key`), and what must exist (`files`: name → bytes)."""
    manifest = read_manifest(folder)
    manifest[stage] = dict(entry)
    write_json(folder / MANIFEST, manifest)


def forget_stage(folder: Path, stage: str) -> None:
    """Take out a stage whose files are about to be replaced by something else; nothing if it is not recorded."""
    manifest = read_manifest(folder)
    if manifest.pop(stage, None) is not None:
        write_json(folder / MANIFEST, manifest)


def is_fresh(folder: Path, stage: str, key: Mapping[str, Any]) -> bool:
    """Whether a stage is recorded for exactly these inputs and config, and all its files are there in full size."""
    entry = read_manifest(folder).get(stage)
    if entry is None or entry.get("key") != dict(key):
        return False
    return all(
        (folder / name).exists() and (folder / name).stat().st_size == size for name, size in entry["files"].items()
    )


def sizes(folder: Path, names: list[str]) -> dict[str, int]:
    """Sizes of files in a folder, as `record_stage` wants them."""
    return {name: (folder / name).stat().st_size for name in names}


def sweep(folder: Path) -> None:
    """Remove what an interrupted run left half-written."""
    for leftover in sorted(folder.rglob(f"*{PARTIAL}")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold an output folder against other runs on this machine.

    Raises:
        OutputBusyError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise OutputBusyError(f"{folder} is in use by another run; wait for it or give another --out") from error
        yield


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
