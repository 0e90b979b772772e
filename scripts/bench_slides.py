"""Slides to measure on, made once and kept: cells pasted onto glass, written as a scanner writes them.

    python scripts/bench_slides.py --quick

* `tct`: 20,480 px, a round deposit, 47 % of the tiles blank; q80 4:2:0, about 0.11 byte/px. `tct_half`,
  `tct_quarter`: the same of about half and of a quarter of the area.
* `clumps`: the same area, cells in clumps all over it, half of the tiles blank: hardly a patch without a cell.
* `dense444`: 10,240 px full of cells, with sensor noise; q90 4:4:4, about 0.49 byte/px.
* `sparse`: 100,000 px, of which only the tiles around five deposits exist.

JPEG tiles of 256 px, levels 1/4/16, the description Aperio's. A band of one row of tiles is painted at a time, and the
coarser levels are encoded as they fill, so that neither a slide nor a level ever lies in memory.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import bench_common
import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

TILE = 256
STEP = 4
LEVELS = 3
MPP = 0.25
#: Part of the file names: another number, and the slides are made again.
VERSION = 1
_GROUND = (236, 234, 238)
_LOOKS = 48


@dataclass(frozen=True)
class Scene:
    """A slide to paint.

    Attributes:
        side: px.
        deposits: discs of cells, centre and radius as fractions of the side; none: cells everywhere.
        spacing: px between neighbouring cells, about.
        noise: of the sensor, grey values.
        quality: of the JPEG.
        subsampling: of its chroma.
        sparse: whether tiles without a deposit are left out.
        kept: share of the cells that is there, in clumps with clean glass between them.
    """

    side: int
    deposits: tuple[tuple[float, float, float], ...]
    spacing: int
    noise: float
    quality: int
    subsampling: str
    sparse: bool = False
    kept: float = 1.0

    @property
    def tiles(self) -> int:
        """Tiles along a side."""
        return -(-self.side // TILE)

    def holds(self, level: int) -> NDArray[np.bool_]:
        """Which tiles of a level the file has: (tiles, tiles)."""
        side = self.tiles
        there = np.full((side, side), not self.sparse)
        if self.sparse:
            middle = (np.arange(side) + 0.5) * TILE / self.side
            for x, y, radius in self.deposits:
                there |= np.hypot(middle[None] - x, middle[:, None] - y) < radius + TILE / self.side
        for _ in range(level):
            side = -(-side // STEP)
            there = np.pad(there, [(0, side * STEP - len(there))] * 2)
            there = there.reshape(side, STEP, side, STEP).any(axis=(1, 3))
        return there


_ROUND = ((0.5, 0.5, 0.4),)
_FIVE = tuple((x, y, 0.025) for x, y in ((0.5, 0.5), (0.15, 0.2), (0.8, 0.25), (0.25, 0.85), (0.9, 0.9)))
#: Full size, and quick.
SCENES = {
    "tct": (Scene(20_480, _ROUND, 133, 3.3, 80, "420"), Scene(4_096, _ROUND, 133, 3.3, 80, "420")),
    "tct_half": (Scene(14_336, _ROUND, 133, 3.3, 80, "420"), Scene(2_816, _ROUND, 133, 3.3, 80, "420")),
    "tct_quarter": (Scene(10_240, _ROUND, 133, 3.3, 80, "420"), Scene(2_048, _ROUND, 133, 3.3, 80, "420")),
    "clumps": (
        Scene(20_480, (), 133, 3.3, 80, "420", kept=0.22),
        Scene(4_096, (), 133, 3.3, 80, "420", kept=0.22),
    ),
    "dense444": (Scene(10_240, (), 120, 7.6, 90, "444"), Scene(2_048, (), 120, 7.6, 90, "444")),
    "sparse": (
        Scene(100_000, _FIVE, 133, 3.3, 80, "420", sparse=True),
        Scene(20_000, _FIVE, 133, 3.3, 80, "420", sparse=True),
    ),
}


def make(name: str, folder: Path = bench_common.SLIDES, quick: bool = False) -> Path:
    """Return the file of a slide, made now if the folder has none.

    Args:
        name: one of `SCENES`.
        folder: where slides are kept.
        quick: the small one.
    """
    scene = SCENES[name][quick]
    path = folder / f"{name}-{scene.side}-v{VERSION}.svs"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            _write(partial, scene, threads)
        partial.replace(path)
    return path


def _write(path: Path, scene: Scene, threads: ThreadPoolExecutor) -> None:
    coarser = _Coarser(scene, threads)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(LEVELS):
            side = -(-scene.side // STEP**level)
            streams = _level0(scene, coarser, threads) if level == 0 else iter(coarser.streams[level])
            tiff.write(
                streams,
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2) if scene.subsampling == "420" else (1, 1),
                compression="jpeg",
                subfiletype=1 if level else 0,
                description=_description(scene) if level == 0 else None,
                metadata=None,
            )


def _description(scene: Scene) -> str:
    size = f"{scene.side}x{scene.side}"
    lines = f"Aperio Image Library (painted)\r\n{size} [0,0 {size}] ({TILE}x{TILE}) JPEG/YCbCr Q={scene.quality}"
    return f"{lines}|AppMag = 40|MPP = {MPP}"


def _encode(scene: Scene, band: Pixels, there: NDArray[np.bool_], threads: ThreadPoolExecutor) -> Iterator[bytes]:
    """Streams of a row of tiles, nothing for one that is left out."""

    def one(column: int) -> bytes:
        if not there[column]:
            return b""
        tile = np.ascontiguousarray(band[:, column * TILE : (column + 1) * TILE])
        stream: bytes = imagecodecs.jpeg8_encode(
            tile, scene.quality, colorspace="RGB", outcolorspace="YCBCR", subsampling=scene.subsampling
        )
        return stream

    return threads.map(one, range(len(there)))


def _level0(scene: Scene, coarser: "_Coarser", threads: ThreadPoolExecutor) -> Iterator[bytes]:
    there, paint = scene.holds(0), _Paint(scene)
    for row in range(scene.tiles):
        band = paint.band(row) if there[row].any() else None
        streams = [b""] * len(there) if band is None else _encode(scene, band, there[row], threads)
        coarser.add(1, row, band)
        yield from streams


@dataclass
class _Coarser:
    """The levels above level 0, encoded a row of tiles at a time as the rows below come in."""

    scene: Scene
    threads: ThreadPoolExecutor
    streams: dict[int, list[bytes]] = field(default_factory=lambda: {level: [] for level in range(1, LEVELS)})
    _bands: dict[int, Pixels] = field(default_factory=dict)

    def add(self, level: int, row: int, below: Pixels | None) -> None:
        """Take row `row` of the tiles of the level below; None for one without tiles."""
        if level == LEVELS:
            return
        there, share = self.scene.holds(level)[row // STEP], TILE // STEP
        if below is not None:
            if level not in self._bands:
                self._bands[level] = np.full((TILE, len(there) * TILE, 3), 255, np.uint8)
            small = _reduce(below)
            start = row % STEP * share
            self._bands[level][start : start + share, : small.shape[1]] = small
        if row % STEP == STEP - 1 or row == -(-self.scene.tiles // STEP ** (level - 1)) - 1:
            band = self._bands.pop(level, None)
            self.streams[level] += (
                [b""] * len(there) if band is None else _encode(self.scene, band, there, self.threads)
            )
            self.add(level + 1, row // STEP, band)


def _reduce(band: Pixels) -> Pixels:
    """Mean over 4 x 4 px."""
    height, width = band.shape[:2]
    rows = np.add.reduce(band.reshape(height // STEP, STEP, width * 3), axis=1, dtype=np.uint16)
    rows = rows.reshape(height // STEP, width // STEP, STEP, 3)
    total = rows[:, :, 0] + rows[:, :, 1] + rows[:, :, 2] + rows[:, :, 3]
    return np.asarray(total // STEP**2, dtype=np.uint8)


class _Paint:
    """Paints a slide a row of tiles at a time: glass with noise, darkened by cells."""

    def __init__(self, scene: Scene) -> None:
        rng = np.random.default_rng(0)
        width = scene.tiles * TILE
        noise = rng.normal(0, scene.noise, (4 * TILE, 4 * TILE, 3))
        self.glass = np.clip(np.rint(noise + _GROUND), 0, 255).astype(np.uint8)
        self.width = width
        self.rng = rng
        self.looks = [_cell(rng) for _ in range(_LOOKS)]
        centres = _lay(scene, rng)
        # By row of tiles that a cell reaches, so that a band finds its own at once.
        self.cells: dict[int, list[tuple[int, int, Pixels]]] = {}
        for x, y in centres.tolist():
            look = self.looks[rng.integers(_LOOKS)][:: rng.choice([-1, 1]), :: rng.choice([-1, 1])]
            left, top = x - look.shape[1] // 2, y - look.shape[0] // 2
            for row in range(top // TILE, (top + look.shape[0] - 1) // TILE + 1):
                self.cells.setdefault(row, []).append((left, top, look))

    def band(self, row: int) -> Pixels:
        """Rows of the `row`-th row of tiles: (TILE, width, 3)."""
        height, across = self.glass.shape[:2]
        start = int(self.rng.integers(height - TILE))
        band = np.tile(self.glass[start : start + TILE], (1, -(-self.width // across), 1))[:, : self.width]
        for left, top, look in self.cells.get(row, []):
            y, a, b = top - row * TILE, max(left, 0), min(left + look.shape[1], self.width)
            c, d = max(y, 0), min(y + look.shape[0], TILE)
            if a < b:
                part = band[c:d, a:b]
                part[...] = part * look[c - y : d - y, a - left : b - left].astype(np.uint16) >> 8
        return band


def _lay(scene: Scene, rng: np.random.Generator) -> NDArray[np.int64]:
    """Centres of cells (N, 2) as x, y, px: a jittered lattice inside the deposits."""
    discs = scene.deposits or ((0.5, 0.5, 1.0),)
    found = []
    for x, y, radius in discs:
        count = math.ceil(radius * scene.side / scene.spacing)
        steps = np.arange(-count, count + 1) * scene.spacing
        lattice = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2).astype(np.float64)
        # Less than the deposit: a cell at its rim must not reach far into the glass around it.
        there = np.hypot(*lattice.T) <= radius * scene.side
        if scene.kept < 1:
            clumps = _smooth(rng.normal(0, 1, (len(steps), len(steps))), 9).ravel()
            there &= clumps >= np.quantile(clumps, 1 - scene.kept)
        lattice = lattice[there]
        found.append(lattice + rng.uniform(-0.6, 0.6, lattice.shape) * scene.spacing + [x * scene.side, y * scene.side])
    centres = np.rint(np.concatenate(found)).astype(np.int64)
    return centres[((centres >= 0) & (centres < scene.side)).all(axis=1)]


def _cell(rng: np.random.Generator) -> Pixels:
    """What a squamous cell lets through, of 256: (H, W, 3). An uneven outline, a granular nucleus."""
    radius = rng.uniform(45, 85)
    half = math.ceil(radius * 1.25)
    y, x = np.mgrid[-half:half, -half:half] + 0.5
    angle, distance = np.arctan2(y, x), np.hypot(x, y)
    outline = radius * (
        1 + sum(rng.uniform(-0.06, 0.06) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 7))
    )
    nucleus = radius * rng.uniform(0.12, 0.4)
    grain = _smooth(rng.normal(0, 1, x.shape), 3)
    folds = _smooth(rng.normal(0, 1, x.shape), 12)
    body = np.clip((outline - distance) / 3, 0, 1) * (1 + 0.25 * folds + 0.06 * grain)
    core = np.clip((nucleus - distance) / 2, 0, 1) * (1 + 0.25 * grain)
    stain = ((0.08, 0.28, 0.14), (0.30, 0.14, 0.08))[int(rng.integers(2))]
    absorbed = body[..., None] * stain + core[..., None] * (1.3, 1.4, 0.7)
    return np.asarray(np.clip(256 * np.exp(-np.maximum(absorbed, 0)), 1, 255.4), dtype=np.uint8)


def _smooth(field: NDArray[np.float64], px: int) -> NDArray[np.float64]:
    """Average over about `px` px both ways, spread back to 1."""
    for axis in (0, 1):
        field = sum(np.roll(field, k, axis) for k in range(-px // 2, px // 2 + 1)) + np.zeros_like(field)
    return np.asarray(field / field.std())


def main() -> None:
    """Make every slide and say what it came out as."""
    options = bench_common.parser(__doc__).parse_args()
    results = {}
    for name in SCENES:
        path = options.slides
        seconds = bench_common.cpu_and_wall(lambda: make(name, path, options.quick))[1]  # noqa: B023 - called at once
        with tifffile.TiffFile(make(name, path, options.quick)) as tiff:
            page = tiff.pages.first
            counts = np.array(page.databytecounts)
        there = counts > 0
        results[f"{name}/byte_per_px"] = float(counts.sum() / there.sum() / TILE**2)
        results[f"{name}/tiles"] = float(there.sum())
        results[f"{name}/seconds"] = seconds
    for name, value in results.items():
        print(f"{name:24} {value:.4g}")
    bench_common.emit(results, options.json)


if __name__ == "__main__":
    main()
