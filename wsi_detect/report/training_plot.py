"""The curves of a training: what the losses did, and what came of it on validation patches."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError
from wsi_detect.taxonomy import CLASSES, colour_hex, gravest_first

_INK, _QUIET, _GRID = "#1b2430", "#5b6776", "#e3e7ec"
_PARTS = ("#24506e", "#c2571a", "#3f7d4e", "#7b5aa6", "#8a6d00")
_LOSS, _AP = "loss/", "ap50/"
#: Share of the curve a smoothed point looks at.
_WINDOW = 0.05

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def read_curves(metrics: Path) -> dict[str, Curve]:
    """Read curves from CSV as Lightning's `CSVLogger` writes it: a column a figure, empty where not logged.

    Args:
        metrics: one file, or the folder of a run with `version_*/metrics.csv`, one for each start.

    Returns:
        Name → steps (N,) and values (N,), by step.

    Raises:
        MissingArtifactError: there is no such file.
        DamagedArtifactError: it has no column `step`, or a value is not a number.
    """
    starts = sorted(metrics.glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    files = [metrics] if metrics.is_file() else starts
    if not files:
        raise MissingArtifactError(f"{metrics} is missing; it is written while a model is trained")
    rows = []
    for file in files:
        with file.open(newline="") as stream:
            rows += list(csv.DictReader(stream))
    try:
        names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "epoch"))
        points = {name: [(float(row["step"]), float(row[name])) for row in rows if row.get(name)] for name in names}
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedArtifactError(f"{metrics} is not a table of metrics by step: {error!r}") from error
    # After a resume a step can stand in the file twice; the later line is the one training went on from.
    latest = {name: dict(values) for name, values in points.items() if values}
    return {name: (np.array(sorted(v)), np.array([v[step] for step in sorted(v)])) for name, v in latest.items()}


def plot_training(metrics: Path, out: Path, title: str = "") -> Path:
    """Draw losses and AP50 against steps as a PNG of 2000 px width.

    Args:
        metrics: as for `read_curves`, with columns `loss/…` and `ap50/…`.
        out: the picture.
        title: above it.

    Returns:
        `out`.

    Raises:
        MissingArtifactError: there is no such file.
        DamagedArtifactError: it is not a table of metrics, or has nothing to draw.
    """
    curves = read_curves(metrics)
    if not any(name.startswith((_LOSS, _AP)) for name in curves):
        raise DamagedArtifactError(f"{metrics} has no column loss/… or ap50/… with a value")
    figure = Figure(figsize=(10, 4.2), dpi=200, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True)
    _draw_losses(left, {name.removeprefix(_LOSS): c for name, c in curves.items() if name.startswith(_LOSS)})
    _draw_precision(right, {name.removeprefix(_AP): c for name, c in curves.items() if name.startswith(_AP)})
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=_INK)
    with artifact.atomic(out) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    return out


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Mean over a centred window, shorter at the ends: (N,) → (N,)."""
    half = max(window // 2, 0)
    return np.array([np.mean(values[max(k - half, 0) : k + half + 1]) for k in range(len(values))])


def _draw_losses(axes: Axes, curves: dict[str, Curve]) -> None:
    _style(axes, "Training loss")
    names = sorted(curves, key=lambda name: (name != "total", name))
    for number, name in enumerate(names):
        steps, values = curves[name]
        colour = _INK if name == "total" else _PARTS[number % len(_PARTS)]
        axes.plot(steps, values, color=colour, alpha=0.18, linewidth=0.7)
        line = smooth(values, round(len(values) * _WINDOW))
        axes.plot(steps, line, color=colour, linewidth=2.0 if name == "total" else 1.5, label=name)
    finite = np.concatenate([values[np.isfinite(values)] for _, values in curves.values()] or [np.zeros(0)])
    if len(finite) and finite.max() > 0:
        # The first steps can be ten times the rest and would press the curve flat.
        axes.set_ylim(0, 1.15 * max(float(np.quantile(finite, 0.98)), 1e-9))
        axes.legend(frameon=False, fontsize=8.5, labelcolor=_INK, loc="upper right")
    else:
        _say(axes, "no loss was logged")


def _draw_precision(axes: Axes, curves: dict[str, Curve]) -> None:
    _style(axes, "Average precision at IoU 0.5, validation patches")
    axes.set_ylim(0, 1)
    classes = gravest_first(name for name in curves if name in CLASSES)
    for name in classes:
        axes.plot(*curves[name], color=colour_hex(name), linewidth=1.4, marker="o", markersize=2.6, label=name)
    for name, style in (("agnostic", (0, (1, 1.4))), ("mean", "-")):
        if name in curves:
            label = "all cells as one class" if name == "agnostic" else "mean of classes"
            axes.plot(*curves[name], color=_INK, linewidth=2.4 if name == "mean" else 1.6, linestyle=style, label=label)
    if not curves:
        _say(axes, "nothing was watched: the data set has no split val")
        return
    if "mean" in curves:
        _mark_best(axes, curves["mean"])
    axes.legend(frameon=False, fontsize=8.5, labelcolor=_INK, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _mark_best(axes: Axes, curve: Curve) -> None:
    if not np.isfinite(curve[1]).any():
        return
    best = int(np.nanargmax(curve[1]))
    x, y = float(curve[0][best]), float(curve[1][best])
    axes.plot([x], [y], marker="o", markersize=6, markerfacecolor="white", markeredgecolor=_INK, markeredgewidth=1.6)
    side = -1 if x > float(curve[0].mean()) else 1
    axes.annotate(
        f"best mean {y:.3f}\nstep {x:.0f}",
        (x, y),
        xytext=(side * 14, 20),
        textcoords="offset points",
        ha="right" if side < 0 else "left",
        fontsize=8.5,
        color=_INK,
        arrowprops={"arrowstyle": "-", "color": _QUIET, "linewidth": 0.8},
        bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel("step", fontsize=9, color=_QUIET)
    axes.tick_params(colors=_QUIET, labelsize=8.5, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.01)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color("#b8c0c9")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=_QUIET)
