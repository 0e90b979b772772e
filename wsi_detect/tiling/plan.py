"""What will be tiled: the configuration, and the plan made of it for one slide before any patch is read."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wsi_detect import __version__, artifact
from wsi_detect.config import Config, digest
from wsi_detect.errors import ConfigError
from wsi_detect.schema import SCHEMA_VERSION
from wsi_detect.slides.reader import SlideInfo, SlideReader
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.mask import CellMask, MaskConfig, find_cells
from wsi_detect.tiling.patch_store import KIND, runs_of, slide_facts


class TilingConfig(Config):
    """How a slide is cut into patches.

    Attributes:
        patch_px: side of a patch, px of the patch.
        mpp: resolution of the patches, µm per px; None takes the slide's own.
        mpp_tolerance: a slide this near to `mpp` (relative) is taken as it is, without resampling.
        overlap_um: overlap of neighbouring patches, µm; must hold the largest cell.
        overlap_px: the same in px of the patch; overrides `overlap_um`.
        codec: `jpeg` (quality 90), `zstd` (lossless), or `none`: an index-only store, pixels stay in the slide.
        shard_patches: patches a shard, the unit of writing and of resuming.
        min_coverage: only patches with more than this fraction of cells are kept; 0 keeps every patch with any.
        mask: where the cells are.
    """

    patch_px: int = Field(default=1024, ge=32, le=8192)
    mpp: float | None = Field(default=None, gt=0)
    mpp_tolerance: float = Field(default=0.02, ge=0, lt=1)
    overlap_um: float = Field(default=64.0, ge=0)
    overlap_px: int | None = Field(default=None, ge=0)
    codec: Literal["jpeg", "zstd", "none"] = "jpeg"
    shard_patches: int = Field(default=32, ge=1, le=4096)
    min_coverage: float = Field(default=0.0, ge=0, lt=1)
    mask: MaskConfig = MaskConfig()

    @model_validator(mode="after")
    def _overlap_fits(self) -> "TilingConfig":
        if self.overlap_px is not None and self.overlap_px >= self.patch_px:
            raise ValueError(f"overlap_px={self.overlap_px} must be smaller than patch_px={self.patch_px}")
        return self


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides a store's bytes, but the pixels.

    Attributes:
        info: the slide.
        grid: where patches lie, slide px.
        mpp: µm per px of the patches.
        patch_ids: (N,) int64, the patches to keep, row by row.
        coverage: (N,) float32 of those patches.
        cells: the mask they were chosen by.
        key: inputs, configuration and versions the store is made from; an equal key means an equal store.
        config: as given.
    """

    info: SlideInfo
    grid: TileGrid
    mpp: float
    patch_ids: NDArray[np.int64]
    coverage: NDArray[np.float32]
    cells: CellMask
    key: dict[str, Any]
    config: TilingConfig

    @property
    def shards(self) -> list[range]:
        """Rows of each shard."""
        return runs_of(len(self.patch_ids), self.config.shard_patches)

    def attributes(self, shards: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what the finished store says about itself; `shards` holds size and sha256 of each shard's file."""
        circle = self.cells.circle
        mask = {
            "area_px": self.cells.area_px(),
            "left_out_px": self.cells.left_out_px,
            "circle_px": None if circle is None else [circle.x_px, circle.y_px, circle.radius_px],
        }
        return {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "slide": slide_facts(self.info),
            "grid": asdict(self.grid),
            "patch_px": self.config.patch_px,
            "mpp": self.mpp,
            "patches": len(self.patch_ids),
            "codec": self.config.codec,
            "shard_patches": self.config.shard_patches,
            "shards": shards,
            "mask": mask,
            "config": self.config.model_dump(mode="json"),
            "key": self.key,
        }


def key_of(info: SlideInfo, config: TilingConfig) -> dict[str, Any]:
    """Return what a store of this slide under this configuration is made from."""
    return {
        "slide": artifact.fingerprint(info.path),
        "slide_id": info.slide_id,
        "mpp": info.resolution(),
        "mpp_source": info.mpp_source,
        "config": digest(config),
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
    }


def make_plan(slide: SlideReader, config: TilingConfig) -> Plan:
    """Lay the grid and choose the patches.

    Raises:
        MissingResolutionError: nobody knows the size of a slide px.
        ConfigError: overlap and patch size do not fit together at this resolution.
    """
    info = slide.info
    grid, mpp = grid_of(info, config)
    cells = find_cells(slide, config.mask)
    coverage = cells.coverage(grid.boxes())
    patch_ids = np.flatnonzero(coverage > config.min_coverage).astype(np.int64)
    return Plan(info, grid, mpp, patch_ids, coverage[patch_ids], cells, key_of(info, config), config)


def grid_of(info: SlideInfo, config: TilingConfig) -> tuple[TileGrid, float]:
    """Return the grid of a slide, and the µm per px of its patches.

    The patch is a whole number of slide px, so the resolution can differ from the one asked by half a slide px over
    the side of a patch; the one returned is exact.
    """
    native = info.resolution()
    patch = config.patch_px
    if config.mpp is not None and abs(config.mpp / native - 1) > config.mpp_tolerance:
        patch = max(1, round(config.patch_px * config.mpp / native))
    scale = patch / config.patch_px
    if config.overlap_px is not None:
        overlap = math.ceil(config.overlap_px * scale)
    else:
        overlap = math.ceil(config.overlap_um / native)
    if overlap >= patch:
        raise ConfigError(
            f"an overlap of {overlap * native:.1f} µm does not fit a patch of {patch * native:.1f} µm "
            f"({config.patch_px} px); set tiling.overlap_um or tiling.overlap_px lower, or tiling.patch_px higher"
        )
    return TileGrid(info.width_px, info.height_px, patch, overlap), native * scale
