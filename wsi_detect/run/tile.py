"""Many slides cut into patch stores: one slide a child process at a time, so that a bad file costs one slide."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wsi_detect import artifact
from wsi_detect.errors import ArtifactError, EnvironmentFaultError, StaleArtifactError, WsiDetectError
from wsi_detect.run.config import mask_kind
from wsi_detect.run.slide_list import SlideRow, write_slides
from wsi_detect.run.status import without_names
from wsi_detect.run.summary import write_csv
from wsi_detect.run.tile_result import COLUMNS, NOT_TILED, TileResult, summary_of
from wsi_detect.schema import SCHEMA_VERSION
from wsi_detect.slides import MAX_PIXELS, open_slide
from wsi_detect.slides.reader import SlideReader
from wsi_detect.tiling.journal import STORE, check_replaceable, key_at
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import Progress, SlideOpener, tile_slide
from wsi_detect.workers import Limits, Outcome, map_items, report

TABLE = "tiling.csv"
#: Seconds between two messages of a slide's progress.
_EVERY_S = 0.2
#: Slides whose stores are in the way are named, up to so many.
_NAMED = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TileBatch:
    """What is done to every slide, and where; crosses to worker processes.

    Attributes:
        out: folder of the stores: `out/<slide_id>/patches.zarr`.
        config: patch size, resolution, codec, mask; a mask of kind `auto` goes by the slide's preparation.
        threads: of each process.
        mpp: µm per px of slides for which the manifest gives none; overrides what their files say.
        max_pixels: a slide that declares more is refused.
        overwrite: make anew what was made from another slide file or under another configuration.
        reader: how slides are opened, if not by one of `slides.READERS`; importable by name.
    """

    out: Path
    config: TilingConfig = field(default_factory=TilingConfig)
    threads: int = 1
    mpp: float | None = None
    max_pixels: int = MAX_PIXELS
    overwrite: bool = False
    reader: SlideOpener | None = None

    def __call__(self) -> "TileBatch":
        """Set up a worker: there is nothing to load."""
        return self

    def config_of(self, row: SlideRow) -> TilingConfig:
        """Return the configuration of one slide."""
        mask = self.config.mask
        if mask.preparation != "auto":
            return self.config
        chosen = mask.model_copy(update={"preparation": mask_kind(row.preparation)})
        return self.config.model_copy(update={"mask": chosen})

    def given_mpp(self, row: SlideRow) -> tuple[float | None, str]:
        """Return the resolution stated outside the slide's file, and by whom."""
        return (row.mpp, "manifest") if row.mpp else (self.mpp, "--mpp")

    def open(self, row: SlideRow) -> SlideReader:
        """Open a slide."""
        mpp, source = self.given_mpp(row)
        return open_slide(
            Path(row.path),
            mpp=mpp,
            mpp_source=source,
            slide_id=row.slide_id,
            max_pixels=self.max_pixels,
            reader=self.reader,
        )


def tile_slides(
    rows: Sequence[SlideRow],
    batch: TileBatch,
    *,
    workers: int = 1,
    limits: Limits | None = None,
    on_progress: Callable[[SlideRow, Progress], None] | None = None,
    on_done: Callable[[TileResult], None] | None = None,
) -> list[TileResult]:
    """Cut slides into patch stores; the same call again continues where the last one stopped.

    Args:
        rows: the slides, in any order.
        batch: what is done to each.
        workers: processes, at least one; each takes a slide at a time. The stores do not depend on it.
        limits: what one slide may take.
        on_progress: called with a slide and how far it is, a few times a second.
        on_done: called with each slide's result as it becomes known.

    Returns:
        The results, by slide id. `slides.parquet` and `tiling.csv` are written to `batch.out`.

    Raises:
        OutputBusyError: another run holds the folder, or a slide in it.
        StaleArtifactError: a store, whole or begun, of another slide file or configuration is there, and `overwrite` is
            not set; nothing was touched.
        EnvironmentFaultError: the machine stands in the way.
    """
    rows = sorted(rows, key=lambda row: row.slide_id)
    with artifact.lock(batch.out):
        _sweep(batch.out)
        results = finished(rows, batch)
        todo = [row for row in rows if row.slide_id not in results]
        write_slides(batch.out / "slides.parquet", rows)
        if results:
            _log.info("resuming: %d of %d slides done", len(results), len(rows))
        for result in results.values():
            _tell(on_done, result)
        try:
            with closing(
                map_items(_tile, todo, batch, workers=max(workers, 1), limits=limits, on_progress=on_progress)
            ) as outcomes:
                for outcome in outcomes:
                    result = _result_of(outcome)
                    results[result.slide_id] = result
                    _tell(on_done, result)
        finally:
            for row in todo:
                artifact.sweep(batch.out / row.slide_id)
        ordered = [results[row.slide_id] for row in rows]
        write_csv(batch.out / TABLE, COLUMNS, map(asdict, ordered))
    return ordered


