"""Random patch reads: our stores against a folder of JPEGs, HDF5, and zarr-python reading our own files.

    python scripts/bench_store.py

The same patches of 1024 px in every store, read in random order: with one thread, per second of processor time, which
moves least when others use the machine; with two threads, per second that passed.

* `ours/jpeg_tiles`, `ours/jpeg`: `PatchStore.read` into memory of the reader's own, as a loader does it.
* `folder`: `simplejpeg.decode_jpeg(path.read_bytes())` of the very JPEGs `ours/jpeg` holds. `folder/out`: the same into
  memory of the reader's own, which is what ours is held against. `alike/out`: the folder if the patches are encoded at
  the slide's own quality and subsampling, as the tiles are.
* `hdf5`: those JPEGs as rows of bytes in one file. `zarr/…`: `images[row]` of stock zarr over our files.
* `…/512`: a window of 512 px at a random place; all but `ours` decode the patch and cut it.
"""

import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import bench_common
import bench_slides
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from wsi_detect.data.store_export import export_stores
from wsi_detect.tiling import codec
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

PATCH, CROP = 1024, 512
READS = 192
#: Whom we are held against, the goal and the floor.
RIVALS = (("folder/out", 0.95, 0.8), ("alike/out", 0.95, 0.8), ("zarr/{}", 1.4, 1.4))
Pixels = NDArray[np.uint8]
Read = Callable[[int], object]


class Reads:
    """Which patches and windows are read, and what each way to read them is."""

    def __init__(self, stores: Mapping[str, PatchStore], folder: Path, alike: Path, count: int) -> None:
        rng = np.random.default_rng(0)
        total = len(stores["jpeg"])
        self.rows = [int(row) for row in rng.permutation(np.resize(np.arange(total), count))]
        self.corners = rng.integers(0, PATCH - CROP, (total, 2)).tolist()
        self._stores, self._local = stores, threading.local()
        self._files, self._alike = sorted(folder.glob("*.jpg")), sorted(alike.glob("*.jpg"))

    def cases(self) -> dict[str, Read]:
        """Name → what reads one patch."""
        found: dict[str, Read] = {
            "folder": self._folder,
            "folder/out": lambda row: self._folder(row, self._memory(PATCH)),
            "folder/512": lambda row: self._cut(row, self._folder(row, self._memory(PATCH))),
            "alike/out": lambda row: _decode(self._alike[row].read_bytes(), self._memory(PATCH)),
        }
        for name, store in self._stores.items():
            found[f"ours/{name}"] = partial(self._ours, store)
            found[f"ours/{name}/512"] = partial(self._ours_window, store)
            found[f"zarr/{name}"] = _zarr(store.path)
        return {**found, **self._hdf5()}

    def _memory(self, side: int) -> Pixels:
        found: Pixels | None = getattr(self._local, f"px{side}", None)
        if found is None:
            found = np.empty((side, side, 3), np.uint8)
            setattr(self._local, f"px{side}", found)
        return found

    def _ours(self, store: PatchStore, row: int) -> Pixels:
        return store.read(row, out=self._memory(PATCH)).rgb

    def _ours_window(self, store: PatchStore, row: int) -> Pixels:
        x, y = self.corners[row]
        return store.read(row, (x, y, x + CROP, y + CROP), self._memory(CROP)).rgb

    def _folder(self, row: int, out: Pixels | None = None) -> Pixels:
        return _decode(self._files[row].read_bytes(), out)

    def _cut(self, row: int, rgb: Pixels) -> Pixels:
        x, y = self.corners[row]
        out = self._memory(CROP)
        out[...] = rgb[y : y + CROP, x : x + CROP]
        return out

    def _hdf5(self) -> dict[str, Read]:
        h5py = bench_common.peer("h5py")
        if h5py is None:
            return {}
        path = self._files[0].with_name("patches.h5")
        with h5py.File(path, "w") as target:
            rows = target.create_dataset("jpeg", (len(self._files),), h5py.vlen_dtype(np.uint8))
            for k, file in enumerate(self._files):
                rows[k] = np.frombuffer(file.read_bytes(), np.uint8)
        stored: Any = h5py.File(path)["jpeg"]
        return {"hdf5": lambda row: _decode(stored[row], self._memory(PATCH))}


