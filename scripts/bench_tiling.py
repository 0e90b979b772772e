"""Tiling, measured against the programs people use: reading patches, skipping blank tiles, whole slides, area, memory.

    python scripts/bench_tiling.py --quick --json FILE
    python scripts/bench_tiling.py --only read

Figures are megapixels of patches a second: `/core` a second of CPU time, `/wall` a second on the clock. Slides lie in
the page cache. cuCIM's cache is switched on by a file that it reads once, and would still hold the slide in the next
round, so that case runs in a process of its own.
"""

import json
import logging
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import bench_common
import bench_peers
import bench_slides
import numpy as np
import tifffile
from bench_common import in_child, medians, rates, ratios
from bench_peers import OURS, READERS, Open, Origins
from numpy.typing import NDArray

REAL = Path(__file__).parents[1] / "tests" / "fixtures" / "CMU-1-Small-Region.svs"
PARTS = ("read", "kept", "tile", "area", "memory")
CACHED = "cucim-cache"
#: Patch side and overlap, px.
SHAPES = ((1024, 0), (1024, 204), (1024, 256), (512, 0), (512, 102), (512, 128))
#: (slide, patch, overlap, threads) that OpenSlide is measured on: it is slow, and always the same.
OPENSLIDE = {
    ("tct", 1024, 0, 1),
    ("dense444", 1024, 0, 1),
    ("tct", 512, 0, 1),
    ("tct", 1024, 204, 1),
    ("real", 512, 0, 1),
}
#: How we tile end to end: name → configuration.
WAYS: dict[str, dict[str, object]] = {
    "verbatim": {"codec": "jpeg_tiles", "quality": False, "overlap_px": 0},
    "verbatim+check": {"codec": "jpeg_tiles", "quality": False, "check_tiles": True, "overlap_px": 0},
    "verbatim+focus": {"codec": "jpeg_tiles", "quality": True, "overlap_px": 0},
    "jpeg": {"codec": "jpeg", "quality": False, "overlap_px": 0},
    "jpeg+focus": {"codec": "jpeg", "quality": True, "overlap_px": 0},
}
#: Part of the figures' names → heading.
TABLES = (
    ("read", "Reading patches (slide, patch px, overlap px, threads)"),
    ("kept", "Patches the mask keeps"),
    ("tile", "Whole slide to disk, two threads"),
    ("tile-real", "The real slide to disk, two threads"),
    ("area", "Cost against area"),
    ("memory", "One slide, two threads"),
)
UNITS = {
    "core": "megapixels a CPU second",
    "wall": "megapixels a second",
    "cpu_ms_per_megapixel": "CPU ms a megapixel stored",
    "peak_mb": "most memory, MB",
    "seconds": "seconds",
}
#: Ratio, figure, figure it is held against, goal, floor.
GOALS = (
    ("read 0.11 byte/px, ours/openslide", "read/tct/1024/0/1/ours/core", "read/tct/1024/0/1/openslide/core", 7, 6),
    ("read 4:4:4, ours/openslide", "read/dense444/1024/0/1/ours/core", "read/dense444/1024/0/1/openslide/core", 3.5, 3),
    ("read, ours/cucim", "read/tct/1024/0/1/ours/core", "read/tct/1024/0/1/cucim/core", 0.95, 0.85),
    ("read 4:4:4, ours/cucim", "read/dense444/1024/0/1/ours/core", "read/dense444/1024/0/1/cucim/core", 0.95, 0.85),
    ("read, two threads/one", "read/tct/1024/0/2/ours/wall", "read/tct/1024/0/1/ours/wall", 1.8, 1.6),
    ("read 20 % overlap, ours/cucim", "read/tct/1024/204/1/ours/core", f"read/tct/1024/204/1/{CACHED}/core", 1.3, 1.0),
    ("kept patches of a deposit, ours/cucim", "kept/tct/ours/core", "kept/tct/cucim/core", 1.4, 1.2),
    ("kept patches among clumps, ours/cucim", "kept/clumps/ours/core", "kept/clumps/cucim/core", 1.4, 1.2),
    ("tile verbatim, ours/dzsave", "tile/verbatim/wall", "tile/dzsave/wall", 20, 10),
    ("tile verbatim+focus, ours/dzsave", "tile/verbatim+focus/wall", "tile/dzsave/wall", 3, 2),
    ("tile re-encoded, ours/dzsave", "tile/jpeg/wall", "tile/dzsave/wall", 2, 1.5),
    ("tile re-encoded, ours/TIAToolbox", "tile/jpeg/wall", "tile/tiatoolbox/wall", 8, 6),
)


