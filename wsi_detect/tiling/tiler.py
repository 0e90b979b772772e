"""The stage tile: a slide cut into a patch store, shard by shard, by one or several threads.

Each shard is a pure function of (slide, plan, shard number), committed by a rename and then entered in a journal of
its own (size, checksum, columns). After a kill, journalled shards whose files still match are kept. The group's
`zarr.json` is written last: until then there is no store.
"""

import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_detect import artifact
from wsi_detect.errors import ArtifactError, StaleArtifactError
from wsi_detect.slides import open_slide
from wsi_detect.slides.reader import SlideFormat, SlideReader
from wsi_detect.tiling import shard
from wsi_detect.tiling.make import MadePatch, PatchMaker, blank_tiles
from wsi_detect.tiling.patch_store import (
    PIXEL_COLUMNS,
    ROOT,
    PatchStore,
    check_size,
    digest_of,
    read_attributes,
    shard_path,
)
from wsi_detect.tiling.plan import Plan, TilingConfig, key_of, make_plan

STORE = "patches.zarr"
JOURNAL = "patches.journal"
_PLAN = "plan.json"
#: Rows of patches a thread takes at a time, if there are enough: at the seams between threads tiles are decoded twice.
_SPAN_ROWS = 3

#: A slide format of one's own, or a class called with path and id, where several threads open the slide.
SlideOpener = SlideFormat | Callable[[Path, str], SlideReader]
Columns = dict[str, list[float | None]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a slide is.

    Attributes:
        done: patches made, those kept from an interrupted run among them.
        patches: of the slide.
        made: patches made in this run.
        patch_px: side of a patch.
    """

    done: int
    patches: int
    made: int
    patch_px: int


@dataclass(frozen=True, slots=True)
class _Way:
    """How to go about it; nothing here may change a byte of the store."""

    threads: int
    on_progress: Callable[[Progress], None] | None
    reader: SlideOpener | None
    overwrite: bool


@dataclass(frozen=True, slots=True)
class SlideSource:
    """What a thread needs to open a slide for itself: a handle is never shared."""

    path: Path
    mpp: float | None
    mpp_source: str
    slide_id: str
    reader: SlideOpener | None = None

    @classmethod
    def of(cls, slide: SlideReader, reader: SlideOpener | None = None) -> "SlideSource":
        """Describe an open slide; a resolution that came from the file is left to be read there again."""
        info = slide.info
        given = info.mpp if info.mpp_source not in ("file", "missing") else None
        return cls(info.path, given, info.mpp_source, info.slide_id, reader)

    def open(self) -> SlideReader:
        """Open the slide, which was let in before, whatever its size."""
        return open_slide(
            self.path,
            mpp=self.mpp,
            mpp_source=self.mpp_source,
            slide_id=self.slide_id,
            max_pixels=sys.maxsize,
            reader=self.reader,
        )


def tile_slide(
    slide: SlideReader | Path,
    out: Path,
    config: TilingConfig | None = None,
    *,
    threads: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
    reader: SlideOpener | None = None,
    overwrite: bool = False,
) -> PatchStore:
    """Cut a slide into patches.

    Args:
        slide: an open slide, or the path of one that says its own resolution.
        out: folder of the slide; gets `patches.zarr`. A store there made from the same inputs is returned as it is,
            and an interrupted one is completed.
        config: patch size, resolution, codec, mask.
        threads: that read and encode, each with its own slide handle; the bytes do not depend on it.
        on_progress: called after each patch, by whichever thread made it, one at a time.
        reader: how each thread opens the slide, if not by one of `slides.READERS`.
        overwrite: replace a store made from anything else, instead of refusing.

    Returns:
        The store. When `slide` is an open slide, pixels of an index-only store are read through it.

    Raises:
        MissingResolutionError: nobody knows the size of a slide px.
        ConfigError: overlap and patch size do not fit together at this slide's resolution, or the slide's own tiles
            are asked for and cannot be stored.
        StaleArtifactError: a store, whole or begun, of another slide or configuration is there.
    """
    config = config or TilingConfig()
    way = _Way(threads, on_progress, reader, overwrite)
    if isinstance(slide, Path):
        with open_slide(slide, reader=reader) as opened:
            _tile(opened, out, config, way)
        return PatchStore.open(out / STORE)
    _tile(slide, out, config, way)
    return PatchStore.open(out / STORE, slide)


def is_tiled(slide: SlideReader, out: Path, config: TilingConfig) -> bool:
    """Whether `out` holds a complete store of this slide under this configuration."""
    try:
        fresh = read_attributes(out / STORE).get("key") == key_of(slide.info, config)
        if fresh:
            PatchStore.open(out / STORE)
    except ArtifactError as error:
        _log.debug("tile %s: %s", slide.info.slide_id, error)
        return False
    return fresh


def make_shard(plan: Plan, slide: SlideReader, number: int) -> tuple[bytes, Columns]:
    """Make one shard anew: the bytes of its file, and its part of the pixel columns."""
    made = list(PatchMaker(plan, slide, blank_tiles(plan, slide)).make(plan.shards[number]))
    return _packed(plan, made)


def _packed(plan: Plan, made: Sequence[MadePatch]) -> tuple[bytes, Columns]:
    columns = {name: [patch.values[name] for patch in made] for name in PIXEL_COLUMNS}
    return shard.pack([patch.chunk for patch in made], plan.shard_patches), columns


def _tile(slide: SlideReader, out: Path, config: TilingConfig, way: _Way) -> None:
    name = slide.info.slide_id
    if is_tiled(slide, out, config):
        # Left behind when the last run was killed between its last two steps.
        shutil.rmtree(out / JOURNAL, ignore_errors=True)
        _log.info("tile %s: nothing to do", name)
        return
    if not way.overwrite:
        check_replaceable(out, key_of(slide.info, config))
    start = time.monotonic()
    plan = make_plan(slide, config)
    todo = _prepare(plan, out)
    total = 0 if plan.codec == "none" else len(plan.shards)
    if todo and len(todo) < total:
        _log.info("tile %s: resuming, %d of %d shards kept", name, total - len(todo), total)
    if todo:
        _Run(plan, out, todo, way).make(slide)
    _finish(plan, out)
    _log.info("tile %s: %d patches, %.1f s", name, len(plan.patch_ids), time.monotonic() - start)


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


def _prepare(plan: Plan, out: Path) -> list[int]:
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


def _journal_path(out: Path, number: int) -> Path:
    return out / JOURNAL / f"{number:05d}.json"


def _is_kept(out: Path, number: int) -> bool:
    """Whether a shard was journalled and its file is still what was written."""
    path = _journal_path(out, number)
    if not path.exists():
        return False
    entry = artifact.read_json(path)
    try:
        check_size(shard_path(out / STORE, number), entry["size"], f"shard {number + 1}")
    except ArtifactError as error:
        _log.warning("tile: made again: %s", error)
        return False
    return bool(digest_of(shard_path(out / STORE, number).read_bytes()) == entry["sha256"])


class _Run:
    """The patches of the shards left to do, made by threads and put together to shards in order."""

    def __init__(self, plan: Plan, out: Path, todo: Sequence[int], way: _Way) -> None:
        self._plan, self._out, self._way = plan, out, way
        self._spans = _spans(plan, todo, way.threads)
        self._kept = len(plan.patch_ids) - sum(len(span) for span in self._spans)
        self._made = 0
        self._open: dict[int, dict[int, MadePatch]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def make(self, slide: SlideReader) -> None:
        """Make them all."""
        blank = blank_tiles(self._plan, slide)
        if self._way.threads <= 1:
            for span in self._spans:
                self._make_span(PatchMaker(self._plan, slide, blank), span)
            return
        source = SlideSource.of(slide, self._way.reader)

        def work(span: range) -> None:
            with source.open() as own:
                self._make_span(PatchMaker(self._plan, own, blank), span)

        with ThreadPoolExecutor(self._way.threads, thread_name_prefix="tile") as pool:
            try:
                for result in [pool.submit(work, span) for span in self._spans]:
                    result.result()
            except BaseException:
                # The first error, or an interrupt, ends the other threads at their next patch.
                self._stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _make_span(self, maker: PatchMaker, span: range) -> None:
        for row, patch in zip(span, maker.make(span), strict=True):
            if self._stop.is_set():
                return
            self._add(row, patch)

    def _add(self, row: int, patch: MadePatch) -> None:
        """Take a finished patch; the one that completes a shard writes it."""
        number, place = divmod(row, self._plan.shard_patches)
        with self._lock:
            parts = self._open.setdefault(number, {})
            parts[place] = patch
            complete = len(parts) == len(self._plan.shards[number])
            if complete:
                del self._open[number]
            self._made += 1
            if self._way.on_progress is not None:
                done = self._kept + self._made
                total = len(self._plan.patch_ids)
                self._way.on_progress(Progress(done, total, self._made, self._plan.config.patch_px))
        if complete:
            _commit(self._plan, self._out, number, [parts[place] for place in sorted(parts)])


def _spans(plan: Plan, todo: Sequence[int], threads: int) -> list[range]:
    """Cut the rows of the shards left to do into runs: long ones share most tiles, several keep all threads busy."""
    runs: list[range] = []
    for number in todo:
        rows = plan.shards[number]
        if runs and runs[-1].stop == rows.start:
            rows = range(runs.pop().start, rows.stop)
        runs.append(rows)
    if threads <= 1:
        return runs
    total = sum(len(run) for run in runs)
    least = _SPAN_ROWS * plan.grid.shape[1]
    size = max(-(-total // (threads * max(1, total // (threads * least)))), 1)
    return [run[start : start + size] for run in runs for start in range(0, len(run), size)]


def _commit(plan: Plan, out: Path, number: int, made: Sequence[MadePatch]) -> None:
    content, columns = _packed(plan, made)
    artifact.write_bytes(shard_path(out / STORE, number), content)
    entry = {"size": len(content), "sha256": digest_of(content), "columns": columns}
    artifact.write_json(_journal_path(out, number), entry)
    _log.debug("tile %s: shard %d of %d", plan.info.slide_id, number + 1, len(plan.shards))


def _finish(plan: Plan, out: Path) -> None:
    """Write the columns, then the group's metadata, which makes the store exist."""
    store = out / STORE
    rows = len(plan.patch_ids)
    pixel = {name: np.full(rows, np.nan, dtype=np.float32) for name in PIXEL_COLUMNS}
    shards = []
    if plan.codec != "none":
        for number, run in enumerate(plan.shards):
            entry = artifact.read_json(_journal_path(out, number))
            shards.append({"size": entry["size"], "sha256": entry["sha256"]})
            for name in PIXEL_COLUMNS:
                pixel[name][run.start : run.stop] = np.array(entry["columns"][name], dtype=np.float32)
    shard.write_column(store / "patch_id", plan.patch_ids)
    shard.write_column(store / "origin_px", plan.origins)
    for name, values in {"coverage": plan.coverage, **pixel}.items():
        shard.write_column(store / name, values)
    artifact.write_json(store / ROOT, shard.group_metadata(plan.attributes(shards)))
    shutil.rmtree(out / JOURNAL)
