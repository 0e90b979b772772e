"""Tables and plot of the stitcher's benchmark, from its flat figures, for the screen and for the documents."""

import re
from collections.abc import Mapping
from pathlib import Path

import bench_common
from stitching_peers import PEERS

Figures = Mapping[str, float]
Row = dict[str, object]


def show(figures: Figures) -> dict[str, str]:
    """Return every table, Markdown, by the name of its place in the document."""
    found = {
        "time-uniform": _by_size(figures, "cpu", "uniform"),
        "time-crowded": _by_size(figures, "cpu", "crowded"),
        "million": _at(figures, "uniform", 1_000_000),
        "quality": _quality(figures),
    }
    return {name: bench_common.table(rows) for name, rows in found.items() if rows}


def write_docs(figures: Figures, goals: list[str], where: str, docs: Path) -> None:
    """Put tables and goals between their marks in `stitching.md`, and draw the plot as `img/stitching.svg`.

    Args:
        figures: what was measured.
        goals: a line each, as printed.
        where: commit and machine, said below the goals.
        docs: folder of the documents.
    """
    path = docs / "stitching.md"
    text = path.read_text()
    reached = "\n".join(f"* {line}" for line in goals)
    for name, rows in (show(figures) | {"goals": f"{reached}\n\nMeasured at {where}."}).items():
        marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = marked.sub(lambda found, rows=rows: f"{found[1]}{rows}\n{found[2]}", text)
    path.write_text(text)
    plot(figures, docs / "img" / "stitching.svg")


def plot(figures: Figures, path: Path) -> None:
    """Draw seconds and memory by number of boxes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "stitching"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    panels = (("cpu", "CPU seconds"), ("mb", "memory added by merging, MB"))
    for axis, (name, title) in zip(axes, panels, strict=True):
        for program in PEERS:
            points = [(size, figures.get(f"{name}/uniform/{size}/{program}")) for size in _sizes(figures, "uniform")]
            known = [(size, value) for size, value in points if value]
            mine = program.startswith("ours")
            axis.plot(*zip(*known, strict=True), "o-", lw=2.5 if mine else 1.2, label=program) if known else None
        axis.set(xscale="log", yscale="log", xlabel="boxes", title=title)
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _sizes(figures: Figures, kind: str) -> list[int]:
    return sorted({int(name.split("/")[2]) for name in figures if name.startswith(f"cpu/{kind}/")})


def _programs(figures: Figures, figure: str) -> list[str]:
    return [name for name in PEERS if any(key.startswith(f"{figure}/") and key.endswith(f"/{name}") for key in figures)]


def _by_size(figures: Figures, figure: str, kind: str) -> list[Row]:
    """One row a program, one column a number of boxes."""
    sizes = _sizes(figures, kind)
    return [
        {
            f"{kind}, CPU seconds": name,
            **{f"{size:,} boxes": figures.get(f"{figure}/{kind}/{size}/{name}", "over") for size in sizes},
        }
        for name in _programs(figures, figure)
    ]


def _at(figures: Figures, kind: str, size: int) -> list[Row]:
    """One row a program: everything about one number of boxes."""
    rows: list[Row] = []
    for name in _programs(figures, "cpu"):
        known = {key: figures.get(f"{key}/{kind}/{size}/{name}") for key in ("prepare", "cpu", "prepare_mb", "mb")}
        kept = figures.get(f"cells/{kind}/{size}/{name}")
        if kept is None:
            continue
        rows.append(
            {
                f"{size:,} boxes": name,
                "preparation, s": known["prepare"],
                "merging, s": known["cpu"],
                "what it takes, MB": known["prepare_mb"],
                "added by merging, MB": known["mb"],
                "kept": f"{kept:,.0f}",
            }
        )
    return rows


def _quality(figures: Figures) -> list[Row]:
    """One row a scene."""
    cases = [name.removeprefix("cut/") for name in figures if name.startswith("cut/")]
    return [_quality_row(figures, case) for case in cases]


def _quality_row(figures: Figures, case: str) -> Row:
    kind, jitter, cut = case.split("/")
    row: Row = {
        "scene": kind,
        "cells": f"{figures[f'cells/{case}']:,.0f}",
        "in no patch whole": f"{figures[f'cut/{case}']:,.0f}",
        "jitter, px": f"± {jitter.removesuffix('px')}",
        "pieces score": {"low": "lower", "high": "higher", "alike": "alike"}[cut],
        "ours": _errors_of(figures, case, "ours"),
    }
    rivals = [name.removeprefix(f"lost/{case}/") for name in figures if name.startswith(f"lost/{case}/SAHI")]
    for rival in rivals:
        row["SAHI at its best"] = f"{_errors_of(figures, case, rival)} ({rival.removeprefix('SAHI ')})"
    return row


def _errors_of(figures: Figures, case: str, program: str) -> str:
    """Lost + doubled, and broken where there is anything to break."""
    lost, doubled, broken = (figures.get(f"{name}/{case}/{program}") for name in ("lost", "doubled", "broken"))
    text = f"{lost:.0f} + {doubled:.0f}"
    return text if broken is None else f"{text}, {broken:.0f} broken"
