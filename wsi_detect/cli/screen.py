"""What `run` shows: progress while it works, a table at the end."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from wsi_detect.run import Batch, RunConfig
from wsi_detect.run.config import load_job
from wsi_detect.run.gate_report import gate_lines
from wsi_detect.run.status import NOT_SCREENED, SCREENED, Status

_STYLES = {SCREENED: "green", NOT_SCREENED: "red"}


class Progress:
    """A bar on a terminal, a line a slide elsewhere; both on standard error."""

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("slides", total=total)
        self._total = total
        self._done = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def tell(self, status: Status) -> None:
        """Take note of a slide."""
        self._done += 1
        self._bar.advance(self._task)
        if not self._console.is_terminal:
            reason = f": {status['reason']}" if status["reason"] else ""
            print(f"[{self._done}/{self._total}] {status['slide_id']} {status['status']}{reason}", file=sys.stderr)


def run_config(
    path: Path | None,
    overrides: Sequence[str] | None,
    store: Literal["auto", "jpeg_tiles", "jpeg", "zstd", "none"] | None,
) -> RunConfig:
    """Read the configuration of a run; the flag `--store` wins over the file."""
    return load_job(path, RunConfig, [*(overrides or []), *([f"tiling.codec={store}"] if store else [])])


def summarise(statuses: Sequence[Status], batch: Batch) -> None:
    """Print the table and where things are, on standard output."""
    table = Table("slide", "status", "cells", "abnormal", "examined", "reason", title=None)
    for status in statuses:
        style = _STYLES.get(status["status"], "yellow")
        table.add_row(
            status["slide_id"],
            f"[{style}]{status['status']}[/{style}]",
            "" if status["cells"] is None else str(status["cells"]),
            _abnormal(status),
            f"{status['examined_fraction']:.1%}",
            status["reason"] or "",
        )
    console = Console(soft_wrap=False)
    console.print(table)
    for line in gate_lines(statuses):
        console.print(line, highlight=False, markup=False)
    console.print(f"{batch.file('summary', '.csv')}", soft_wrap=True, highlight=False, markup=False)


def _abnormal(status: Status) -> str:
    from wsi_detect.taxonomy import is_abnormal

    if status["cells"] is None:
        return ""
    return str(sum(count for name, count in status["counts"].items() if is_abnormal(name)))
