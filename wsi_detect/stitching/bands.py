"""A slide stitched band by band: memory follows a band of patch rows, and any cut into bands gives the same cells.

A decision is taken only when nothing can change it any more. In a band on its own, a view that reaches into patches
of another band is open, and whatever hangs on an open view stays undecided: it is kept, with the partners it has.
What the bands leave over is then put together from top to bottom, where the same step finds the partners across the
border and decides what now can be decided. The views of two patches are paired when both patches are there, all of
them at once; so neither pairs nor decisions depend on where the bands lie, nor on which of them is done first.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.stitching import ownership
from wsi_detect.stitching.cells import Cells
from wsi_detect.stitching.columns import Detections, numbered
from wsi_detect.stitching.ownership import Views
from wsi_detect.stitching.pairs import Index
from wsi_detect.stitching.rules import StitchingConfig
from wsi_detect.stitching.settling import Rest, settle
from wsi_detect.tiling.grid import TileGrid

_log = logging.getLogger(__name__)

#: Detections of a band, more or less; a row of patches is never divided.
BAND = 100_000

#: First row of patches, and the row after the last.
Rows = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Job:
    """What the bands of a slide have in common.

    Attributes:
        grid: the grid of the patches.
        config: the rules, lengths in slide px.
        before: (P,) detections in the patches before each, where detections are to be numbered.
    """

    grid: TileGrid
    config: StitchingConfig
    before: Index | None = None


def plan(counts: NDArray[np.int64], limit: int) -> list[Rows]:
    """Cut rows of patches, given with their numbers of detections, into bands of about `limit` detections."""
    before = np.cumsum(counts) - counts
    first = np.flatnonzero(np.diff(before // limit, prepend=-1)).tolist()
    return list(zip(first, [*first[1:], len(counts)], strict=True))


def sweep(load: Callable[[int, int], Detections], bands: Sequence[Rows], job: Job) -> Cells:
    """Stitch a slide.

    Args:
        load: gives the detections of rows of patches, from the first to before the last; called in any thread.
        bands: rows, top to bottom, that together are the grid.
        job: the grid and the rules.

    Returns:
        The cells, in no particular order.
    """
    done: list[Cells] = []
    rest: Rest | None = None
    alone = _each(lambda rows: _alone(load(*rows), rows, job), bands, job.config.workers)
    for (_, after), (cells, left) in zip(bands, alone, strict=True):
        across, rest = _put_together(rest, left, after, job)
        done += [cells, across]
    return Cells.join(done)


def _each(
    work: Callable[[Rows], tuple[Cells, Rest]], bands: Sequence[Rows], workers: int
) -> Iterator[tuple[Cells, Rest]]:
    """Yield the results in order; no more bands are begun than workers can hold."""
    if workers <= 1:
        yield from map(work, bands)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="stitch") as threads:
        running = deque(threads.submit(work, rows) for rows in bands[:workers])
        for rows in (*bands[workers:], *[None] * len(running)):
            yield running.popleft().result()
            if rows is not None:
                running.append(threads.submit(work, rows))


def _alone(seen: Detections, rows: Rows, job: Job) -> tuple[Cells, Rest]:
    """Stitch a band on its own."""
    grid, config = job.grid, job.config
    margins = {"core_margin_px": config.jitter * grid.overlap, "cut_margin_px": config.cut_margin_px}
    views = ownership.view(seen.boxes, seen.patch, grid, **margins)
    _log.debug("rows %d to %d: %d detections, %s", *rows, len(seen), threading.current_thread().name)
    above, below = _borders(rows, grid)
    open_views = ((views.sides[1] < above) | (views.sides[3] > below)) & ~views.alone
    said = seen.said if job.before is None else numbered(seen, job.before)
    return settle(Rest.of(views, said, config), views.patch, open_views, config)


def _put_together(above: Rest | None, below: Rest, end: int, job: Job) -> tuple[Cells, Rest]:
    """Put what a band has left over below what those above it have."""
    # Pairs within either part are known.
    part = np.repeat([0, 1], [0 if above is None else len(above), len(below)])
    both = below if above is None else Rest.join(above, below)
    return settle(both, part, _reaching(both.views, end, job), job.config)


def _reaching(views: Views, end: int, job: Job) -> NDArray[np.bool_]:
    """Whether views reach into patches of the rows from `end` on."""
    return np.asarray((views.sides[3] > _borders((0, end), job.grid)[1]) & ~views.alone)


def _borders(rows: Rows, grid: TileGrid) -> tuple[float, float]:
    """Return how far down patches above some rows reach, and how far up those below them."""
    first, after = rows
    count, columns = grid.shape
    start = grid.origins()[::columns, 1]
    above = float(start[first - 1] + grid.patch) if first > 0 else -np.inf
    return above, float(start[after]) if after < count else np.inf
