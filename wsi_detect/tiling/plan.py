"""What will be tiled: the configuration, and the plan made of it for one slide before any patch is read."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wsi_detect import __version__, artifact
from wsi_detect.config import Config
from wsi_detect.errors import ConfigError
from wsi_detect.schema import SCHEMA_VERSION
from wsi_detect.slides.reader import SlideInfo, SlideReader
from wsi_detect.slides.tiles import JpegTiles, tiles_of
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.mask import CellMask, MaskConfig, find_cells
from wsi_detect.tiling.patch_store import KIND, StoreCodec, runs_of, slide_facts
from wsi_detect.tiling.sweep import PatchSize

#: Patches a shard where none is asked for: a store of pixels should be few files, and a unit of detection short.
_SHARD_PIXELS, _SHARD_INDEX = 256, 32


class TilingConfig(Config):
    """How a slide is cut into patches.

    Attributes:
        patch_px: side of a patch, px of the patch.
        mpp: resolution of the patches, µm per px; None takes the slide's own.
        mpp_tolerance: a level of the slide this near to `mpp` (relative) is taken as it is, without resampling.
        overlap_um: overlap of neighbouring patches, µm; must hold the largest cell. Where the slide's own tiles are
            stored it is rounded up, by less than a tile, so that patches begin where tiles do.
        overlap_px: the same in px of the patch, never rounded; overrides `overlap_um`.
        codec: `jpeg_tiles` (the slide's own JPEG tiles, untouched), `jpeg` (quality 90), `zstd` (lossless), `none` (an
            index-only store, pixels stay in the slide), or `auto`: the slide's own tiles where that is possible, else
            `jpeg`.
        shard_patches: patches a shard, the unit of writing and of resuming; None is 256, or 32 for an index.
        min_coverage: only patches with more than this fraction of cells are kept; 0 keeps every patch with any.
        skip_blank: tiles of clean glass, by their byte count and by the low resolution, are painted in its colour
            instead of decoded; under `jpeg` only.
        check_tiles: under `jpeg_tiles`, decode every tile once to see that it can be. Without it a tile is judged by
            its headers and the look of its data; one that is damaged deeper is counted when it is read, not here.
        quality: measure focus, stain and the rest on samples of each patch; False leaves these columns empty.
        plane: focal plane of a z-stack: its number, `middle`, or `sharpest` of each patch.
        mask: where the cells are.
    """

    patch_px: int = Field(default=1024, ge=32, le=8192)
    mpp: float | None = Field(default=None, gt=0)
    mpp_tolerance: float = Field(default=0.02, ge=0, lt=1)
    overlap_um: float = Field(default=64.0, ge=0)
    overlap_px: int | None = Field(default=None, ge=0)
    codec: Literal["auto"] | StoreCodec = "auto"
    shard_patches: int | None = Field(default=None, ge=1, le=4096)
    min_coverage: float = Field(default=0.0, ge=0, lt=1)
    skip_blank: bool = True
    check_tiles: bool = False
    quality: bool = True
    plane: int | Literal["middle", "sharpest"] = "middle"
    mask: MaskConfig = MaskConfig()

    @model_validator(mode="after")
    def _overlap_fits(self) -> "TilingConfig":
        if self.overlap_px is not None and self.overlap_px >= self.patch_px:
            raise ValueError(f"overlap_px={self.overlap_px} must be smaller than patch_px={self.patch_px}")
        return self


@dataclass(frozen=True, slots=True)
class Layout:
    """How the patches lie on a slide, and where their pixels come from.

    Attributes:
        grid: slide px.
        mpp: µm per px of the patches; exact.
        level: whose px are the patches' px, one to one; None where patches are resampled.
        codec: what the store is made of.
        codec_reason: why, in words.
    """

    grid: TileGrid
    mpp: float
    level: int | None
    codec: StoreCodec
    codec_reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides a store's bytes, but the pixels.

    Attributes:
        info: the slide.
        layout: grid, resolution and codec.
        patch_ids: (N,) int64, the patches to keep, row by row.
        origins: (N, 2) int64, their top-left corners as x, y, slide px.
        coverage: (N,) float32 of those patches.
        cells: the mask they were chosen by.
        key: inputs, configuration and versions the store is made from; an equal key means an equal store.
        config: as given.
    """

    info: SlideInfo
    layout: Layout
    patch_ids: NDArray[np.int64]
    origins: NDArray[np.int64]
    coverage: NDArray[np.float32]
    cells: CellMask
    key: dict[str, Any]
    config: TilingConfig

    @property
    def grid(self) -> TileGrid:
        """Where patches lie, slide px."""
        return self.layout.grid

    @property
    def codec(self) -> StoreCodec:
        """What the store is made of."""
        return self.layout.codec

    @property
    def size(self) -> PatchSize:
        """Side of a patch, in slide px and in px of the patch."""
        return PatchSize(self.grid.patch, self.config.patch_px)

    @property
    def shard_patches(self) -> int:
        """Patches a shard."""
        return self.config.shard_patches or (_SHARD_INDEX if self.codec == "none" else _SHARD_PIXELS)

    @property
    def shards(self) -> list[range]:
        """Rows of each shard."""
        return runs_of(len(self.patch_ids), self.shard_patches)

    def attributes(self, shards: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what the finished store says about itself; `shards` holds size and sha256 of each shard's file."""
        circle = self.cells.circle
        mask = {
            "area_px": self.cells.area_px(),
            "left_out": dict(self.cells.left_out),
            "ground": list(self.cells.ground),
            "circle_px": None if circle is None else [circle.x_px, circle.y_px, circle.radius_px],
        }
        return {
            "kind": KIND,
            "schema_version": SCHEMA_VERSION,
            "slide": slide_facts(self.info),
            "grid": asdict(self.grid),
            "patch_px": self.config.patch_px,
            "mpp": self.layout.mpp,
            "resampled": self.layout.level is None,
            "level": self.layout.level,
            "patches": len(self.patch_ids),
            "codec": self.codec,
            "codec_reason": self.layout.codec_reason,
            "shard_patches": self.shard_patches,
            "shards": shards,
            "mask": mask,
            "key": self.key,
        }


def key_of(info: SlideInfo, config: TilingConfig) -> dict[str, Any]:
    """Return what a store of this slide under this configuration is made from."""
    return {
        "slide": artifact.fingerprint(info.path),
        "slide_id": info.slide_id,
        "mpp": info.resolution(),
        "mpp_source": info.mpp_source,
        "config": config.model_dump(mode="json"),
        "schema_version": SCHEMA_VERSION,
        "version": __version__,
    }


def make_plan(slide: SlideReader, config: TilingConfig, grid: TileGrid | None = None) -> Plan:
    """Lay the grid and choose the patches.

    Args:
        slide: an open slide.
        config: what is asked for.
        grid: laid instead of the one that follows from the configuration; its patches must be as large.

    Raises:
        MissingResolutionError: nobody knows the size of a slide px.
        ConfigError: overlap and patch size do not fit together at this resolution, or the slide's own tiles are asked
            for and cannot be stored.
    """
    layout = lay_out(slide.info, config, tiles_of(slide))
    if grid is not None:
        layout = replace(layout, grid=grid)
    cells = find_cells(slide, config.mask)
    coverage = cells.coverage(layout.grid.boxes())
    patch_ids = np.flatnonzero(coverage > config.min_coverage).astype(np.int64)
    return Plan(
        info=slide.info,
        layout=layout,
        patch_ids=patch_ids,
        origins=layout.grid.origins()[patch_ids],
        coverage=coverage[patch_ids],
        cells=cells,
        key=key_of(slide.info, config) if grid is None else {**key_of(slide.info, config), "grid": asdict(grid)},
        config=config,
    )


def lay_out(info: SlideInfo, config: TilingConfig, tiles: JpegTiles | None = None) -> Layout:
    """Choose level, codec and grid for a slide.

    A patch is a whole number of slide px, so where it is resampled its resolution can differ from the one asked by
    half a slide px over the side of a patch; the one returned is exact.

    Args:
        info: facts of the slide.
        config: what is asked for.
        tiles: the slide's JPEG tiles, if it is made of such.

    Raises:
        MissingResolutionError: nobody knows the size of a slide px.
        ConfigError: see `make_plan`.
    """
    native = info.resolution()
    level, step = _level_at(info, config, tiles)
    patch = (
        config.patch_px * step
        if level is not None
        else max(1, round(config.patch_px * (config.mpp or native) / native))
    )
    reason = _why_not_verbatim(info, config, tiles, level)
    codec = _choose_codec(config, reason)
    if config.overlap_px is not None:
        overlap = math.ceil(config.overlap_px * patch / config.patch_px)
    else:
        overlap = math.ceil(config.overlap_um / native)
    overlap = -(-overlap // step) * step
    if overlap >= patch:
        raise ConfigError(
            f"an overlap of {overlap * native:.1f} µm does not fit a patch of {patch * native:.1f} µm "
            f"({config.patch_px} px); set tiling.overlap_um or tiling.overlap_px lower, or tiling.patch_px higher"
        )
    align = step
    if codec == "jpeg_tiles" and config.overlap_px is None and tiles is not None and level is not None:
        align = _tile_side(tiles, level) * step
        align = align if patch - overlap >= align else step
        overlap = patch - (patch - overlap) // align * align
    grid = TileGrid(info.width_px, info.height_px, patch, overlap, align)
    why = config.codec if config.codec not in ("auto", "jpeg_tiles") else reason or "the slide's own tiles"
    return Layout(grid, native * patch / config.patch_px, level, codec, why)


def _level_at(info: SlideInfo, config: TilingConfig, tiles: JpegTiles | None) -> tuple[int | None, int]:
    """Return the level whose px serve as they are, and how many slide px one of them spans; (None, 1) if none does."""
    if config.mpp is None:
        return 0, 1
    wanted = config.mpp / info.resolution()
    for level, downsample in enumerate(info.level_downsamples):
        step = round(downsample)
        table = tiles.levels[level] if tiles is not None else None
        # The quotient of the sides is off by a fraction where a side is no multiple of the step.
        whole = abs(downsample - step) < 1e-6 or (
            table is not None
            and 0 <= info.width_px - table.width * step + step < 2 * step
            and 0 <= info.height_px - table.height * step + step < 2 * step
        )
        if whole and abs(wanted / step - 1) <= config.mpp_tolerance:
            return level, step
    return None, 1


def _tile_side(tiles: JpegTiles, level: int) -> int:
    """Side of the slide's tiles at a level, px of it; 1 where they are not square, to which nothing can be aligned."""
    table = tiles.levels[level]
    return table.tile_width if table is not None and table.tile_width == table.tile_height else 1


def _why_not_verbatim(info: SlideInfo, config: TilingConfig, tiles: JpegTiles | None, level: int | None) -> str:
    """Say why the slide's own tiles cannot be the patches; nothing if they can."""
    if level is None:
        return "the patches are resampled"
    table = None if tiles is None else tiles.levels[level]
    if table is None:
        return "the slide is not made of baseline JPEG tiles"
    if table.header:
        return "the slide is one large JPEG, not tiles"
    if max(table.tile_width, table.tile_height) > config.patch_px:
        return f"the slide's tiles, {table.tile_width} x {table.tile_height} px, are larger than a patch"
    if info.focal_planes > 1:
        return "the slide is a z-stack"
    return ""


def _choose_codec(config: TilingConfig, obstacle: str) -> StoreCodec:
    if config.codec == "auto":
        return "jpeg" if obstacle else "jpeg_tiles"
    if config.codec == "jpeg_tiles" and obstacle:
        raise ConfigError(f"tiling.codec jpeg_tiles is not possible: {obstacle}; set tiling.codec to jpeg or zstd")
    return config.codec
