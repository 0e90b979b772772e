"""Patches made ready for the store: read or copied, measured, encoded."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wsi_detect.slides.reader import SlideReader
from wsi_detect.slides.tiles import tiles_of
from wsi_detect.tiling.blank import BlankTiles, find_blank
from wsi_detect.tiling.chunk import encode_chunk, with_checksum
from wsi_detect.tiling.patch_store import PIXEL_COLUMNS
from wsi_detect.tiling.plan import Plan
from wsi_detect.tiling.quality import QUALITY_COLUMNS, SAMPLE_PX, measure, sample_boxes
from wsi_detect.tiling.sweep import TileSweep
from wsi_detect.tiling.verbatim import TileCopier

_Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class MadePatch:
    """One patch, ready for the disk: its chunk, and a number (None: unknown) for each of `PIXEL_COLUMNS`."""

    chunk: bytes
    values: dict[str, float | None]


class PatchMaker:
    """Makes the patches of a plan; one a thread. What it makes depends on slide and plan alone."""

    def __init__(self, plan: Plan, slide: SlideReader, blank: BlankTiles | None = None) -> None:
        """Prepare; `blank` as `blank_tiles` gives it, to share it between threads."""
        self._plan, self._slide, self._blank = plan, slide, blank

    def make(self, rows: range) -> Iterator[MadePatch]:
        """Make the patches of some rows of the plan, in order."""
        return self._copied(rows) if self._plan.codec == "jpeg_tiles" else self._encoded(rows)

    def _encoded(self, rows: range) -> Iterator[MadePatch]:
        plan = self._plan
        codec: Literal["jpeg", "zstd"] = "zstd" if plan.codec == "zstd" else "jpeg"
        sweep = TileSweep(
            self._slide,
            plan.origins[rows.start : rows.stop],
            plan.size,
            level=plan.layout.level,
            plane=plan.config.plane,
            blank=self._blank,
        )
        # One buffer for all: the pages of a fresh one cost a tenth of the decoding.
        rgb = np.empty((plan.config.patch_px, plan.config.patch_px, 3), dtype=np.uint8)
        for i, corners in enumerate(self._corners(rows)):
            found = sweep.read(i, rgb)
            samples = [rgb[y : y + SAMPLE_PX, x : x + SAMPLE_PX] for x, y in corners]
            values = {
                "no_data": found.no_data,
                "unreadable": found.unreadable,
                "skipped": found.skipped,
                "plane": float(found.plane),
                **self._quality(samples),
            }
            yield MadePatch(encode_chunk(rgb, codec), {k: values.get(k) for k in PIXEL_COLUMNS})

    def _copied(self, rows: range) -> Iterator[MadePatch]:
        plan, tiles = self._plan, tiles_of(self._slide)
        if tiles is None or plan.layout.level is None:
            raise ValueError("the slide's tiles were planned for, and are not there")
        copier = TileCopier(tiles, plan.layout.level, plan.config.patch_px, check=plan.config.check_tiles)
        origins = plan.origins[rows.start : rows.stop] // plan.size.step
        for (x, y), corners in zip(origins.tolist(), self._corners(rows), strict=True):
            found = copier.read(x, y)
            windows = [copier.read_window(x + left, y + top, SAMPLE_PX) for left, top in corners]
            values = {
                "no_data": found.no_data,
                "unreadable": found.unreadable,
                "skipped": 0.0,
                "plane": 0.0,
                **self._quality([window for window in windows if window is not None]),
            }
            yield MadePatch(with_checksum(found.chunk), {k: values.get(k) for k in PIXEL_COLUMNS})

    def _corners(self, rows: range) -> list[list[tuple[int, int]]]:
        """Top-left corners of the samples of each patch, px of the patch."""
        plan = self._plan
        if not plan.config.quality:
            return [[] for _ in rows]
        origins = plan.origins[rows.start : rows.stop]
        boxes = sample_boxes(plan.cells, origins, plan.grid.patch, plan.config.patch_px)
        return [[(x, y) for x, y in patch if x >= 0] for patch in boxes.tolist()]

    def _quality(self, samples: list[_Image]) -> dict[str, float | None]:
        if not samples:
            return dict.fromkeys(QUALITY_COLUMNS)
        found = astuple(measure(samples, self._plan.cells.ground))
        return {name: value if np.isfinite(value) else None for name, value in zip(QUALITY_COLUMNS, found, strict=True)}


def blank_tiles(plan: Plan, slide: SlideReader) -> BlankTiles | None:
    """Return the tiles the plan lets go undecoded; None if it wants every tile decoded."""
    tiles, level = tiles_of(slide), plan.layout.level
    table = None if tiles is None or level is None else tiles.levels[level]
    if plan.codec != "jpeg" or not plan.config.skip_blank or table is None:
        return None
    return find_blank(slide, table, plan.size.step, plan.cells)
