"""What the benchmarks share: options, interleaved medians, CPU time, peers that may be missing, tables and goals.

Figures "per core-second" divide by CPU time, which moves least when somebody else uses the machine. Cases that are
compared run in turn, round by round, so that what slows the machine slows all of them.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

SLIDES = Path("build/bench")


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """Return a parser with the options all benchmarks have."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="small slides, one round: does it run, not how fast")
    options.add_argument("--json", type=Path, help="write the figures here: name → number")
    options.add_argument("--slides", type=Path, default=SLIDES, help=f"where generated slides are kept ({SLIDES})")
    return options


def peer(name: str) -> ModuleType | None:
    """Import a package we are compared with; None, and a line, if it is not installed or does not load."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        print(f"{name}: left out ({error})")
        return None


def cpu_and_wall(work: Callable[[], object]) -> tuple[float, float]:
    """Run it; return the CPU seconds of this process and of its finished children, and the seconds that passed."""
    cpu, wall = _cpu(), time.perf_counter()
    work()
    return _cpu() - cpu, time.perf_counter() - wall


def medians(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Call every case once a round, in turn, and return the median of what each returned.

    Args:
        cases: name → what measures once and returns the figure.
        rounds: how many figures a case gets. With more than one round, one more goes ahead and is thrown away.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + (rounds > 1)):
        for name, case in cases.items():
            figure = case()
            if number or rounds == 1:
                found[name].append(figure)
    return {name: statistics.median(figures) for name, figures in found.items()}


def rates(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Measure work that returns how many megapixels it delivered; see `medians`.

    Returns:
        `<name>/core`, megapixels a CPU second, and `<name>/wall`, megapixels a second.
    """
    walls: dict[str, list[float]] = {name: [] for name in cases}

    def measured(name: str) -> float:
        delivered = []
        cpu, wall = cpu_and_wall(lambda: delivered.append(cases[name]()))
        walls[name].append(delivered[0] / wall)
        return delivered[0] / cpu

    cores = medians({name: partial(measured, name) for name in cases}, rounds)
    found = {f"{name}/core": value for name, value in cores.items()}
    return found | {f"{name}/wall": statistics.median(walls[name][-rounds:]) for name in cases}


def in_child(
    script: str, *arguments: str, environment: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> dict[str, float]:
    """Run a script of this folder in a process of its own; return the JSON object in the last line it prints.

    Args:
        script: its file name.
        arguments: its command line.
        environment: variables to set besides those of this process.
        timeout_s: how long it may take.

    Raises:
        RuntimeError: it failed; the text is what it printed.
        TimeoutExpired: it took longer, and was ended.
    """
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(  # noqa: S603 - our own script
        command, capture_output=True, text=True, env=variables, timeout=timeout_s
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return {name: float(value) for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def peak_mb() -> float:
    """Return the most memory this process has held so far, MB.

    Not `ru_maxrss`: on Linux that begins with what the parent held when it started the child.
    """
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def judge(name: str, value: float, goal: float, floor: float) -> str:
    """Hold a figure against its goal, which it should reach, and its floor, which it must."""
    verdict = "ok" if value >= goal else "floor reached" if value >= floor else "MISSED"
    return f"{name}: goal ≥ {goal:g}, floor {floor:g}: {value:.2f} {verdict}"


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same keys → a Markdown table; a number gets three significant digits."""
    if not rows:
        return ""
    lines = [" | ".join(rows[0]), " | ".join("---" for _ in rows[0])]
    lines += [" | ".join(_cell(row.get(key)) for key in rows[0]) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def emit(results: Mapping[str, float], path: Path | None) -> None:
    """Write flat figures, name → number, if a path is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(results), indent=1) + "\n")


def ratios(results: Mapping[str, float], pairs: Iterable[tuple[str, str, str]]) -> dict[str, float]:
    """Return ratio names → figure of the first over figure of the second, for pairs of which both were measured."""
    return {name: results[a] / results[b] for name, a, b in pairs if a in results and b in results}


def machine() -> str:
    """One line: what it ran on, as far as it may be told."""
    return f"{os.cpu_count()} cores, {platform.machine()} {platform.system()}, Python {platform.python_version()}"


def commit() -> str:
    """Return the short name of the commit checked out, `+` behind it if files differ; `unknown` outside a checkout."""
    answers = []
    for question in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        command = ["git", "-C", str(Path(__file__).parent), *question]
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - fixed words
        answers.append(done.stdout.strip())
    return f"{answers[0]}{'+' if answers[1] else ''}" if answers[0] else "unknown"


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
