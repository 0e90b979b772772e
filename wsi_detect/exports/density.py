"""How many cells lie around each place of a slide: cells per mm² in a square window, from a histogram of centres."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wsi_detect.errors import ConfigError
from wsi_detect.exports import columns
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import CLASSES, cell_class, gravest_first

WINDOW_UM = 250.0
#: Px of the map across a window; odd, so that a window has a px in its middle.
_STEPS = 9
#: Px of the largest map: 20 x 20 mm at a window of 62 µm.
_MAX_PX = 1 << 23


@dataclass(frozen=True)
class Density:
    """Cells per mm².

    Attributes:
        values: (H, W) float32, cells per mm² of the window around each px, of its part on the slide.
        px_um: side of a px of the map, µm; the first px begins at the top left corner of the slide.
        window_um: side of the window, µm.
        labels: classes counted, gravest first.
        cells: how many cells were counted.
    """

    values: NDArray[np.float32]
    px_um: float
    window_um: float
    labels: tuple[str, ...]
    cells: int


def density(cells: CellMap, window_um: float = WINDOW_UM, labels: Collection[str] | None = None) -> Density:
    """Count cells, by the centre of their box, in a square window around each px of a map.

    The cost is that of the cells and of the map, whose px is a ninth of the window, whatever the size of the slide.

    Args:
        cells: the cells of a slide.
        window_um: side of the window, µm.
        labels: classes to count; all abnormal ones if not given.

    Raises:
        MissingResolutionError: the slide has no mpp.
        UnmappedLabelError: the taxonomy has no such class.
        ConfigError: the window is so small that the map would be huge.
    """
    wanted = gravest_first({cell_class(name).name for name in labels} if labels else _abnormal())
    step = window_um / _STEPS / cells.slide.resolution()
    width, height = (int(np.ceil(side / step)) for side in (cells.slide.width_px, cells.slide.height_px))
    if width * height > _MAX_PX:
        raise ConfigError(
            f"a density window of {window_um} µm gives slide {cells.slide.slide_id} a map of {width} x {height} px; "
            "take a larger window"
        )
    counts = np.zeros(width * height)
    for batch in columns.chunks(cells):
        chosen = pc.is_in(batch["label"], value_set=pa.array(wanted)).to_numpy(zero_copy_only=False)
        box = columns.boxes(batch)[chosen]
        x = np.clip((box[:, 0] + box[:, 2]) / 2 // step, 0, width - 1).astype(np.int64)
        y = np.clip((box[:, 1] + box[:, 3]) / 2 // step, 0, height - 1).astype(np.int64)
        np.add.at(counts, y * width + x, 1)
    around = _window_sums(_window_sums(counts.reshape(height, width)).T).T
    # The last px of a row or a column may reach beyond the slide; so may the windows of many.
    sides_mm = [
        np.diff(np.minimum(np.arange(number + 1) * step, side)) * cells.slide.resolution() / 1000
        for number, side in ((height, cells.slide.height_px), (width, cells.slide.width_px))
    ]
    down, across = (_window_sums(side[None])[0] for side in sides_mm)
    values = (around / down[:, None] / across[None]).astype(np.float32)
    return Density(values, window_um / _STEPS, window_um, tuple(wanted), int(counts.sum()))


def _abnormal() -> set[str]:
    return {name for name, kind in CLASSES.items() if kind.abnormal}


def _window_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over `_STEPS` neighbours along the last axis, fewer at the ends: (H, W) → (H, W)."""
    number = values.shape[1]
    total = np.concatenate([np.zeros((len(values), 1), values.dtype), np.cumsum(values, axis=1)], axis=1)
    place = np.arange(number)
    ends, starts = np.minimum(place + _STEPS // 2 + 1, number), np.maximum(place - _STEPS // 2, 0)
    return np.asarray(total[:, ends] - total[:, starts])
