"""The curves of an evaluation as pictures inside a page: precision and recall, FROC, reliability."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from wsi_detect.evaluation.average_precision import precision_recall
from wsi_detect.evaluation.calibration import reliability
from wsi_detect.evaluation.froc import extents, froc
from wsi_detect.evaluation.matching import Pool
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.taxonomy import CLASSES, colour_hex

_INK, _QUIET, _GRID = "#1b2430", "#5b6776", "#e3e7ec"
#: Fewer detections in a bin say nothing about how often a score is right.
FEWEST = 10
_WIDTH, _HEIGHT = 5.6, 4.3


def precision_recall_plot(pools: Mapping[str, Pool]) -> str:
    """Precision against recall of each class that has cells; `data:` URI of an SVG."""
    figure, axes = _axes("share of the labelled cells that is found (recall)", "share of the marks that is right")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    for name, pool in pools.items():
        if pool.n_cells:
            recall, precision = precision_recall(pool)
            reached = precision > 0
            axes.plot(recall[reached], precision[reached], **_line(name), label=f"{_title(name)} ({pool.n_cells})")
    return _finished(figure, axes, "" if axes.lines else "nothing was found, or no cell is labelled")


def froc_plot(run: EvaluationRun, pools: Mapping[str, Pool], unit: str) -> str | None:
    """Sensitivity against false alarms per unit; None where the unit is not known of every image."""
    extent = extents(run.truths, unit)
    if extent is None:
        return None
    name_of = {"mm2": "mm²"}.get(unit, unit)
    figure, axes = _axes(f"false alarms per {name_of}", "share of the labelled cells that is found")
    axes.set_ylim(0, 1.02)
    axes.set_xscale("symlog", linthresh=0.25, linscale=0.5)
    furthest = 1.0
    for name, pool in pools.items():
        curve = froc(pool, extent)
        if curve is not None and len(curve.thresholds):
            x = np.concatenate([[0.0], curve.false_positives])
            y = np.concatenate([[0.0], curve.sensitivity])
            axes.plot(x, y, **_line(name), drawstyle="steps-post", label=f"{_title(name)} ({pool.n_cells})")
            furthest = max(furthest, float(x[-1]))
    ticks = [tick for tick in (0, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if tick <= furthest]
    axes.set_xlim(0, furthest)
    axes.set_xticks(ticks)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return _finished(figure, axes, "" if axes.lines else "nothing was found, or no cell is labelled")


def reliability_plot(pools: Mapping[str, Pool]) -> str:
    """Share of marks that are right against their score, in bins of at least `FEWEST` marks."""
    figure, axes = _axes("score the model gave", "share of such marks that is right")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.plot([0, 1], [0, 1], color=_QUIET, linewidth=1, linestyle=(0, (2, 2)), label="as it should be")
    drawn = False
    for name, pool in pools.items():
        curve = reliability(pool)
        enough = curve.count >= FEWEST
        if enough.any():
            drawn = True
            style = {**_line(name), "marker": "o", "markersize": 3.5}
            axes.plot(curve.mean_score[enough], curve.hit_share[enough], **style, label=_title(name))
    return _finished(figure, axes, "" if drawn else "too few marks")


def _title(name: str) -> str:
    return name if name in CLASSES else "any abnormal cell"


def _line(name: str) -> dict[str, Any]:
    if name not in CLASSES:
        return {"color": _INK, "linewidth": 2.6}
    return {"color": colour_hex(name), "linewidth": 1.6}


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, _HEIGHT), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlabel(x, fontsize=9.5, color=_INK)
    axes.set_ylabel(y, fontsize=9.5, color=_INK)
    axes.tick_params(colors=_QUIET, labelsize=9, length=0)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("bottom", "left"))
        spine.set_color("#b8c0c9")
    return figure, axes


def _finished(figure: Figure, axes: Axes, nothing: str) -> str:
    """Put the legend below, or the words for a plot that has nothing to show; write the picture."""
    if not nothing:
        figure.legend(frameon=False, fontsize=8.5, labelcolor=_INK, loc="outside lower center", ncols=3)
    else:
        axes.text(0.5, 0.5, nothing, ha="center", va="center", transform=axes.transAxes, color=_QUIET)
    stream = io.BytesIO()
    # Without salt and with a date, equal figures would not be equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "wsi-detect", "svg.fonttype": "path"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}"
