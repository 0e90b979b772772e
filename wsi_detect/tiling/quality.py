"""Per-patch quality: three numbers that go into columns. What to do about them is for whoever reads the column."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Luma weights of ITU-R BT.601, and a ground of 255: the figures compare patches of one slide, not scanners.
_RED, _GREEN, _BLUE = np.float32(0.299), np.float32(0.587), np.float32(0.114)
#: Grey level under which a pixel counts as crowded: a nucleus or cells on top of each other.
_DARK = 140.0


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of one patch.

    Attributes:
        focus: standard deviation of the Laplacian, grey levels; falls as the patch goes out of focus, 0 when blank.
        stain: mean optical density, -log10(grey / 255).
        crowding: fraction of the patch that is as dark as a nucleus or as overlapping cells.
    """

    focus: float
    stain: float
    crowding: float


def measure(rgb: NDArray[np.uint8]) -> Quality:
    """Measure a patch (H, W, 3) uint8."""
    # Spelled out, not a matrix product: its result would depend on the threads of the linear algebra library.
    grey = rgb[..., 0] * _RED + rgb[..., 1] * _GREEN + rgb[..., 2] * _BLUE
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    density = np.log10(255.0 / np.maximum(grey, 1.0))
    focus = float(laplacian.std(dtype=np.float64)) if laplacian.size else 0.0
    return Quality(focus, max(float(density.mean(dtype=np.float64)), 0.0), float((grey < _DARK).mean()))
