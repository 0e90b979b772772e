"""Measure the stitcher beside others: time and memory by number of boxes, cells lost and doubled on known truth.

    python scripts/bench_stitching.py --json build/bench/stitching.json
    python scripts/bench_stitching.py --read build/bench/stitching.json --docs docs

The second line writes tables and plot into the documents, from figures measured before. Every case of time runs in a
process of its own. A program that would take longer than `--limit` seconds, by what it took for fewer boxes, is left
out from there on: its place in the table says "over".
"""

import ctypes
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from subprocess import TimeoutExpired

from bench_common import commit, emit, in_child, judge, machine, parser, peak_mb, ratios
from stitching_peers import PEERS, installed
from stitching_quality import quality
from stitching_scenes import scene_of_size
from stitching_tables import show, write_docs

SIZES = (10_000, 100_000, 1_000_000, 3_000_000)
SCENES = ("uniform", "crowded")
#: A child may hold this much; a program that compares every box with every other asks for hundreds of GB.
_MOST_MEMORY = 9 << 30
_SET_UP_S = 180


def measure(name: str, kind: str, size: int, rounds: int) -> dict[str, float]:
    """Measure one program on one scene, in this process.

    Returns:
        cpu, wall: seconds of merging, medians; prepare: CPU seconds to make what the program takes; mb: memory that
        merging adds at its peak; prepare_mb: memory of what it takes; detections; cells.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
    entry = PEERS[name]
    # The first call imports and compiles.
    entry.merge(entry.prepare(scene_of_size(kind, 1000)))
    scene = scene_of_size(kind, size)
    before = _settled_mb()
    start = time.process_time()
    prepared = entry.prepare(scene)
    prepare = time.process_time() - start
    ready = _settled_mb()
    cpu, wall = [], []
    peak = kept = 0.0
    while len(cpu) < rounds and sum(wall) < 20:
        started, clock = time.process_time(), time.perf_counter()
        kept = len(entry.merge(prepared))
        cpu.append(time.process_time() - started)
        wall.append(time.perf_counter() - clock)
        peak = peak or peak_mb()
    return {
        "cpu": statistics.median(cpu),
        "wall": statistics.median(wall),
        "prepare": prepare,
        "mb": peak - ready,
        "prepare_mb": max(ready - before, 0.0),
        "detections": len(scene.boxes),
        "cells": kept,
    }


def _settled_mb() -> float:
    """Give freed memory back to the system and forget the peak so far; the memory held then, MB."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def timings(sizes: Iterable[int], rounds: int, limit_s: float) -> dict[str, float]:
    """Measure every program that is installed on every scene: `<figure>/<scene>/<boxes>/<program>` → number."""
    found: dict[str, float] = {}
    programs = installed()
    for kind in SCENES:
        took: dict[str, list[tuple[int, float]]] = {name: [] for name in programs}
        for size in sizes:
            for name, before in took.items():
                figures = None if _expected(before, size) > limit_s else _measured(name, kind, size, rounds, limit_s)
                before.append((size, figures["cpu"] if figures else float("inf")))
                if figures is None:
                    print(f"{kind}, {size:,} boxes, {name}: over")
                    continue
                print(f"{kind}, {size:,} boxes, {name}: {figures['cpu']:.3g} s, {figures['mb']:.0f} MB")
                found |= {f"{figure}/{kind}/{size}/{name}": value for figure, value in figures.items()}
    return found


def _measured(name: str, kind: str, size: int, rounds: int, limit_s: float) -> dict[str, float] | None:
    """Measure in a child; None if it takes too long or wants more memory than there is."""
    case = ("--case", name, kind, str(size), str(rounds))
    environment = {"OMP_NUM_THREADS": "1"}
    try:
        return in_child("bench_stitching.py", *case, environment=environment, timeout_s=_SET_UP_S + limit_s)
    except TimeoutExpired:
        return None
    except RuntimeError as error:
        if "MemoryError" in str(error) or "exit -9" in str(error) or "allocate" in str(error):
            return None
        raise


def _expected(before: list[tuple[int, float]], size: int) -> float:
    """Seconds to expect, by how time grew over the last two sizes; at least as many times as there are more boxes."""
    if not before:
        return 0.0
    (last, seconds), growth = before[-1], 1.0
    if len(before) > 1 and seconds < float("inf"):
        growth = max((seconds / before[-2][1]) / (last / before[-2][0]), 1.0)
    return seconds * size / last * growth


def goals(figures: Mapping[str, float]) -> list[str]:
    """Hold the figures against what was asked of the stitcher."""

    def one(figure: str, name: str, size: int = 1_000_000) -> float | None:
        return figures.get(f"{figure}/uniform/{size}/{name}")

    lines = []
    mine, ours_ready = one("cpu", "ours"), one("prepare", "ours")
    nms = {name: one("cpu", name) for name in PEERS if name.startswith("SAHI NMS")}
    fastest = min((name for name, value in nms.items() if value), key=lambda name: nms[name] or 0.0, default=None)
    if mine and ours_ready and fastest:
        merged, ready = nms[fastest] or 0.0, one("prepare", fastest) or 0.0
        lines.append(judge(f"{fastest} / ours, with preparation", (merged + ready) / (mine + ours_ready), 20, 20))
        lines.append(judge(f"{fastest} / ours, without", merged / mine, 10, 10))
    pairs = [("STRtree / ours", "cpu/uniform/1000000/STRtree", "cpu/uniform/1000000/ours")]
    lines += [judge(name, value, 2, 2) for name, value in ratios(figures, pairs).items()]
    large = one("cpu", "ours", 3_000_000)
    if mine and large:
        lines.append(judge("3.5 x our time at 1,000,000 / at 3,000,000", 3.5 * mine / large, 1, 1))
    added = [(name, one("mb", name)) for name in ("ours", "ours, files")]
    lines += [judge(f"300 MB / memory added by {name}", 300 / value, 1, 1) for name, value in added if value]
    return lines


def main() -> None:
    """Print tables and goals; `--json` keeps the figures."""
    if sys.argv[1:2] == ["--case"]:
        name, kind, size, rounds = sys.argv[2:]
        print(json.dumps(measure(name, kind, int(size), int(rounds))))
        return
    options = parser(__doc__)
    options.add_argument("--limit", type=float, default=30, help="seconds a program may take")
    options.add_argument("--only", choices=("time", "quality"), help="measure one half")
    options.add_argument("--read", type=Path, help="take the figures from here instead of measuring")
    options.add_argument("--docs", type=Path, help="write tables and plot into stitching.md and img/ of this folder")
    given = options.parse_args()
    figures: dict[str, float] = json.loads(given.read.read_text()) if given.read else {}
    halves: dict[str, Callable[[], dict[str, float]]] = {
        "time": lambda: timings(SIZES[:1] if given.quick else SIZES, 1 if given.quick else 3, given.limit),
        "quality": lambda: quality(given.quick),
    }
    for name, half in halves.items():
        if not given.read and given.only in (None, name):
            figures |= half()
            emit(figures, given.json)
    print(f"\n{machine()}\n")
    print("\n\n".join(show(figures).values()))
    print("\n".join(["", *goals(figures)]))
    if given.docs:
        write_docs(figures, goals(figures), f"{commit()}, {machine()}", given.docs)


if __name__ == "__main__":
    main()
