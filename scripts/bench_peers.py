"""How others read and save patches, and how we do, behind one signature; the benchmarks put them side by side."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import bench_common
import numpy as np
from numpy.typing import NDArray

from wsi_detect.slides import open_slide
from wsi_detect.tiling.blank import BlankTiles
from wsi_detect.tiling.make import blank_tiles
from wsi_detect.tiling.plan import Plan, TilingConfig, make_plan
from wsi_detect.tiling.sweep import PatchSize, TileSweep
from wsi_detect.tiling.tiler import tile_slide

Origins = NDArray[np.int64]
#: (path, origins, side) → a function that reads the i-th patch as an RGB array.
Open = Callable[[Path, Origins, int], AbstractContextManager[Callable[[int], object]]]

OURS = "ours"


@contextmanager
def ours(path: Path, origins: Origins, px: int, blank: BlankTiles | None = None) -> Iterator[Callable[[int], object]]:
    """Patches as the tiler reads them: in order, each tile decoded once, into one buffer."""
    with open_slide(path) as slide:
        sweep = TileSweep(slide, origins, PatchSize(px, px), level=0, blank=blank)
        out = np.empty((px, px, 3), np.uint8)
        yield lambda i: sweep.read(i, out)


@contextmanager
def ours_without_blank(path: Path, origins: Origins, px: int) -> Iterator[Callable[[int], object]]:
    """The same with blank tiles left out; the mask they are found by is there before."""
    with open_slide(path) as slide:
        blank = blank_tiles(_plan(path, px), slide)
    with ours(path, origins, px, blank) as read:
        yield read


@contextmanager
def with_openslide(path: Path, origins: Origins, px: int) -> Iterator[Callable[[int], object]]:
    """Patches as openslide-python gives them, alpha taken off."""
    openslide: Any = bench_common.peer("openslide")
    with openslide.OpenSlide(path) as slide:
        places = [tuple(origin) for origin in origins.tolist()]
        yield lambda i: np.asarray(slide.read_region(places[i], 0, (px, px)).convert("RGB"))


@contextmanager
def with_cucim(path: Path, origins: Origins, px: int) -> Iterator[Callable[[int], object]]:
    """Patches as cuCIM gives them, on the CPU."""
    cucim: Any = bench_common.peer("cucim")
    slide = cucim.CuImage(str(path))
    places = [tuple(origin) for origin in origins.tolist()]
    yield lambda i: np.asarray(slide.read_region(places[i], (px, px), 0))


@contextmanager
def with_libvips(path: Path, origins: Origins, px: int) -> Iterator[Callable[[int], object]]:
    """Patches as libvips gives them; `Region.fetch` is its fastest way."""
    pyvips: Any = bench_common.peer("pyvips")
    region = pyvips.Region.new(pyvips.Image.tiffload(str(path)))
    places = origins.tolist()
    yield lambda i: np.frombuffer(region.fetch(*places[i], px, px), np.uint8).reshape(px, px, -1)


#: Package → its way to read.
READERS: dict[str, tuple[str, Open]] = {
    OURS: ("wsi_detect", ours),
    "openslide": ("openslide", with_openslide),
    "cucim": ("cucim", with_cucim),
    "libvips": ("pyvips", with_libvips),
}


@cache
def _plan(path: Path, px: int) -> Plan:
    with open_slide(path) as slide:
        return make_plan(slide, TilingConfig(patch_px=px, overlap_px=0, codec="jpeg"))


def kept_origins(path: Path, px: int) -> Origins:
    """Top-left corners of the patches the mask keeps, without overlap."""
    return _plan(path, px).origins


def tile(path: Path, folder: Path, threads: int, **config: object) -> float:
    """Tile a slide as `wsi-detect tile` does; return the megapixels stored."""
    with _fresh(folder) as out:
        store = tile_slide(path, out, TilingConfig.model_validate(config), threads=threads)
        return len(store) * store.patch_px**2 / 1e6


def dzsave(path: Path, folder: Path, px: int) -> float:
    """Save all patches as JPEG files with libvips; return the megapixels. Its threads: VIPS_CONCURRENCY."""
    pyvips: Any = bench_common.peer("pyvips")
    with _fresh(folder) as out:
        image = pyvips.Image.tiffload(str(path), access="sequential")
        image.dzsave(str(out / "tiles"), suffix=".jpg[Q=90]", tile_size=px, overlap=0, depth="one")
        return float(image.width * image.height / 1e6)


def save_tiles(path: Path, folder: Path, px: int) -> float:
    """Save all patches as JPEG files with TIAToolbox; return the megapixels."""
    wsireader: Any = bench_common.peer("tiatoolbox.wsicore.wsireader")
    with _fresh(folder) as out:
        reader = wsireader.WSIReader.open(path)
        power = int(reader.info.objective_power)
        reader.save_tiles(
            out / "tiles", tile_objective_value=power, tile_read_size=(px, px), tile_format=".jpg", verbose=False
        )
        return float(np.prod(reader.info.slide_dimensions) / 1e6)


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """An empty folder, gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(dir=folder))
    try:
        yield out
    finally:
        shutil.rmtree(out)


def available(names: dict[str, str]) -> list[str]:
    """Names whose package can be imported; a line for each of the others."""
    return [name for name, package in names.items() if bench_common.peer(package) is not None]


def cores() -> int:
    """Threads the two-thread cases get: two, or one where there is no second core."""
    return min(2, os.cpu_count() or 1)
