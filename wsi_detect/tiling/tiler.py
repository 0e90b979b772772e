"""The stage tile: a slide cut into a patch store, shard by shard, by one or several threads.

Each shard is a pure function of slide, plan and shard number, so that a run may be stopped at any moment and taken up
again (`journal.py`), or one shard made anew (`repair.py`).
"""

import logging
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from wsi_detect.errors import ArtifactError
from wsi_detect.slides import open_slide
from wsi_detect.slides.reader import SlideFormat, SlideReader
from wsi_detect.tiling import shard
from wsi_detect.tiling.blank import BlankTiles
from wsi_detect.tiling.journal import JOURNAL, STORE, Columns, check_replaceable, commit, finish, prepare
from wsi_detect.tiling.make import MadePatch, PatchMaker, blank_tiles
from wsi_detect.tiling.patch_store import PIXEL_COLUMNS, PatchStore, read_attributes
from wsi_detect.tiling.plan import Plan, TilingConfig, key_of, make_plan

#: Rows of patches a thread takes at a time, if there are enough: at the seams between threads tiles are decoded twice.
_SPAN_ROWS = 3

#: A slide format of one's own, or a class called with path and id, where several threads open the slide.
SlideOpener = SlideFormat | Callable[[Path, str], SlideReader]

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
    todo = prepare(plan, out)
    total = 0 if plan.codec == "none" else len(plan.shards)
    if todo and len(todo) < total:
        _log.info("tile %s: resuming, %d of %d shards kept", name, total - len(todo), total)
    if todo:
        _Run(plan, out, todo, way).make(slide)
    finish(plan, out)
    _log.info("tile %s: %d patches, %.1f s", name, len(plan.patch_ids), time.monotonic() - start)


class _Run:
    """The patches of the shards left to do, made by threads and put together to shards in order."""

    def __init__(self, plan: Plan, out: Path, todo: Sequence[int], way: _Way) -> None:
        self._plan, self._out, self._way = plan, out, way
        self._spans = deque(_spans(plan, todo, way.threads))
        self._kept = len(plan.patch_ids) - sum(len(span) for span in self._spans)
        self._made = 0
        self._open: dict[int, dict[int, MadePatch]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def make(self, slide: SlideReader) -> None:
        """Make them all."""
        blank = blank_tiles(self._plan, slide)
        config = self._plan.config
        # Copying is a few calls a tile, between which threads only wait for each other.
        copies = self._plan.codec == "jpeg_tiles" and not (config.quality or config.check_tiles)
        threads = 1 if copies else min(self._way.threads, len(self._spans))
        if threads <= 1:
            self._work(nullcontext(slide), blank)
            return
        source = SlideSource.of(slide, self._way.reader)
        with ThreadPoolExecutor(threads, thread_name_prefix="tile") as pool:
            try:
                # The slide that is open serves the first thread; each of the others opens its own.
                first = pool.submit(self._work, nullcontext(slide), blank)
                others = [pool.submit(self._work, source.open(), blank) for _ in range(threads - 1)]
                for result in (first, *others):
                    result.result()
            finally:
                # After an error, or an interrupt, the other threads end at their next patch.
                self._stop.set()

    def _work(self, lent: AbstractContextManager[SlideReader], blank: BlankTiles | None) -> None:
        """Make one span after the other until none is left."""
        with lent as slide:
            maker = PatchMaker(self._plan, slide, blank)
            try:
                while (span := self._next()) is not None and not self._stop.is_set():
                    self._make_span(maker, span)
            except BaseException:
                self._stop.set()
                raise

    def _next(self) -> range | None:
        with self._lock:
            return self._spans.popleft() if self._spans else None

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
            commit(self._plan, self._out, number, *_packed(self._plan, [parts[place] for place in sorted(parts)]))


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