def grid(path: Path, px: int, overlap: int, *, upper_half: bool) -> Origins:
    """Top-left corners (N, 2) of the patches that lie wholly on a slide, row by row."""
    with tifffile.TiffFile(path) as tiff:
        width, height = tiff.pages.first.imagewidth, tiff.pages.first.imagelength
    step = px - overlap
    x = np.arange(0, width - px + 1, step)
    y = np.arange(0, (height // 2 if upper_half else height) - px + 1, step)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.int64)


def sweep(reader: Open, path: Path, origins: Origins, px: int, threads: int, passes: int = 1) -> float:
    """Read patches, each thread a run of them through a handle of its own, `passes` times; return the megapixels."""

    def part(own: NDArray[np.int64]) -> None:
        with reader(path, own, px) as read:
            for _ in range(passes):
                for i in range(len(own)):
                    read(i)

    if threads == 1:
        part(origins)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, np.array_split(origins, threads)))
    return passes * len(origins) * px * px / 1e6


def bench_read(names: list[str], folder: Path, quick: bool) -> dict[str, float]:
    """Patches of a grid, one after the other."""
    results: dict[str, float] = {}
    slides = {name: bench_slides.make(name, folder, quick) for name in ("tct", "dense444")} | {"real": REAL}
    for slide, path in slides.items():
        for px, overlap in SHAPES[::3] if quick or slide == "real" else SHAPES:
            if slide == "real" and px > 512:
                continue
            for threads in (1, 2):
                case = (slide, px, overlap, threads)
                readers = [name for name in names if name != "openslide" or case in OPENSLIDE]
                results |= _read(path, case, readers, quick)
    return results


def _read(path: Path, case: tuple[str, int, int, int], readers: list[str], quick: bool) -> dict[str, float]:
    slide, px, overlap, threads = case
    prefix = "/".join(["read", *map(str, case)])
    origins = grid(path, px, overlap, upper_half=slide == "tct")
    # It is small, and read over and over.
    passes = 20 if slide == "real" and not quick else 1
    found = rates(
        {f"{prefix}/{name}": partial(sweep, READERS[name][1], path, origins, px, threads, passes) for name in readers},
        1 if quick else 3,
    )
    if "cucim" in readers and overlap and not quick:
        found |= _cached(f"{prefix}/{CACHED}", path, case)
    return found


