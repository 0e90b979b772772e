"""Detections as arrays: what the stitcher reads of a table, and what it refuses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wsi_detect.errors import DamagedArtifactError, NonFiniteError
from wsi_detect.schema import BOX_COLUMNS
from wsi_detect.taxonomy import CLASSES, gravity

Index = NDArray[np.int64]
Scores = NDArray[np.float32]

#: A label is a place among these names; sorted, so that labels sort as their names do.
NAMES = tuple(sorted(CLASSES))
GRAVITIES = np.array([gravity(name) for name in NAMES], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Said:
    """What a detector said of boxes.

    Attributes:
        score: (N,) float64.
        label: (N,) places among `NAMES`.
        class_scores: (N, K), a row of -inf where there are none; None if no box has any.
        number: (N,) number of the detection, where it is asked for.
    """

    score: NDArray[np.float64]
    label: Index
    class_scores: Scores | None = None
    number: Index | None = None

    def take(self, index: Index | slice) -> "Said":
        """Return what was said of some of the boxes."""
        scores = self.class_scores
        if scores is not None:
            # Rows in any order: `take` copies each as a piece, an index number by number.
            scores = scores[index] if isinstance(index, slice) else scores.take(index, axis=0)
        number = None if self.number is None else self.number[index]
        return Said(self.score[index], self.label[index], scores, number)

    @classmethod
    def join(cls, parts: Sequence["Said"]) -> "Said":
        """Put parts behind each other."""
        numbers = [part.number for part in parts if part.number is not None]
        return cls(
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.label for part in parts]),
            joined_scores([part.class_scores for part in parts], [len(part.score) for part in parts]),
            np.concatenate(numbers) if numbers else None,
        )


def joined_scores(parts: Sequence[Scores | None], rows: Sequence[int]) -> Scores | None:
    """Put class scores behind each other; parts of some rows may have none.

    Raises:
        DamagedArtifactError: parts differ in the number of classes.
    """
    widths = {part.shape[1] for part in parts if part is not None}
    if not widths:
        return None
    _one_width(widths)
    (width,) = widths
    absent = -np.float32(np.inf)
    return np.concatenate(
        [np.full((n, width), absent) if part is None else part for part, n in zip(parts, rows, strict=True)]
    )


@dataclass(frozen=True, slots=True)
class Detections:
    """The columns of a detections table as arrays: boxes (N, 4) xyxy in slide px, patch (N,), and what was said."""

    boxes: NDArray[np.float64]
    patch: Index
    said: Said

    def __len__(self) -> int:
        return len(self.patch)

    def take(self, index: Index | slice) -> "Detections":
        """Return some of the rows."""
        boxes = self.boxes[index] if isinstance(index, slice) else self.boxes.T.take(index, axis=1).T
        return Detections(boxes, self.patch[index], self.said.take(index))

    @classmethod
    def of(cls, table: pa.Table) -> "Detections":
        """Take a table apart.

        Args:
            table: rows of `schema.DETECTIONS`; labels may be a dictionary column.

        Raises:
            NonFiniteError: a box or a score is not finite; the message names the patch.
            UnmappedLabelError: a label is not in the taxonomy.
            DamagedArtifactError: rows differ in the number of class scores.
        """
        # Columns side by side in memory: each is read on its own.
        sides = np.empty((4, table.num_rows))
        for side, name in zip(sides, BOX_COLUMNS, strict=True):
            side[:] = table[name].to_numpy()
        patch, score = table["patch_id"].to_numpy(), table["score"].to_numpy().astype(np.float64)
        _refuse_non_finite(patch, np.isfinite(sides).all(axis=0) & np.isfinite(score))
        return cls(sides.T, patch, Said(score, _labels(table["label"]), _class_scores(table)))


def numbered(seen: Detections, before: Index) -> Said:
    """Number detections by patch, y0, x0, y1, x1, label, falling score; `before` (P,) are those of earlier patches."""
    said, (x0, y0, x1, y1) = seen.said, seen.boxes.T
    further = () if said.class_scores is None else tuple(said.class_scores.T)
    order = np.lexsort((*further, -said.score, said.label, x1, y1, x0, y0, seen.patch))
    patch = seen.patch[order]
    number = np.empty(len(order), dtype=np.int64)
    number[order] = before[patch] + np.arange(len(order)) - np.searchsorted(patch, patch)
    return replace(said, number=number)


def _labels(column: pa.ChunkedArray) -> Index:
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    if not len(column):
        return np.empty(0, dtype=np.int64)
    coded = column.unify_dictionaries().combine_chunks()
    found, code = coded.dictionary.to_pylist(), coded.indices.to_numpy(zero_copy_only=False)
    used = np.bincount(code, minlength=len(found)) > 0
    places = {name: k for k, name in enumerate(NAMES)}
    # A dictionary may hold names that no row has; only those of rows must be known.
    known = [places[name] if gravity(name) >= 0 else -1 for name, seen in zip(found, used, strict=True) if seen]
    place = np.zeros(len(found), dtype=np.int64)
    place[used] = known
    return np.asarray(place[code])


def _refuse_non_finite(patch: Index, finite: NDArray[np.bool_]) -> None:
    if finite.all():
        return
    bad = np.unique(patch[~finite])
    others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    raise NonFiniteError(
        f"{(~finite).sum()} detections are not finite, in patch {bad[0]}{others}; "
        "a detector must report such a patch as failed: run detect again"
    )


def _one_width(widths: set[int]) -> None:
    if len(widths) > 1:
        raise DamagedArtifactError(f"detections carry {sorted(widths)} class scores; one model gives one number")


def _class_scores(table: pa.Table) -> Scores | None:
    column = table["class_scores"].combine_chunks()
    given = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    if not len(given):
        return None
    widths = set(pc.unique(pc.list_value_length(column).drop_null()).to_pylist())
    _one_width(widths)
    result = np.full((table.num_rows, widths.pop()), -np.inf, dtype=np.float32)
    result[given] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(given), result.shape[1])
    finite = np.asarray(np.isfinite(result[given]).all(axis=1))
    _refuse_non_finite(table["patch_id"].to_numpy()[given], finite)
    return result
