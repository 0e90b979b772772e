"""The tile grid: where patches lie on a slide, and which part of the slide each one owns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Overlapping square patches that cover a slide.

    Every length is in slide px (level 0). Patches at the far edges are shifted inwards,
    so all have the same size; a slide smaller than a patch gets one patch that hangs over.
    Where patches must begin on the slide's own tiles, the last ones are shifted less and hang over by less than a tile.
    A patch's id is its row-major index in this grid.

    Attributes:
        width: of the slide.
        height: of the slide.
        patch: side of a patch.
        overlap: of neighbours; those at the far edges may overlap more.
        align: every origin is a multiple of it, and so are the stride and the shift.
        shift: where the second patch of a row and of a column begins; 0 leaves it a stride from the first. A shifted
            grid has its seams elsewhere, and where a slide is larger than a patch it has a patch more, or as many.
    """

    width: int
    height: int
    patch: int
    overlap: int
    align: int = 1
    shift: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a slide has at least one pixel, got {self.width} x {self.height}")
        if not 0 <= self.overlap < self.patch:
            raise ValueError(f"overlap must lie in [0, patch={self.patch}), got {self.overlap}")
        if self.align < 1 or (self.patch - self.overlap) % self.align:
            raise ValueError(f"the stride {self.patch - self.overlap} is not a multiple of {self.align}")
        if not 0 <= self.shift < self.patch - self.overlap or self.shift % self.align:
            raise ValueError(
                f"shift must be a multiple of {self.align} in [0, {self.patch - self.overlap}), got {self.shift}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self._count(self.height), self._count(self.width)

    def __len__(self) -> int:
        rows, columns = self.shape
        return rows * columns

    def origins(self) -> NDArray[np.int64]:
        """Return the top-left corners, row by row: (N, 2) as x, y."""
        x, y = np.meshgrid(self._starts(self.width), self._starts(self.height))
        return np.column_stack([x.ravel(), y.ravel()])

    def boxes(self) -> NDArray[np.float64]:
        """Return the part of each patch that lies on the slide: (N, 4) xyxy, row by row."""
        origins = self.origins().astype(np.float64)
        limit = np.array([self.width, self.height], dtype=np.float64)
        return np.column_stack([origins, np.minimum(origins + self.patch, limit)])

    def cores(self) -> NDArray[np.float64]:
        """Return the part each patch owns: (N, 4) xyxy. Cores are disjoint; their union is the slide."""
        x = self._spans(self.width)
        y = self._spans(self.height)
        rows, columns = np.meshgrid(np.arange(len(y)), np.arange(len(x)), indexing="ij")
        x, y = x[columns.ravel()], y[rows.ravel()]
        return np.column_stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]])

    def _count(self, length: int) -> int:
        return len(self._starts(length))

    def _starts(self, length: int) -> NDArray[np.int64]:
        last = -(-max(length - self.patch, 0) // self.align) * self.align
        first = [0] if self.shift and last else []
        steps = range(self.shift, last, self.patch - self.overlap)
        return np.array([*first, *steps, last], dtype=np.int64)

    def _spans(self, length: int) -> NDArray[np.float64]:
        starts = self._starts(length)
        # Neighbours meet halfway through their overlap.
        seams = (starts[1:] + starts[:-1] + self.patch) / 2
        edges = np.concatenate([[0.0], seams, [float(length)]])
        return np.column_stack([edges[:-1], edges[1:]])


def check_overlap(overlap_px: int, mpp: float, largest_cell_um: float) -> None:
    """Refuse an overlap that cannot hold the largest expected cell: a cell cut in every patch is counted twice or lost.

    Args:
        overlap_px: overlap of neighbouring patches, in px of `mpp`.
        mpp: µm per px of the frame the overlap is given in.
        largest_cell_um: side of the largest cell that must be whole in some patch, µm.

    Raises:
        ConfigError: the overlap is smaller than the cell.
    """
    overlap_um = overlap_px * mpp
    # Rounding an overlap asked for in µm to whole pixels may lose half a pixel; that is no cell.
    if overlap_um + mpp / 2 < largest_cell_um:
        raise ConfigError(
            f"the patches overlap by {overlap_um:.1f} µm ({overlap_px} px at {mpp:g} µm/px), the largest cell expected "
            f"is {largest_cell_um:g} µm; set tiling.overlap_um to at least {largest_cell_um:g}"
        )
