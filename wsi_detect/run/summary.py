"""What commands over many slides have in common at their end: a table as CSV, and an exit code."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsi_detect import artifact
from wsi_detect.errors import EXIT_INCOMPLETE, EXIT_INVALID_INPUT, EXIT_OK


def exit_code_of(states: Iterable[str], *, good: set[str], bad: str) -> int:
    """0 when every slide is in a good state, 4 when every one is in the bad one, 3 in between."""
    found = set(states)
    if found <= good:
        return EXIT_OK
    return EXIT_INVALID_INPUT if found == {bad} else EXIT_INCOMPLETE


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table atomically; what a row has beyond the named columns is left out."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    artifact.write_bytes(path, stream.getvalue().encode())
