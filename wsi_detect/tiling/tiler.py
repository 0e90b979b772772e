"""The stage tile: a slide cut into a patch store, shard by shard, by one or several processes.

Each shard is a pure function of (slide, plan, shard number), committed by a rename and then entered in a journal of
its own (size, checksum, columns). After a kill, journalled shards whose files still match are kept. The group's
`zarr.json` is written last: until then there is no store.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from wsi_detect import artifact
from wsi_detect.errors import ArtifactError, DamagedSlideError
from wsi_detect.slides import open_slide
from wsi_detect.slides.reader import SlideFormat, SlideReader
from wsi_detect.slides.resample import read_at_mpp
from wsi_detect.tiling import shard
from wsi_detect.tiling.chunk import CodecName, encode_chunk
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
from wsi_detect.tiling.pool import map_shards
from wsi_detect.tiling.quality import measure

STORE = "patches.zarr"
JOURNAL = "patches.journal"
_PLAN = "plan.json"

#: A slide format of one's own, or a class called with path and id; picklable by name, when several processes open it.
SlideOpener = SlideFormat | Callable[[Path, str], SlideReader]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlideSource:
    """What a process needs to open a slide for itself: a handle is never shared."""

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
        """Open the slide."""
        return open_slide(
            self.path, mpp=self.mpp, mpp_source=self.mpp_source, slide_id=self.slide_id, reader=self.reader
        )


@dataclass(frozen=True, slots=True)
class _Way:
    """How to go about it; nothing here may change a byte of the store."""

    workers: int
    progress: bool
    reader: SlideOpener | None


@dataclass(frozen=True, slots=True)
class _ShardTask:
    """One shard to write: the origins of its patches in slide px, and where it goes."""

    number: int
    origins: list[tuple[int, int]]
    patch_slide_px: int
    patch_px: int
    codec: CodecName
    capacity: int
    out: Path


def tile_slide(
    slide: SlideReader | Path,
    out: Path,
    config: TilingConfig | None = None,
    *,
    workers: int = 1,
    progress: bool = False,
    mpp: float | None = None,
    reader: SlideOpener | None = None,
) -> PatchStore:
    """Cut a slide into patches.

    Args:
        slide: an open slide, or its path.
        out: folder of the slide; gets `patches.zarr`. A store there made from the same inputs is returned as it is,
            an interrupted one is completed, any other is replaced.
        config: patch size, resolution, codec, mask.
        workers: processes that read and encode, each with its own slide handle; the bytes do not depend on it.
        progress: show a bar, if there is a terminal to show it on.
        mpp: µm per slide px, when `slide` is a path whose file does not say.
        reader: how each process opens the slide, if not by one of `slides.READERS`.

    Returns:
        The store. When `slide` is an open slide, pixels of an index-only store are read through it.

    Raises:
        MissingResolutionError: nobody knows the size of a slide px.
        DamagedSlideError: a decoder crashed twice on the same shard.
        ConfigError: overlap and patch size do not fit together at this slide's resolution.
    """
    config = config or TilingConfig()
    if isinstance(slide, Path):
        with open_slide(slide, mpp=mpp, reader=reader) as opened:
            _tile(opened, out, config, _Way(workers, progress, reader))
        return PatchStore.open(out / STORE)
    _tile(slide, out, config, _Way(workers, progress, reader))
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


def _tile(slide: SlideReader, out: Path, config: TilingConfig, way: _Way) -> None:
    name = slide.info.slide_id
    if is_tiled(slide, out, config):
        # Left behind when the last run was killed between its last two steps.
        shutil.rmtree(out / JOURNAL, ignore_errors=True)
        _log.info("tile %s: nothing to do", name)
        return
    start = time.monotonic()
    plan = make_plan(slide, config)
    tasks = _prepare(plan, out)
    total = 0 if config.codec == "none" else len(plan.shards)
    if tasks and len(tasks) < total:
        _log.info("tile %s: resuming, %d of %d shards kept", name, total - len(tasks), total)
    setup = SlideSource.of(slide, way.reader).open if way.workers > 1 else partial(_borrowed, slide)
    with _bar(way.progress, total, total - len(tasks)) as advance:

        def done(number: int, pid: int) -> None:
            _log.debug("tile %s: shard %d of %d by process %d", name, tasks[number].number + 1, total, pid)
            advance()

        map_shards(_write_shard, tasks, way.workers, setup=setup, on_result=done, crash_error=DamagedSlideError)
    _finish(plan, out)
    _log.info("tile %s: %d patches, %.1f s", name, len(plan.patch_ids), time.monotonic() - start)


def _prepare(plan: Plan, out: Path) -> list[_ShardTask]:
    """Make the folders fit the plan, and return what is left to do."""
    store, journal = out / STORE, out / JOURNAL
    unfinished = (journal / _PLAN).exists() and artifact.read_json(journal / _PLAN) == plan.key
    # A finished store of something else, or a damaged one, must not look finished while it is being replaced.
    (store / ROOT).unlink(missing_ok=True)
    if not unfinished:
        for folder in (journal, store):
            shutil.rmtree(folder, ignore_errors=True)
        artifact.write_json(journal / _PLAN, plan.key)
    for folder in (journal, store):
        artifact.sweep(folder)
    if plan.config.codec == "none":
        return []
    metadata = shard.images_metadata(
        len(plan.patch_ids), plan.config.patch_px, plan.config.shard_patches, plan.config.codec
    )
    artifact.write_json(store / "images" / ROOT, metadata)
    origins = plan.grid.origins()[plan.patch_ids].tolist()
    return [
        _ShardTask(
            number,
            [(x, y) for x, y in origins[rows.start : rows.stop]],
            plan.grid.patch,
            plan.config.patch_px,
            plan.config.codec,
            plan.config.shard_patches,
            out,
        )
        for number, rows in enumerate(plan.shards)
        if not _is_kept(out, number)
    ]


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


def _write_shard(task: _ShardTask, slide: SlideReader) -> int:
    """Read, encode and commit the patches of one shard; returns the process that did it."""
    chunks = []
    columns: dict[str, list[float]] = {name: [] for name in PIXEL_COLUMNS}
    for x, y in task.origins:
        region = read_at_mpp(slide, x, y, task.patch_slide_px, task.patch_px)
        quality = measure(region.rgb)
        values = (region.no_data, region.unreadable, quality.focus, quality.stain, quality.crowding)
        for name, value in zip(PIXEL_COLUMNS, values, strict=True):
            columns[name].append(float(value))
        chunks.append(encode_chunk(region.rgb, task.codec))
    content = shard.pack(chunks, task.capacity)
    artifact.write_bytes(shard_path(task.out / STORE, task.number), content)
    entry = {"size": len(content), "sha256": digest_of(content), "columns": columns}
    artifact.write_json(_journal_path(task.out, task.number), entry)
    return os.getpid()


def _finish(plan: Plan, out: Path) -> None:
    """Write the columns, then the group's metadata, which makes the store exist."""
    store = out / STORE
    rows = len(plan.patch_ids)
    pixel = {name: np.full(rows, np.nan, dtype=np.float32) for name in PIXEL_COLUMNS}
    shards = []
    if plan.config.codec != "none":
        for number, run in enumerate(plan.shards):
            entry = artifact.read_json(_journal_path(out, number))
            shards.append({"size": entry["size"], "sha256": entry["sha256"]})
            for name in PIXEL_COLUMNS:
                pixel[name][run.start : run.stop] = entry["columns"][name]
    shard.write_column(store / "patch_id", plan.patch_ids)
    shard.write_column(store / "origin_px", plan.grid.origins()[plan.patch_ids])
    for name, values in {"coverage": plan.coverage, **pixel}.items():
        shard.write_column(store / name, values)
    artifact.write_json(store / ROOT, shard.group_metadata(plan.attributes(shards)))
    shutil.rmtree(out / JOURNAL)


@contextmanager
def _borrowed(slide: SlideReader) -> Iterator[SlideReader]:
    """Lend a slide its owner will close."""
    yield slide


@contextmanager
def _bar(wanted: bool, total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on a terminal; yields what to call after each shard."""
    with ExitStack() as stack:
        advance: Callable[[], None] = _nothing
        if wanted and total:
            from rich.console import Console
            from rich.progress import Progress

            console = Console(stderr=True)
            if console.is_terminal:
                bar = stack.enter_context(Progress(console=console))
                advance = partial(bar.advance, bar.add_task("tile", total=total, completed=done))
        yield advance


def _nothing() -> None:
    """Do nothing."""
