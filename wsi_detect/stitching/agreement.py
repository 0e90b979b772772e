"""Two cell maps of one slide, cell by cell: what is in both, what in one, what is called otherwise."""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.geometry import Boxes, box_area
from wsi_detect.taxonomy import gravest_first

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What became of the cells of two maps.

    Attributes:
        first, second: classes of the cells of each map, (N,) and (M,).
        partner: (N,) the cell of the second map that is the same one, -1 if there is none.
    """

    first: NDArray[np.object_]
    second: NDArray[np.object_]
    partner: Index

    def counts(self) -> dict[str, int]:
        """Cells of each map; those in both, of the same class or of another; those in one only."""
        matched = self.partner >= 0
        both, same = int(matched.sum()), int((self.first[matched] == self.second[self.partner[matched]]).sum())
        return {
            "first": len(self.first),
            "second": len(self.second),
            "same": same,
            "renamed": both - same,
            "first_only": len(self.first) - both,
            "second_only": len(self.second) - both,
        }

    def by_class(self) -> dict[str, dict[str, int]]:
        """Counts of each class, gravest first; cells of another class in the other map as `renamed_from` and `_to`."""
        matched = self.partner >= 0
        old, new = self.first[matched], self.second[self.partner[matched]]
        unmatched = np.ones(len(self.second), dtype=bool)
        unmatched[self.partner[matched]] = False
        found = {}
        for name in gravest_first({*self.first.tolist(), *self.second.tolist()}):
            was, became, mine, theirs = old == name, new == name, self.first == name, self.second == name
            counted = {
                "first": mine,
                "second": theirs,
                "same": was & became,
                "renamed_from": was & ~became,
                "renamed_to": became & ~was,
                "first_only": mine & ~matched,
                "second_only": theirs & unmatched,
            }
            found[name] = {key: int(mask.sum()) for key, mask in counted.items()}
        return found


def compare_cells(
    first: tuple[Boxes, NDArray[np.object_]], second: tuple[Boxes, NDArray[np.object_]], *, iou: float = 0.5
) -> Agreement:
    """Pair the cells of two maps one to one, the most alike first, of equals those of one class.

    Args:
        first: boxes (N, 4) xyxy and classes (N,).
        second: boxes (M, 4) and classes (M,), in the same frame.
        iou: least intersection over union of a pair.
    """
    (boxes, names), (others, other_names) = first, second
    i, j = shapely.STRtree(shapely.box(*others.T)).query(shapely.box(*boxes.T))
    a, b = boxes[i], others[j]
    shared = box_area(np.column_stack([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])]))
    union = box_area(a) + box_area(b) - shared
    likeness = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    kept = np.flatnonzero(likeness >= iou)
    i, j, likeness = i[kept], j[kept], likeness[kept]
    # Rounded, so that the last bits of the arithmetic decide nothing.
    order = np.lexsort((j, i, names[i] != other_names[j], -np.round(likeness, 6)))
    return Agreement(names, other_names, _pair(i[order], j[order], len(boxes)))


def _pair(i: Index, j: Index, size: int) -> Index:
    """Go through pairs, best first, and keep each whose two sides are free: (size,) partner of each i, or -1."""
    partner = np.full(size, -1, dtype=np.int64)
    while len(i):
        # A pair that is the first of both its sides is kept whatever the others do; the very first always is one.
        best = np.zeros((2, len(i)), dtype=bool)
        for row, side in enumerate((i, j)):
            best[row, np.unique(side, return_index=True)[1]] = True
        sure = best.all(axis=0)
        partner[i[sure]] = j[sure]
        free = ~np.isin(i, i[sure]) & ~np.isin(j, j[sure])
        i, j = i[free], j[free]
    return partner
