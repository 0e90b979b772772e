"""Cells as arrays, and as the rows of `cells.parquet`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsi_detect.geometry import Boxes
from wsi_detect.schema import BOX_COLUMNS, CELLS
from wsi_detect.stitching.columns import NAMES, Scores, joined_scores
from wsi_detect.stitching.hilbert import curve_order
from wsi_detect.stitching.ids import cell_ids
from wsi_detect.stitching.pairs import Index
from wsi_detect.tiling.grid import TileGrid


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of a slide; under 60 bytes a cell and 4 a class score, for a slide's cells are all in memory.

    Attributes:
        sides: (4, N) x0, y0, x1, y1, slide px.
        label: (N,) int16, places among `NAMES`.
        score: (N,) float32.
        support: (N,) int32, number of views.
        edges: (N,) uint8, sides where the object may go on, bit k for side k; asked for by `joins` only.
        class_scores: (N, K), a row of -inf where there are none; None if no cell has any.
        members: numbers of the views, those of a cell together, its founder first; None where not asked for.
    """

    sides: Boxes
    label: NDArray[np.int16]
    score: NDArray[np.float32]
    support: NDArray[np.int32]
    edges: NDArray[np.uint8]
    class_scores: Scores | None
    members: Index | None

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def join(cls, parts: Sequence["Cells"]) -> "Cells":
        """Put parts behind each other."""
        members = [part.members for part in parts if part.members is not None]
        return cls(
            np.concatenate([part.sides for part in parts], axis=1),
            np.concatenate([part.label for part in parts]),
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.support for part in parts]),
            np.concatenate([part.edges for part in parts]),
            joined_scores([part.class_scores for part in parts], [len(part) for part in parts]),
            np.concatenate(members) if members else None,
        )

    def take(self, order: Index) -> "Cells":
        """Return the cells in an order."""
        members = self.members
        if members is not None:
            start = np.cumsum(self.support, dtype=np.int64) - self.support
            many = self.support[order].astype(np.int64)
            first = np.cumsum(many) - many
            members = members[np.arange(many.sum()) + np.repeat(start[order] - first, many)]
        scores = None if self.class_scores is None else self.class_scores.take(order, axis=0)
        sides, label, score = self.sides.take(order, axis=1), self.label[order], self.score[order]
        return Cells(sides, label, score, self.support[order], self.edges[order], scores, members)


def in_order(cells: Cells, grid: TileGrid) -> Cells:
    """Return the cells in the order of `cells.parquet`: along Hilbert's curve, see `hilbert.curve_order`."""
    order = curve_order(cells.sides.T, cells.label, cells.score, grid.width, grid.height)
    columns = (*cells.sides, cells.label, cells.score)
    same = np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns])
    if same.any():
        # Cells of one box, class and score go by what else is known of them: their order must not be that of bands.
        run = np.cumsum(np.append(0, ~same))
        further = () if cells.class_scores is None else tuple(cells.class_scores[order].T)
        if cells.members is not None:
            founders = cells.members[np.cumsum(cells.support, dtype=np.int64) - cells.support]
            further = (founders[order], *further)
        order = order[np.lexsort((*further, cells.support[order], run))]
    return cells.take(order)


def table_of(cells: Cells, slide_id: str, model_id: str) -> pa.Table:
    """Return cells as rows of `schema.CELLS`, in the order they come."""
    number = len(cells)
    columns: dict[str, object] = {
        "cell_id": cell_ids(slide_id, model_id, cells.label, cells.sides),
        "slide_id": pa.repeat(pa.scalar(slide_id), number),
        **dict(zip(BOX_COLUMNS, cells.sides, strict=True)),
        "label": pa.array(NAMES).take(pa.array(cells.label)),
        "score": cells.score,
        "class_scores": _score_lists(cells.class_scores, number),
        "support": cells.support,
        "geometry": pa.nulls(number, pa.binary()),
        "members": _member_lists(cells),
    }
    return pa.table(columns, schema=CELLS)


def _score_lists(class_scores: Scores | None, rows: int) -> pa.Array:
    kind = CELLS.field("class_scores").type
    if class_scores is None:
        return pa.nulls(rows, kind)
    width = class_scores.shape[1]
    absent = pa.array(np.isneginf(class_scores).all(axis=1) & (width > 0))
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(class_scores.ravel()), type=kind, mask=absent)


def _member_lists(cells: Cells) -> pa.Array:
    kind = CELLS.field("members").type
    if cells.members is None:
        return pa.nulls(len(cells), kind)
    offsets = np.append(0, np.cumsum(cells.support, dtype=np.int32))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(cells.members), type=kind)