def _decode(content: object, out: Pixels | None) -> Pixels:
    return np.asarray(simplejpeg.decode_jpeg(content, fastdct=False, fastupsample=False, buffer=out))


def _zarr(path: Path) -> Read:
    import zarr

    codec.register()
    with warnings.catch_warnings():
        # zarr says that the codec's name is not in the specification.
        warnings.simplefilter("ignore")
        images: Any = zarr.open_group(path, mode="r", use_consolidated=False)["images"]
    return lambda row: images[row]


def per_second(read: Read, rows: list[int], threads: int) -> float:
    """Patches a second, of processor time with one thread, of time passed with more."""

    def part(mine: list[int]) -> None:
        for row in mine:
            read(row)

    def work() -> None:
        if threads == 1:
            part(rows)
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, [rows[k::threads] for k in range(threads)]))

    cpu, wall = bench_common.cpu_and_wall(work)
    return len(rows) / (cpu if threads == 1 else wall)


def measure(name: str, slide: Path, work: Path, count: int, rounds: int) -> dict[str, float]:
    """Make the stores of a slide and measure; name → patches a second, by threads."""
    scene = bench_slides.SCENES[name][0]
    stores = {}
    for kind in ("jpeg_tiles", "jpeg"):
        # The same grid for both: multiples of the slide's tiles.
        config = TilingConfig(patch_px=PATCH, overlap_px=256, codec=kind, quality=False, skip_blank=False)
        stores[kind] = tile_slide(slide, work / kind, config)
    folder = export_stores([stores["jpeg"]], work / "folder", "folder")
    alike = work / "alike"
    alike.mkdir()
    for row in range(len(stores["jpeg_tiles"])):
        rgb = stores["jpeg_tiles"].read(row).rgb
        content = simplejpeg.encode_jpeg(rgb, scene.quality, colorsubsampling=scene.subsampling)
        (alike / f"{row:06d}.jpg").write_bytes(content)
    reads = Reads(stores, folder, alike, count)
    cases: dict[str, Callable[[], float]] = {}
    ways = reads.cases()
    for threads in (1, 2):
        for way, read in ways.items():
            cases[f"{way}/{threads}t"] = partial(per_second, read, reads.rows, threads)
    return bench_common.medians(cases, rounds)


def main() -> None:
    """Measure, print, judge."""
    options = bench_common.parser(__doc__).parse_args()
    results: dict[str, float] = {}
    for name in ("tct", "dense444"):
        slide = bench_slides.make(name, options.slides, options.quick)
        with tempfile.TemporaryDirectory() as work:
            found = measure(name, slide, Path(work), 8 if options.quick else READS, 1 if options.quick else 5)
        results |= {f"{name}/{case}": value for case, value in found.items()}
        kinds = sorted({case.rsplit("/", 1)[0] for case in found})
        print(f"\n{name}, patches a second; {bench_common.machine()}\n")
        print(bench_common.table([{"store": k, **{f"{t}t": found.get(f"{k}/{t}t") for t in (1, 2)}} for k in kinds]))
        print()
        for ours in ("jpeg_tiles", "jpeg"):
            for rival, goal, floor in RIVALS:
                for threads in (1, 2):
                    other = rival.format(ours)
                    if (ours, other) == ("jpeg", "alike/out"):
                        continue
                    ratio = found[f"ours/{ours}/{threads}t"] / found[f"{other}/{threads}t"]
                    results[f"{name}/ratio/{ours}/{other}/{threads}t"] = ratio
                    print(bench_common.judge(f"{name}: {ours} over {other}, {threads}t", ratio, goal, floor))
    bench_common.emit(results, options.json)


if __name__ == "__main__":
    main()
