"""Tables as arrays and back: what the stitcher reads of detections, and what it adds to cells."""

import uuid
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wsi_detect.errors import DamagedArtifactError, NonFiniteError
from wsi_detect.schema import BOX_COLUMNS, CELLS
from wsi_detect.taxonomy import gravity


@dataclass(frozen=True, slots=True)
class Detections:
    """The columns of a detections table as arrays: boxes (N, 4), the others (N,), class scores (N, K) or None."""

    boxes: NDArray[np.float64]
    patch: NDArray[np.int64]
    score: NDArray[np.float64]
    label: NDArray[np.int64]
    names: tuple[str, ...]
    gravity: NDArray[np.int64]
    class_scores: NDArray[np.float32] | None

    @classmethod
    def of(cls, table: pa.Table) -> "Detections":
        """Take a table apart; what is not finite is refused."""
        boxes = np.column_stack([table[name].to_numpy() for name in BOX_COLUMNS]).reshape(-1, 4)
        patch, score = table["patch_id"].to_numpy(), table["score"].to_numpy().astype(np.float64)
        class_scores = _class_scores(table)
        _refuse_non_finite(patch, np.isfinite(boxes).all(axis=1) & np.isfinite(score))
        # Sorted, so that a label's number does not depend on the order of the rows.
        names = tuple(sorted(pc.unique(table["label"]).to_pylist()))
        label = pc.index_in(table["label"], value_set=pa.array(names, type=pa.string())).to_numpy().astype(np.int64)
        return cls(boxes, patch, score, label, names, _gravities(names)[label], class_scores)


def _gravities(names: tuple[str, ...]) -> NDArray[np.int64]:
    return np.array([gravity(name) for name in names], dtype=np.int64)


def _refuse_non_finite(patch: NDArray[np.int64], finite: NDArray[np.bool_]) -> None:
    if finite.all():
        return
    bad = np.unique(patch[~finite])
    others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    raise NonFiniteError(
        f"{(~finite).sum()} detections are not finite, in patch {bad[0]}{others}; "
        "a detector must report such a patch as failed: run detect again"
    )


def _class_scores(table: pa.Table) -> NDArray[np.float32] | None:
    """Class scores (N, K) with a row of -inf where there are none; None if no detection has any."""
    column = table["class_scores"].combine_chunks()
    given = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    if not len(given):
        return None
    lengths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if len(lengths) > 1:
        raise DamagedArtifactError(f"detections carry {sorted(lengths)} class scores; one model gives one number")
    result = np.full((table.num_rows, lengths[0]), -np.inf, dtype=np.float32)
    result[given] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(given), lengths[0])
    finite = np.asarray(np.isfinite(result[given]).all(axis=1))
    _refuse_non_finite(table["patch_id"].to_numpy()[given], finite)
    return result


def as_lists(class_scores: NDArray[np.float32] | None, rows: int) -> pa.Array:
    """Return class scores (N, K) as a column of lists, null where a row is -inf or there are none at all."""
    kind = CELLS.field("class_scores").type
    if class_scores is None:
        return pa.nulls(rows, kind)
    width = class_scores.shape[1]
    absent = pa.array(np.isneginf(class_scores).all(axis=1) & (width > 0))
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * width)
    return pa.ListArray.from_arrays(offsets, pa.array(class_scores.ravel()), type=kind, mask=absent)


def cell_ids(slide_id: str, model_id: str, found: list[str], boxes: NDArray[np.float64]) -> list[str]:
    """Derive a UUID from slide, model, class and box, so that a cell has the same id in every export and every run."""
    ids, seen = [], dict[str, int]()
    for label, (x0, y0, x1, y1) in zip(found, boxes.tolist(), strict=True):
        text = f"{slide_id}|{model_id}|{label}|{x0:.2f}|{y0:.2f}|{x1:.2f}|{y1:.2f}"
        again = seen.get(text, 0)
        seen[text] = again + 1
        # A detector may report a box twice in one patch; ids stay unique all the same.
        ids.append(str(uuid.uuid5(uuid.NAMESPACE_OID, f"{text}|{again}" if again else text)))
    return ids
