"""What `tile` shows: progress while it works, a table of the plan or of the results."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from wsi_detect.run.slide_list import SlideRow
from wsi_detect.run.tile_plan import Room, SlidePlan
from wsi_detect.run.tile_result import NOT_TILED, TILED, TileResult
from wsi_detect.tiling.tiler import Progress
from wsi_detect.workers import Limits

_STYLES = {TILED: "green", NOT_TILED: "red"}
#: Seconds between two lines of progress where there is no terminal.
_LINE_EVERY_S = 30.0


class TileProgress:
    """A bar on a terminal, lines elsewhere; both on standard error."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._total, self._done = total, 0
        self._shares: dict[str, float] = {}
        self._pixels: dict[str, int] = {}
        self._started = self._told = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[slides]} slides"),
            TextColumn("{task.fields[patches]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self._bar = Bar(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("tile", total=total, slides=f"0/{total}", patches="", speed="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, row: SlideRow, progress: Progress) -> None:
        """Take note of how far a slide is."""
        name, patches = row.slide_id, f"{progress.done}/{progress.patches} patches"
        self._shares[name] = progress.done / max(progress.patches, 1)
        self._pixels[name] = progress.made * progress.patch_px**2
        self._show(name, patches)
        if not self._console.is_terminal and time.monotonic() - self._told > _LINE_EVERY_S:
            self._line(f"{name} {patches}, {self._speed()}{self._left()}")

    def tell(self, result: TileResult | SlidePlan) -> None:
        """Take note of a finished slide, or of a finished plan."""
        self._done += 1
        self._shares.pop(result.slide_id, None)
        self._show(result.slide_id, f"{result.patches} patches")
        if isinstance(result, TileResult) and not self._console.is_terminal:
            speed = "" if result.megapixels_per_s is None else f", {result.megapixels_per_s:.0f} MP/s"
            reason = f" ({result.reason})" if result.reason else ""
            self._line(f"{result.slide_id} {result.status}, {result.patches} patches{speed}{reason}")

    def _show(self, name: str, patches: str) -> None:
        self._bar.update(
            self._task,
            description=name,
            completed=self._done + sum(self._shares.values()),
            slides=f"{self._done}/{self._total}",
            patches=patches,
            speed=self._speed(),
        )

    def _line(self, text: str) -> None:
        self._told = time.monotonic()
        print(f"[{self._done}/{self._total}] {text}", file=sys.stderr)

    def _speed(self) -> str:
        passed = max(time.monotonic() - self._started, 1e-6)
        return f"{sum(self._pixels.values()) / 1e6 / passed:.0f} MP/s"

    def _left(self) -> str:
        share = (self._done + sum(self._shares.values())) / max(self._total, 1)
        if not share:
            return ""
        return f", about {_minutes((time.monotonic() - self._started) * (1 / share - 1))} left"


def show_results(results: Sequence[TileResult], table: Path) -> None:
    """Print what became of each slide and where that is kept, on standard output."""
    shown = _table("slide", "status", "patches", "mpp", "codec", "MP/s", "MB", "unreadable")
    for result in results:
        style = _STYLES.get(result.status, "yellow")
        shown.add_row(
            result.slide_id,
            f"[{style}]{result.status}[/{style}]",
            str(result.patches),
            _number(result.mpp, ".4g"),
            result.codec,
            _number(result.megapixels_per_s, ".0f"),
            _number(result.bytes / 1e6 if result.codec else None, ".4g"),
            "" if result.unreadable_fraction is None else f"{100 * result.unreadable_fraction:.3g} %",
        )
    _show(shown, [_remark(result.slide_id, result.reason) for result in results if result.reason], str(table))


def show_plan(plans: Sequence[SlidePlan], room: Room, lanes: int) -> None:
    """Print what each slide, and all of them, will take, on standard output.

    Args:
        plans: of the slides that are not tiled yet.
        room: on the disk.
        lanes: threads that will be at work at once.
    """
    shown = _table("slide", "patches", "mpp", "codec", "GB", "files", "minutes")
    for plan in plans:
        shown.add_row(plan.slide_id, *([""] * 6 if plan.error else _figures(plan, lanes)))
    able = [plan for plan in plans if plan.error is None]
    shown.add_section()
    seconds = sum(plan.seconds for plan in able) / lanes
    shown.add_row(
        f"{len(able)} slides",
        str(sum(plan.patches for plan in able)),
        "",
        "",
        f"{sum(plan.bytes for plan in able) / 1e9:.3g}",
        str(sum(plan.files for plan in able)),
        _tenths(seconds / 60),
    )
    reasons = [_remark(plan.slide_id, _why(plan)) for plan in plans if _why(plan)]
    _show(shown, reasons, f"{room.needed / 1e9:.3g} GB to write, {room.free / 1e9:.3g} GB free on {room.folder}")


def cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limits_of(memory_gb: float | None, stall_s: float, threads: int) -> Limits:
    """Return the limits of a slide; without a wish, memory grows with the threads, as what they hold does."""
    memory = 2 + 0.5 * threads if memory_gb is None else memory_gb
    return Limits(stall_s or None, round(memory * 1e9) or None)


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _show(table: Table, remarks: Sequence[str], last: str) -> None:
    console = Console()
    console.print(table)
    for line in (*remarks, last):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _why(plan: SlidePlan) -> str:
    """Why a slide cannot be tiled, or why its own tiles cannot be kept; nothing where there is nothing to explain."""
    if plan.codec == "jpeg" and plan.codec_reason != plan.codec:
        return f"encoded anew, because {plan.codec_reason}"
    return plan.error or ""


def _remark(slide_id: str, reason: str) -> str:
    return reason if slide_id in reason else f"{slide_id}: {reason}"


def _figures(plan: SlidePlan, lanes: int) -> list[str]:
    minutes = plan.seconds / lanes / 60
    return [
        str(plan.patches),
        _number(plan.mpp, ".4g"),
        plan.codec,
        f"{plan.bytes / 1e9:.3g}",
        str(plan.files),
        _tenths(minutes),
    ]


def _number(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _tenths(value: float) -> str:
    return f"{value:.1f}" if value >= 0.05 else "<0.1"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
