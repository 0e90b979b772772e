"""Pixels for an evidence model: windows of stored patches, or of the slide where patches overlap too little.

Whichever it is, the model sees its own resolution; what is finer is reduced by area.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import ConfigError, ResolutionMismatchError
from wsi_detect.geometry import PatchFrame
from wsi_detect.slides.planes import plane_of
from wsi_detect.slides.resample import RegionPixels, read_at_mpp
from wsi_detect.tiling.evidence_grid import MapGrid, Windows, area_means, lay_windows
from wsi_detect.tiling.patch_store import PatchStore, slide_of

if TYPE_CHECKING:
    from wsi_detect.slides.reader import SlideReader

_EXACT = 1e-3


class WindowReader(Protocol):
    """Reads the window of a patch: its pixels (side, side, 3), and where they lie."""

    def __call__(self, row: int) -> tuple[RegionPixels, PatchFrame]:
        """Read the window of a row of the store."""
        ...


@dataclass(frozen=True, slots=True)
class Sight:
    """What a model is shown of a slide.

    Attributes:
        map_grid: px of the map.
        blocks: (N, 4) px each patch of the store owns, see `MapGrid.blocks`.
        windows: what is shown for each.
        source: `patches` or `slide`.
        margin_px: px of the model around a px that its value may depend on.
        read: gives the pixels.
    """

    map_grid: MapGrid
    blocks: NDArray[np.int64]
    windows: Windows
    source: str
    margin_px: int
    read: WindowReader


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks for.

    Attributes:
        mpp: µm per px of the model.
        tolerance: relative difference of resolution that is let through without resampling.
        margin_px: px of the model around what is kept of its answer.
        stride_px: of its lattice, px of the model.
        reduce: px of the model along a px of the map.
    """

    mpp: float
    tolerance: float
    margin_px: int
    stride_px: int
    reduce: int


def look(store: PatchStore, demand: Demand) -> Sight:
    """Decide what is shown for each patch, and from where it is read.

    Stored patches serve where they reach as far around their cores as the model looks. Otherwise windows are read from
    the slide, if the store was opened with it.

    Raises:
        ResolutionMismatchError: patches, and the slide where it is at hand, are coarser than the model.
        ConfigError: patches overlap less than the model needs, and the slide is not at hand.
    """
    slide = slide_of(store)
    scale = _scale(store, slide, demand)
    grid = MapGrid(store.grid, scale * demand.reduce)
    blocks = grid.blocks()[store.patch_ids]
    windows = lay_windows(grid, blocks, scale, demand.margin_px, demand.stride_px)
    fine = store.mpp <= demand.mpp * (1 + demand.tolerance)
    if not store.index_only and fine and _reach_far_enough(store, windows):
        return Sight(grid, blocks, windows, "patches", demand.margin_px, _Patches(store, windows))
    if slide is None:
        needed = 2 * demand.margin_px + demand.reduce
        there = store.grid.overlap / scale
        raise ConfigError(
            f"the patches of {store.slide.slide_id} overlap by {there:g} px at {scale * store.slide.resolution():.4g} "
            f"µm/px, the evidence model needs {needed} px to map them without seams; give the slide as well, or tile "
            f"again with --set tiling.overlap_um={needed * scale * store.slide.resolution():.0f}"
        )
    return Sight(grid, blocks, windows, "slide", demand.margin_px, _Slide(store, slide, windows))


def _scale(store: PatchStore, slide: "SlideReader | None", demand: Demand) -> float:
    """Slide px per px of the model."""
    native = store.grid.patch / store.patch_px
    if abs(store.mpp / demand.mpp - 1) <= demand.tolerance:
        return native
    finest = store.mpp if slide is None else min(store.mpp, slide.info.resolution())
    if finest > demand.mpp * (1 + demand.tolerance):
        raise ResolutionMismatchError(
            f"the patches of {store.slide.slide_id} are at {store.mpp:.4g} µm/px, the evidence model was trained at "
            f"{demand.mpp:.4g}; give the slide, if that is finer, or tile again with --set tiling.mpp={demand.mpp:.4g}"
        )
    return native * demand.mpp / store.mpp


