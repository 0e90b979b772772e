"""Which views make which cell, as arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.stitching.pairs import Index


@dataclass(frozen=True, slots=True)
class Groups:
    """Cells and their views.

    Attributes:
        founding: (G,) founding view of each cell.
        member: (M,) the views of the cells, their founders among them.
        cell: (M,) cell of each, 0 to G - 1.
    """

    founding: Index
    member: Index
    cell: Index

    @classmethod
    def of(cls, founder: Index) -> "Groups":
        """Take apart founders (N,), the index of the founding view of each view, -1 where there is none."""
        founding = np.flatnonzero(founder == np.arange(len(founder)))
        numbers = np.full(len(founder), -1)
        numbers[founding] = np.arange(len(founding))
        member = np.flatnonzero(founder >= 0)
        return cls(founding, member, numbers[founder[member]])

    def sizes(self) -> Index:
        """Return the number of views of each cell: (G,)."""
        return np.bincount(self.cell, minlength=len(self.founding))

    def only(self, chosen: NDArray[np.bool_]) -> "Groups":
        """Return the chosen (G,) cells."""
        inside = chosen[self.cell]
        numbers = np.cumsum(chosen) - 1
        return Groups(self.founding[chosen], self.member[inside], numbers[self.cell[inside]])

    def of_views(self, chosen: NDArray[np.bool_]) -> "Groups":
        """Return the same cells with the chosen (N,) views only."""
        inside = chosen[self.member]
        return Groups(self.founding, self.member[inside], self.cell[inside])

    def in_order(self, place: Index) -> "Groups":
        """Return the same with the views of a cell together, in the order of their places (N,)."""
        order = np.lexsort((place[self.member], self.cell))
        return Groups(self.founding, self.member[order], self.cell[order])
