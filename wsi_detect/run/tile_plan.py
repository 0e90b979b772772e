"""What tiling will take, before it is begun: patches, bytes, files, minutes; and whether the disk has room for it."""

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_detect.errors import EnvironmentFaultError, WsiDetectError
from wsi_detect.run.slide_list import SlideRow
from wsi_detect.run.status import without_names
from wsi_detect.run.summary import exit_code_of
from wsi_detect.run.tile import TileBatch, finished
from wsi_detect.run.tile_result import NOT_TILED, TILED
from wsi_detect.slides.reader import SlideReader
from wsi_detect.slides.tiles import tiles_of
from wsi_detect.tiling.journal import STORE
from wsi_detect.tiling.make import PatchMaker, blank_tiles
from wsi_detect.tiling.patch_store import MASK_COLUMNS, PIXEL_COLUMNS
from wsi_detect.tiling.plan import Plan, make_plan
from wsi_detect.tiling.sweep import needed
from wsi_detect.workers import Limits, map_items

#: Patches made on trial: runs of neighbours, which share tiles as they will in earnest.
_RUNS, _RUN = 12, 3
#: A store can be as many times larger than its slide, whatever the codec; where there is so much room, nobody counts.
_AMPLE = 30
#: Bytes a patch takes in the columns, and the store's metadata.
_ROW_BYTES, _STORE_BYTES = 24 + 4 * (len(MASK_COLUMNS) + len(PIXEL_COLUMNS)), 20_000
#: An estimate is an estimate: keep this share of it free on top.
_MARGIN = 0.05

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlidePlan:
    """What one slide will take.

    Attributes:
        slide_id: of the slide.
        patches: to be kept.
        patch_px: side of a patch.
        mpp: µm per px of the patches.
        codec: what "auto" comes to.
        codec_reason: why.
        bytes: of the store; of the slide's own tiles counted, otherwise guessed from a few patches and their coverage.
        files: of the store.
        seconds: of one thread; from a few patches made on trial.
        there: bytes that are on the disk already, from an interrupted run.
        error: why the slide cannot be tiled; the rest is then empty.
    """

    slide_id: str
    patches: int = 0
    patch_px: int = 0
    mpp: float | None = None
    codec: str = ""
    codec_reason: str = ""
    bytes: int = 0
    files: int = 0
    seconds: float = 0.0
    there: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What a run will take of a disk.

    Attributes:
        folder: on that disk: where the stores go, or the nearest folder above that exists.
        needed: bytes still to be written.
        free: bytes the disk has.
        slides: that many are to be tiled.
    """

    folder: Path
    needed: int
    free: int
    slides: int

    def check(self) -> None:
        """Refuse to begin what cannot be ended.

        Raises:
            EnvironmentFaultError: it does not fit.
        """
        lacking = self.needed * (1 + _MARGIN) - self.free
        if lacking > 0:
            raise EnvironmentFaultError(
                f"no space left on {self.folder}: need ~{lacking / 1e9:.2g} GB more for {self.slides} slides "
                f"(~{self.needed / 1e9:.2g} GB, {self.free / 1e9:.2g} GB free)"
            )


def plan_slides(
    rows: Sequence[SlideRow],
    batch: TileBatch,
    *,
    workers: int = 1,
    limits: Limits | None = None,
    on_done: Callable[[SlidePlan], None] | None = None,
) -> list[SlidePlan]:
    """Plan slides, each in a child process as for `tile_slides`; nothing is written.

    Args:
        rows: the slides, in any order; those that are tiled already are left out.
        batch: what will be done to each.
        workers: processes.
        limits: what one slide may take.
        on_done: called with each plan as it becomes known.

    Returns:
        The plans, by slide id.

    Raises:
        StaleArtifactError: see `tile_slides`.
    """
    done = finished(rows, batch)
    todo = sorted((row for row in rows if row.slide_id not in done), key=lambda row: row.slide_id)
    plans = {}
    for outcome in map_items(_plan, todo, batch, workers=max(workers, 1), limits=limits):
        row = outcome.item
        reason = without_names(outcome.error or "", row.slide_id, Path(row.path))
        plan = outcome.result or SlidePlan(row.slide_id, error=reason)
        plans[row.slide_id] = plan
        if on_done is not None:
            on_done(plan)
    return [plans[row.slide_id] for row in todo]


def room_for(plans: Sequence[SlidePlan], out: Path) -> Room:
    """Hold plans against the disk."""
    able = [plan for plan in plans if plan.error is None]
    folder = _existing(out)
    return Room(folder, sum(max(plan.bytes - plan.there, 0) for plan in able), _free(folder), len(able))


def check_room(rows: Sequence[SlideRow], batch: TileBatch, *, workers: int = 1, limits: Limits | None = None) -> None:
    """Refuse to begin what the disk cannot hold; slides are looked at only where it might be short.

    Raises:
        EnvironmentFaultError: it does not fit.
        StaleArtifactError: see `tile_slides`.
    """
    largest = _AMPLE * sum(_size(Path(row.path)) for row in rows) + _STORE_BYTES * len(rows)
    if _free(_existing(batch.out)) < largest and batch.config.codec != "none":
        _log.info("little room on the disk: planning first")
        room_for(plan_slides(rows, batch, workers=workers, limits=limits), batch.out).check()


def plans_code(plans: Sequence[SlidePlan]) -> int:
    """0 when every slide can be tiled, 4 when none can, 3 in between."""
    return exit_code_of((NOT_TILED if plan.error else TILED for plan in plans), good={TILED}, bad=NOT_TILED)


def estimate(slide: SlideReader, batch: TileBatch, row: SlideRow) -> SlidePlan:
    """Plan one open slide, and make a few of its patches on trial.

    Raises:
        WsiDetectError: the slide cannot be tiled.
    """
    started = time.monotonic()
    plan = make_plan(slide, batch.config_of(row))
    blank = None if plan.codec == "none" else blank_tiles(plan, slide)
    planned_s = time.monotonic() - started
    pixels, patch_s = _trial(plan, PatchMaker(plan, slide, blank)) if plan.codec != "none" else (0.0, 0.0)
    rows = len(plan.patch_ids)
    if plan.codec == "jpeg_tiles":
        pixels = _own_tiles(plan, slide)
    folder = batch.out / row.slide_id
    return SlidePlan(
        slide_id=row.slide_id,
        patches=rows,
        patch_px=plan.config.patch_px,
        mpp=plan.layout.mpp,
        codec=plan.codec,
        codec_reason=plan.layout.codec_reason,
        bytes=max(round(pixels), 0) + rows * _ROW_BYTES + _STORE_BYTES,
        files=_files(plan),
        seconds=planned_s + rows * patch_s,
        there=sum(path.stat().st_size for path in (folder / STORE).rglob("*") if path.is_file()),
    )


def _plan(batch: TileBatch, row: SlideRow) -> SlidePlan:
    try:
        with batch.open(row) as slide:
            return estimate(slide, batch, row)
    except EnvironmentFaultError:
        raise
    except WsiDetectError as error:
        return SlidePlan(row.slide_id, error=without_names(str(error), row.slide_id, Path(row.path)))


def _trial(plan: Plan, maker: PatchMaker) -> tuple[float, float]:
    """Guess from some patches the bytes of all, and the seconds one takes."""
    rows = len(plan.patch_ids)
    starts = sorted({int(start) for start in np.linspace(0, max(rows - _RUN, 0), _RUNS)}) if rows else []
    tried = [row for start in starts for row in range(start, min(start + _RUN, rows))]
    started = time.monotonic()
    sizes = [len(made.chunk) for start in starts for made in maker.make(range(start, min(start + _RUN, rows)))]
    passed = time.monotonic() - started
    if not tried:
        return 0.0, 0.0
    # The more cells, the larger: those tried may be emptier, or fuller, than most.
    covered = np.column_stack([np.ones(rows), plan.coverage])
    weights = np.linalg.lstsq(covered[tried], np.array(sizes, dtype=np.float64))[0]
    return float((covered @ weights).sum()), passed / len(tried)


def _own_tiles(plan: Plan, slide: SlideReader) -> int:
    """Bytes of the tiles of all patches, those in two patches counted twice, and of the chunks around them."""
    tiles, level = tiles_of(slide), plan.layout.level
    table = tiles.levels[level] if tiles is not None and level is not None else None
    if table is None:
        raise ValueError("the slide's tiles were planned for, and are not there")
    total = 0
    for x, y in (plan.origins // plan.size.step).tolist():
        down, across = needed(table, x, y, plan.config.patch_px)
        lengths = table.lengths[down.start : down.stop, across.start : across.stop]
        total += int(lengths.sum()) + 8 * lengths.size + len(table.tables) + 64
    return total


def _files(plan: Plan) -> int:
    """Files of the store: the group, two a column, and with pixels the array and its shards."""
    columns = 2 + len(MASK_COLUMNS) + len(PIXEL_COLUMNS)
    return 1 + 2 * columns + (0 if plan.codec == "none" else 1 + len(plan.shards))


def _size(path: Path) -> int:
    """Bytes of a slide: of all files of one that has a folder beside it (MRXS), or shares one with its other levels."""
    if not path.is_file():
        return 0
    folder = path.with_suffix("") if path.suffix.lower() == ".mrxs" else path.parent if path.suffix == ".dcm" else None
    parts = [part for part in folder.iterdir() if part.is_file()] if folder is not None and folder.is_dir() else []
    return sum(part.stat().st_size for part in {path, *parts})


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