def _cached(name: str, path: Path, case: tuple[str, int, int, int]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "cucim.json"
        config.write_text('{"cache": {"type": "per_process", "memory_capacity": 1024}}')
        arguments = ("--child", "cucim", str(path), *map(str, case[1:]))
        runs = [
            in_child(Path(__file__).name, *arguments, environment={"CUCIM_CONFIG_PATH": str(config)}) for _ in "123"
        ]
    return {f"{name}/{key}": float(np.median([run[key] for run in runs])) for key in ("core", "wall")}


def bench_kept(names: list[str], folder: Path, quick: bool) -> dict[str, float]:
    """The patches the mask keeps; we leave out their blank tiles, and pay for finding them."""
    results: dict[str, float] = {}
    others = [name for name in names if name != OURS]
    for slide in ("tct", "clumps"):
        path = bench_slides.make(slide, folder, quick)
        origins = bench_peers.kept_origins(path, 1024)
        readers = {name: READERS[name][1] for name in others if quick or name != "openslide"}
        readers |= {OURS: bench_peers.ours_without_blank, "ours-every-tile": bench_peers.ours}
        cases = {f"kept/{slide}/{name}": partial(sweep, read, path, origins, 1024, 1) for name, read in readers.items()}
        results |= rates(cases, 1 if quick else 3)
    return results


def bench_tile(names: list[str], folder: Path, quick: bool) -> dict[str, float]:
    """Whole slides to disk, two threads; ours stores what the mask keeps, the others store all."""
    path, threads = bench_slides.make("tct", folder, quick), bench_peers.cores()
    cases = {f"tile/{name}": partial(bench_peers.tile, path, folder, threads, **way) for name, way in WAYS.items()}
    if "libvips" in names:
        cases["tile/dzsave"] = partial(bench_peers.dzsave, path, folder, 1024)
    results = rates(cases, 1 if quick else 3)
    if not quick and bench_common.peer("tiatoolbox") is not None:
        results |= rates({"tile/tiatoolbox": partial(bench_peers.save_tiles, path, folder, 1024)}, 1)
    real = {f"tile-real/{name}": partial(bench_peers.tile, REAL, folder, threads, **way) for name, way in WAYS.items()}
    return results | rates(real, 1 if quick else 3)


def bench_area(names: list[str], folder: Path, quick: bool) -> dict[str, float]:
    """CPU seconds against area: a quarter, a half, the whole."""
    slides = {name: bench_slides.make(name, folder, quick) for name in ("tct_quarter", "tct_half", "tct")}
    for path in slides.values():
        path.read_bytes()
    results: dict[str, float] = {}
    for way in ("verbatim", "jpeg"):
        cases = {name: partial(_cpu_per_megapixel, path, folder, way) for name, path in slides.items()}
        found = medians(cases, 1 if quick else 3)
        results |= {f"area/{way}/{name}/cpu_ms_per_megapixel": value for name, value in found.items()}
    return results


def _cpu_per_megapixel(path: Path, folder: Path, way: str) -> float:
    stored: list[float] = []
    cpu, _ = bench_common.cpu_and_wall(lambda: stored.append(bench_peers.tile(path, folder, 1, **WAYS[way])))
    return 1000 * cpu / stored[0]


def bench_memory(names: list[str], folder: Path, quick: bool) -> dict[str, float]:
    """Most memory of a process that tiles one slide with two threads, MB, and its seconds."""
    results: dict[str, float] = {}
    for name in ("tct_quarter", "tct", "dense444", "sparse"):
        path = bench_slides.make(name, folder, quick)
        for way in ("verbatim+focus", "jpeg"):
            found = in_child(Path(__file__).name, "--child", "tile", str(path), str(folder), way)
            results |= {f"memory/{name}/{way}/{key}": value for key, value in found.items()}
    return results


def child(arguments: list[str]) -> dict[str, float]:
    """What runs in a process of its own."""
    if arguments[0] == "tile":
        path, folder, way = arguments[1:]
        work = partial(bench_peers.tile, Path(path), Path(folder), bench_peers.cores(), **WAYS[way])
        wall = bench_common.cpu_and_wall(work)[1]
        return {"peak_mb": bench_common.peak_mb(), "seconds": wall}
    path, (px, overlap, threads) = Path(arguments[1]), map(int, arguments[2:])
    origins = grid(path, px, overlap, upper_half=True)
    reader = READERS[arguments[0]][1]
    # The first call loads the decoder.
    sweep(reader, path, origins[-1:], px, 1)
    found = rates({"": partial(sweep, reader, path, origins, px, threads)}, 1)
    return {name.strip("/"): value for name, value in found.items()}


def show(results: dict[str, float], *, judged: bool) -> None:
    """Print the figures, then each goal with what was reached: small slides say nothing about goals."""
    for part, title in TABLES:
        for unit, words in UNITS.items():
            rows = pivot(results, part, unit)
            if rows:
                print(f"\n{title}, {words}\n\n{bench_common.table(rows)}")
    found = ratios(results, [(name, a, b) for name, a, b, _, _ in GOALS])
    print()
    for name, _, _, goal, floor in GOALS:
        if judged and name in found:
            print(bench_common.judge(name, found[name], goal, floor))


def pivot(results: dict[str, float], part: str, unit: str) -> list[dict[str, object]]:
    """Figures named part/case…/who/unit → a row a case, a column for each who."""
    names = [name.split("/") for name in results if name.startswith(f"{part}/") and name.endswith(f"/{unit}")]
    columns = dict.fromkeys(name[-2] for name in names)
    rows: dict[str, dict[str, object]] = {}
    for name in names:
        case = " ".join(name[1:-2]) or part
        rows.setdefault(case, {"case": case, **dict.fromkeys(columns)})[name[-2]] = results["/".join(name)]
    return list(rows.values())


def main() -> None:
    """Run the parts asked for."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2:])))
        return
    # Read by libvips when it is loaded.
    os.environ.setdefault("VIPS_CONCURRENCY", str(bench_peers.cores()))
    parser = bench_common.parser(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="part to run, may be repeated (all)")
    options = parser.parse_args()
    # TIAToolbox switches on everybody's log.
    logging.getLogger("wsi_detect").setLevel(logging.WARNING)
    print(f"{bench_common.machine()}; megapixels a second")
    names = bench_peers.available({name: package for name, (package, _) in READERS.items()})
    results: dict[str, float] = {}
    for part in options.only or PARTS:
        measure = globals()[f"bench_{part}"]
        results |= measure(names, options.slides, options.quick)
    show(results, judged=not options.quick)
    bench_common.emit(results, options.json)


if __name__ == "__main__":
    main()
