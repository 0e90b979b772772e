"""The density of cells as a picture: a pyramidal TIFF for programs, a PNG with scale and legend for people."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_detect.artifact import atomic
from wsi_detect.exports.density import WINDOW_UM, density
from wsi_detect.stitching.cell_map import CellMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TILE_PX = 256
_UM_PER_CM = 1e4
_INK = "#1b2430"
_LONG_SIDE_INCHES = 8.0


def write_tiff(
    cells: CellMap, path: Path, *, window_um: float = WINDOW_UM, labels: Collection[str] | None = None
) -> Path:
    """Write cells per mm² as a tiled float32 TIFF; arguments as for `density`.

    Each SubIFD halves the one before; the resolution tags hold the size of a px, the description the rest as JSON.
    """
    found = density(cells, window_um, labels)
    facts = {
        "slide_id": cells.slide.slide_id,
        "model_id": cells.model_id,
        "unit": "cells per mm2",
        "labels": found.labels,
        "cells": found.cells,
        "window_um": found.window_um,
        "px_um": found.px_um,
    }
    levels = [found.values]
    while max(levels[-1].shape) > _TILE_PX:
        levels.append(_halved(levels[-1]))
    with atomic(path) as partial, tifffile.TiffWriter(partial, byteorder="<") as tiff:
        for k, level in enumerate(levels):
            tiff.write(
                level,
                tile=(_TILE_PX, _TILE_PX),
                photometric="minisblack",
                compression="zlib",
                resolution=(_UM_PER_CM / found.px_um / 2**k,) * 2,
                resolutionunit="CENTIMETER",
                subifds=len(levels) - 1 if k == 0 else None,
                subfiletype=1 if k else 0,
                description=json.dumps(facts, sort_keys=True) if k == 0 else None,
                software=False,
                metadata=None,
                maxworkers=1,
            )
    return path


def write_png(
    cells: CellMap, path: Path, *, window_um: float = WINDOW_UM, labels: Collection[str] | None = None
) -> Path:
    """Draw cells per mm² with a colour bar, a scale bar and what is counted; arguments as for `density`."""
    # Half a second that commands which draw nothing do not pay.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = density(cells, window_um, labels)
    height, width = (side * found.px_um / 1000 for side in found.values.shape)
    inches = _LONG_SIDE_INCHES / max(width, height)
    size = (max(width * inches, 3) + 1.4, max(height * inches, 2) + 0.8)
    figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    top = max(float(found.values.max()), 1.0)
    image = axes.imshow(found.values, cmap="cividis", vmin=0, vmax=top, extent=(0, width, height, 0))
    axes.set_xticks([])
    axes.set_yticks([])
    _draw_scale(axes, width, height)
    bar = figure.colorbar(image, ax=axes, shrink=0.7)
    bar.set_label(f"cells per mm², in squares of {window_um:g} µm", color=_INK)
    what = "Abnormal cells" if labels is None else ", ".join(found.labels)
    title = f"{what} of slide {cells.slide.slide_id}: {found.cells}"
    axes.set_title(title, loc="left", fontsize=9, color=_INK, wrap=True)
    with atomic(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
    return path


def _draw_scale(axes: "Axes", width_mm: float, height_mm: float) -> None:
    """Draw a bar of round length at the lower left, white with a dark rim: readable on every colour."""
    from matplotlib.patheffects import withStroke

    length = _round_length(width_mm / 4)
    x, y = width_mm * 0.03, height_mm * 0.96
    rim = [withStroke(linewidth=5, foreground=_INK)]
    axes.plot([x, x + length], [y, y], color="white", linewidth=3, solid_capstyle="butt", path_effects=rim)
    rim = [withStroke(linewidth=2, foreground=_INK)]
    text = f"{length:g} mm"
    axes.annotate(
        text,
        (x + length / 2, y),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color="white",
        path_effects=rim,
    )


def _halved(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of 2 x 2 px; the last row or column counts twice where there is an odd number."""
    height, width = (side + side % 2 for side in values.shape)
    padded = np.pad(values, ((0, height - values.shape[0]), (0, width - values.shape[1])), mode="edge")
    return np.asarray(padded.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3), dtype=np.float32))


def _round_length(limit_mm: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above the limit."""
    power = 10.0 ** np.floor(np.log10(limit_mm))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit_mm))
