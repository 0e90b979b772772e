"""The folder of a store while it is being made: what it is made from, which shards are done, and its end.

A shard is committed by a rename and then entered in a journal of its own (size, checksum, columns). After a kill,
journalled shards whose files still match are kept. The group's `zarr.json` is written last: until then there is no
store.
"""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import ArtifactError, StaleArtifactError
from wsi_detect.tiling import shard
from wsi_detect.tiling.patch_store import PIXEL_COLUMNS, ROOT, check_size, digest_of, shard_path
from wsi_detect.tiling.plan import Plan

STORE = "patches.zarr"
JOURNAL = "patches.journal"
_PLAN = "plan.json"

#: Column of a store → its values for some rows; None where unknown.
Columns = dict[str, list[float | None]]

_log = logging.getLogger(__name__)


def key_at(out: Path) -> dict[str, Any] | None:
    """Return what the store in a slide's folder, whole or begun, is made from, as `plan.key_of`; None without one."""
    for path in (out / STORE / ROOT, out / JOURNAL / _PLAN):
        if path.exists():
            found = artifact.read_json(path)
            key: dict[str, Any] = found.get("attributes", found).get("key", {})
            return key
    return None


def check_replaceable(out: Path, new: dict[str, Any]) -> None:
    """Refuse to touch a store, whole or begun, of anything else.

    Args:
        out: folder of the slide.
        new: what the store is to be made from, as `plan.key_of` has it, or part of that.

    Raises:
        StaleArtifactError: naming each thing that differs.
    """
    old = key_at(out)
    if old is None:
        return
    before, after = old.get("config", {}), new["config"]
    differing = [
        f"{name} {old.get(name)!r} → {new[name]!r}" for name in new if name != "config" and old.get(name) != new[name]
    ]
    differing += [
        f"tiling.{name} {before.get(name)!r} → {after[name]!r}" for name in after if before.get(name) != after[name]
    ]
    if differing:
        raise StaleArtifactError(
            f"{out / STORE} was made, or begun, from something else: {'; '.join(differing)}. "
            "Use --overwrite, or give another --out"
        )


def prepare(plan: Plan, out: Path) -> list[int]:
    """Make the folders fit the plan, and return the numbers of the shards that are left to do."""
    store, journal = out / STORE, out / JOURNAL
    unfinished = (journal / _PLAN).exists() and artifact.read_json(journal / _PLAN).get("key") == plan.key
    # A finished store of something else, or a damaged one, must not look finished while it is being replaced.
    (store / ROOT).unlink(missing_ok=True)
    if not unfinished:
        for folder in (journal, store):
            shutil.rmtree(folder, ignore_errors=True)
        artifact.write_json(journal / _PLAN, {"key": plan.key})
    for folder in (journal, store):
        artifact.sweep(folder)
    if plan.codec == "none":
        return []
    metadata = shard.images_metadata(len(plan.patch_ids), plan.config.patch_px, plan.shard_patches, plan.codec)
    artifact.write_json(store / "images" / ROOT, metadata)
    return [number for number in range(len(plan.shards)) if not _is_kept(out, number)]


def _entry_path(out: Path, number: int) -> Path:
    return out / JOURNAL / f"{number:05d}.json"


def _is_kept(out: Path, number: int) -> bool:
    """Whether a shard was journalled and its file is still what was written."""
    path = _entry_path(out, number)
    if not path.exists():
        return False
    entry = artifact.read_json(path)
    try:
        check_size(shard_path(out / STORE, number), entry["size"], f"shard {number + 1}")
    except ArtifactError as error:
        _log.warning("tile: made again: %s", error)
        return False
    return bool(digest_of(shard_path(out / STORE, number).read_bytes()) == entry["sha256"])


def commit(plan: Plan, out: Path, number: int, content: bytes, columns: Columns) -> None:
    """Write a finished shard, then its entry in the journal."""
    # Hashing and writing take as long as each other, and neither needs the interpreter.
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(digest_of, content)
        artifact.write_bytes(shard_path(out / STORE, number), content)
    entry = {"size": len(content), "sha256": digest.result(), "columns": columns}
    artifact.write_json(_entry_path(out, number), entry)
    _log.debug("tile %s: shard %d of %d", plan.info.slide_id, number + 1, len(plan.shards))


def finish(plan: Plan, out: Path) -> None:
    """Write the columns, then the group's metadata, which makes the store exist."""
    store = out / STORE
    rows = len(plan.patch_ids)
    pixel = {name: np.full(rows, np.nan, dtype=np.float32) for name in PIXEL_COLUMNS}
    shards = []
    if plan.codec != "none":
        for number, run in enumerate(plan.shards):
            entry = artifact.read_json(_entry_path(out, number))
            shards.append({"size": entry["size"], "sha256": entry["sha256"]})
            for name in PIXEL_COLUMNS:
                pixel[name][run.start : run.stop] = np.array(entry["columns"][name], dtype=np.float32)
    columns: dict[str, NDArray[Any]] = {
        "patch_id": plan.patch_ids,
        "origin_px": plan.origins,
        "coverage": plan.coverage,
        **pixel,
    }
    # Each file is synced to the disk; waiting for all at once takes hardly longer than for one.
    with ThreadPoolExecutor(len(columns)) as pool:
        for written in [pool.submit(shard.write_column, store / name, values) for name, values in columns.items()]:
            written.result()
    artifact.write_json(store / ROOT, shard.group_metadata(plan.attributes(shards)))
    shutil.rmtree(out / JOURNAL)
