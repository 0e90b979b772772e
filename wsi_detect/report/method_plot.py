"""The differences of a comparison of methods, with their intervals and what could have been seen, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from wsi_detect import artifact
from wsi_detect.evaluation.out_of_fold import MACRO
from wsi_detect.report.method_tables import Block
from wsi_detect.training.grid import ComparisonJob

_Seeds = Mapping[int, Mapping[str, float | None]]

_INK, _QUIET, _GRID, _MARK, _BAND = "#1b2430", "#5b6776", "#e3e7ec", "#24506e", "#f2e6d8"


def plot_methods(block: Block, job: ComparisonJob, out: Path) -> Path | None:
    """Draw macro AP50 minus the baseline's of every method of a block as SVG: equal figures, equal bytes.

    A dot is the difference, its line the interval, small marks the single seeds; the band is what was too small to be
    seen. None if no method has a difference yet.
    """
    rows = [found for found in block.figures if MACRO in found.differences]
    rows = [found for found in rows if found.differences[MACRO].difference is not None]
    if not rows:
        return None
    height = 1.3 + 0.42 * len(rows)
    with matplotlib.rc_context({"svg.hashsalt": "methods", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8.6, height), facecolor="white", layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        _draw(axes, block, job, len(rows))
        with artifact.atomic(out) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None})
    return out


def _draw(axes: Axes, block: Block, job: ComparisonJob, count: int) -> None:
    base = next(found for found in block.figures if found.name == job.cross_validation.baseline)
    titles: list[str] = []
    for found in block.figures:
        gap = found.differences.get(MACRO)
        if gap is None or gap.difference is None:
            continue
        y = len(titles)
        titles.append(f"{job.cross_validation.methods[found.name].title or found.name} ({len(found.shared)})")
        if gap.detectable is not None:
            axes.barh(y, 2 * gap.detectable, 0.8, left=-gap.detectable, color=_BAND, zorder=1)
        if gap.ci_low is not None and gap.ci_high is not None:
            axes.plot([gap.ci_low, gap.ci_high], [y, y], color=_MARK, linewidth=1.6, zorder=3)
        singles = _by_seed(found.by_seed, base.by_seed, found.shared)
        axes.plot(singles, [y] * len(singles), linestyle="", marker="|", markersize=9, color=_QUIET, zorder=4)
        axes.plot([gap.difference], [y], marker="o", markersize=6, color=_MARK, zorder=5)
    axes.axvline(0, color=_INK, linewidth=1, zorder=2)
    axes.set_yticks(range(count), titles, fontsize=9, color=_INK)
    axes.invert_yaxis()
    label = job.cross_validation.methods[base.name].title or base.name
    axes.set_xlabel(
        f"macro AP50 minus that of {label}; band: too small to be seen; in brackets: seeds", fontsize=9, color=_QUIET
    )
    warning = "" if block.trained else " (under-trained)"
    axes.set_title(f"{block.detector}, {block.sampler}{warning}", loc="left", fontsize=10, color=_INK)
    axes.tick_params(colors=_QUIET, length=0)
    axes.grid(axis="x", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")


def _by_seed(mine: _Seeds, others: _Seeds, shared: Sequence[int]) -> list[float]:
    pairs = [(mine[seed][MACRO], others[seed][MACRO]) for seed in shared]
    return [b - a for b, a in pairs if a is not None and b is not None]