def finished(rows: Sequence[SlideRow], batch: TileBatch) -> dict[str, TileResult]:
    """Results of the slides that need nothing more; found without opening a slide.

    Raises:
        StaleArtifactError: naming, for each store made from something else, what differs.
    """
    done: dict[str, TileResult] = {}
    stale: list[str] = []
    for row in rows:
        folder = batch.out / row.slide_id
        try:
            key = key_at(folder)
            if key is None or not Path(row.path).is_file():
                continue
            check_replaceable(folder, _expected(row, batch, key))
            done[row.slide_id] = summary_of(PatchStore.open(folder / STORE))
        except StaleArtifactError as error:
            stale.append(str(error))
        except (ArtifactError, OSError) as error:
            # Begun, or damaged: the worker completes it, or meets the damage again and records it.
            _log.debug("%s is not finished: %s", row.slide_id, error)
    if stale and not batch.overwrite:
        more = [f"and {len(stale) - _NAMED} slides more"] if len(stale) > _NAMED else []
        raise StaleArtifactError("\n".join(stale[:_NAMED] + more))
    return done


def _expected(row: SlideRow, batch: TileBatch, found: dict[str, object]) -> dict[str, object]:
    """As much of a store's key as is known without opening the slide."""
    mpp, source = batch.given_mpp(row)
    # What a file says of itself is covered by its fingerprint.
    by_file = found.get("mpp_source") if found.get("mpp_source") not in ("manifest", "--mpp") else "file"
    resolution = {"mpp_source": by_file} if mpp is None else {"mpp": mpp, "mpp_source": source}
    return {
        "slide": artifact.fingerprint(Path(row.path)),
        "slide_id": row.slide_id,
        **resolution,
        "schema_version": SCHEMA_VERSION,
        "config": batch.config_of(row).model_dump(mode="json"),
    }


def _tile(batch: TileBatch, row: SlideRow) -> TileResult:
    """Tile one slide, in a worker."""
    folder = batch.out / row.slide_id
    started = time.monotonic()
    made = 0
    told = 0.0

    def tell(progress: Progress) -> None:
        nonlocal made, told
        made = progress.made
        if time.monotonic() - told > _EVERY_S or progress.done == progress.patches:
            told = time.monotonic()
            report(progress)

    try:
        with artifact.lock(folder), batch.open(row) as slide:
            store = tile_slide(
                slide,
                folder,
                batch.config_of(row),
                threads=batch.threads,
                on_progress=tell,
                reader=batch.reader,
                overwrite=batch.overwrite,
            )
            return summary_of(store, made, time.monotonic() - started)
    except EnvironmentFaultError:
        raise
    except WsiDetectError as error:
        return TileResult(row.slide_id, NOT_TILED, without_names(str(error), row.slide_id, Path(row.path)))


def _sweep(out: Path) -> None:
    """Remove this run's own half-written tables."""
    for name in ("slides.parquet", TABLE):
        for leftover in out.glob(f"{name}.*{artifact.PARTIAL}"):
            leftover.unlink()


def _result_of(outcome: Outcome[SlideRow, TileResult]) -> TileResult:
    row = outcome.item
    result = outcome.result
    if result is None:
        reason = without_names(outcome.error or "unknown", row.slide_id, Path(row.path))
        result = TileResult(row.slide_id, NOT_TILED, reason)
    _log.debug("%s: %s, by %s", result.slide_id, result.status, outcome.worker)
    return result


def _tell(on_done: Callable[[TileResult], None] | None, result: TileResult) -> None:
    if on_done is not None:
        on_done(result)
