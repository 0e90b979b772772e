"""The round deposit of a liquid-based preparation, by its geometry."""

import math
from dataclasses import dataclass

import numpy as np

from wsi_detect.tiling.blocks import Mask

#: Deposits of the liquid-based systems are 13 mm (SurePath) and 20 mm (ThinPrep) across; scanners and filters vary.
_DEPOSIT_MM = (10.0, 25.0)
#: Side of the blocks the geometry of a deposit is judged on, µm.
_BLOCK_UM = 250.0


@dataclass(frozen=True, slots=True)
class Circle:
    """A deposit circle, slide px."""

    x_px: float
    y_px: float
    radius_px: float


def deposit_circle(stained: Mask, um_per_px: float) -> Circle | None:
    """Find the round deposit of a liquid-based preparation, in px of the mask, or None where there is none.

    The moments of a filled disc give centre and radius (median of squared distances = R² / 2); it is believed only
    if it is as large as such deposits are, evenly filled, and surrounded by clean glass.
    """
    low, high = _DEPOSIT_MM
    if max(stained.shape) * um_per_px < 1000 * low / 2:
        return None
    block = max(1, round(_BLOCK_UM / um_per_px))
    occupied = _occupied(stained, block)
    rows, columns = np.nonzero(occupied)
    if not len(rows):
        return None
    x, y = float(np.median(columns)) + 0.5, float(np.median(rows)) + 0.5
    distances = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
    radius = math.sqrt(2.0 * float(np.median(distances**2)))
    diameter_mm = 2 * radius * block * um_per_px / 1000
    inside = float((distances <= 1.05 * radius).mean())
    filled = float((distances <= radius).sum()) / (math.pi * max(radius, 1.0) ** 2)
    ring = int(((distances > 1.05 * radius) & (distances <= 1.25 * radius)).sum())
    ring_share = ring / (math.pi * (1.25**2 - 1.05**2) * max(radius, 1.0) ** 2)
    if low <= diameter_mm <= high and inside >= 0.95 and filled >= 0.6 and ring_share <= 0.1:
        return Circle(x * block, y * block, radius * block)
    return None


def disc(shape: tuple[int, ...], circle: Circle, factor: float) -> Mask:
    """Px inside a circle of `factor` times its radius; circle and shape in px of the mask."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    reach = circle.radius_px * factor
    return np.asarray((x + 0.5 - circle.x_px) ** 2 + (y + 0.5 - circle.y_px) ** 2 <= reach**2)


def _occupied(stained: Mask, block: int) -> Mask:
    """Blocks of which at least 2 % is stained: dust on clean glass is not a deposit."""
    rows, columns = (np.arange(0, side, block) for side in stained.shape)
    bands = np.add.reduceat(stained, rows, axis=0, dtype=np.uint16)
    counts = np.add.reduceat(bands, columns, axis=1, dtype=np.uint32)
    return np.asarray(counts >= 0.02 * block * block)