def _reach_far_enough(store: PatchStore, windows: Windows) -> bool:
    origins = store.origin_px / windows.scale
    low = np.maximum(origins, 0)
    high = origins + store.grid.patch / windows.scale
    inside = (windows.needed[:, :2] >= low - _EXACT) & (windows.needed[:, 2:] <= high + _EXACT)
    return bool(inside.all())


@dataclass(frozen=True, slots=True)
class _Patches:
    """Windows out of stored patches; where one reaches beyond its patch, or the slide, the edge is repeated."""

    store: PatchStore
    windows: Windows

    def __call__(self, row: int) -> tuple[RegionPixels, PatchFrame]:
        patch, frame = self.store.read(row), self.store.frame(row)
        side, step = self.windows.side, self.windows.scale / frame.scale
        corner = self.windows.corners[row] * self.windows.scale
        # Px of the patch are not shifted by parts of one: what is shown is what is stored.
        x, y = (round(float(c - o) / frame.scale) for c, o in zip(corner, (frame.x_px, frame.y_px), strict=True))
        whole = int(np.ceil(side * step - _EXACT))
        high, wide = _px_on_slide(self.store, frame, len(patch.rgb))
        rgb = patch.rgb[_repeated(y, whole, high)][:, _repeated(x, whole, wide)]
        if abs(step - 1) > _EXACT:
            rgb = _reduced(rgb, side, step)
        place = PatchFrame(frame.x_px + x * frame.scale, frame.y_px + y * frame.scale, self.windows.scale)
        return RegionPixels(np.ascontiguousarray(rgb), patch.no_data, patch.unreadable), place


@dataclass(frozen=True, slots=True)
class _Slide:
    """Windows read from the slide, each in the focal plane of its patch; beyond the slide its edge is repeated."""

    store: PatchStore
    slide: "SlideReader"
    windows: Windows

    def __call__(self, row: int) -> tuple[RegionPixels, PatchFrame]:
        side, scale = self.windows.side, self.windows.scale
        x, y = (round(float(value) * scale) for value in self.windows.corners[row])
        length = max(1, round(side * scale))
        choice = self.store.attributes["key"]["config"]["plane"]
        left, top = (int(value) for value in self.store.origin_px[row])
        plane = plane_of(self.slide, choice, left, top, self.store.grid.patch)
        region = read_at_mpp(self.slide, x, y, length, side, plane=plane)
        place = PatchFrame(float(x), float(y), length / side)
        high, wide = _px_on_slide(self.store, place, side)
        if high < side or wide < side:
            inside = np.ix_(_repeated(0, side, high), _repeated(0, side, wide))
            lost = None if region.lost is None else region.lost[inside]
            region = replace(region, rgb=np.ascontiguousarray(region.rgb[inside]), lost=lost)
        return region, place


def _px_on_slide(store: PatchStore, frame: PatchFrame, side: int) -> tuple[int, int]:
    """Rows and columns of a square that lie on the slide: white beside it would be seen as glass with a sharp edge."""
    high, wide = store.grid.height - frame.y_px, store.grid.width - frame.x_px
    return max(min(int(high / frame.scale + _EXACT), side), 1), max(min(int(wide / frame.scale + _EXACT), side), 1)


def _repeated(start: int, count: int, limit: int) -> NDArray[np.int64]:
    """Places `start` to `start + count` of an axis, the nearest instead of those it does not have."""
    return np.clip(np.arange(start, start + count), 0, limit - 1)


def _reduced(rgb: NDArray[np.uint8], side: int, step: float) -> NDArray[np.uint8]:
    """Mean colours of squares of `step` px: (H, W, 3) → (side, side, 3)."""
    edges = np.minimum(np.arange(side + 1) * step, len(rgb))
    rows = area_means(rgb, edges[:-1], edges[1:])
    both = area_means(rows.transpose(1, 0, 2), edges[:-1], edges[1:]).transpose(1, 0, 2)
    return np.asarray(np.rint(both), dtype=np.uint8)
