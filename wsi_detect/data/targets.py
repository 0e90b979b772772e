"""Annotations of a slide → boxes of one patch; what the patch shows too little of becomes a region to ignore."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box, PatchFrame, box_area

#: A cell counts as seen if at least this share of its box lies in the picture.
MIN_VISIBLE = 0.75

#: Label of a box that is neither a known class nor background.
IGNORED_LABEL = -1


@dataclass(frozen=True, slots=True)
class PatchTargets:
    """What a detector should say about one picture, patch px.

    Attributes:
        boxes: (N, 4) float32 xyxy, inside the picture.
        labels: (N,) int64, 0-based index into the classes of the data set.
        ignore_boxes: (M, 4) float32 xyxy: cells seen in part only, or of a class the data set does not use.
            Neither cell nor background.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    ignore_boxes: NDArray[np.float32]


def patch_targets(
    boxes: NDArray[np.floating],
    labels: NDArray[np.integer],
    frame: PatchFrame,
    patch_px: int,
    *,
    min_visible: float = MIN_VISIBLE,
) -> PatchTargets:
    """Targets of a patch.

    Args:
        boxes: (A, 4) xyxy in slide px, of the whole slide or any part of it that holds the patch.
        labels: (A,) class indices; `IGNORED_LABEL` marks a region to ignore.
        frame: where the patch lies.
        patch_px: side of the patch, patch px.
        min_visible: share of a box that must be in the patch for the box to count.

    Raises:
        LabelError: a box is not finite or has no area.
    """
    return cut_to_window(frame.to_patch(boxes), labels, _square(patch_px), min_visible=min_visible)


def cut_to_window(
    boxes: NDArray[np.floating],
    labels: NDArray[np.integer],
    window: Box,
    *,
    visible: Box | None = None,
    min_visible: float = MIN_VISIBLE,
) -> PatchTargets:
    """Targets of a window of a picture, in px from the window's corner.

    Args:
        boxes: (A, 4) xyxy, frame of the picture; may reach beyond it.
        labels: (A,) class indices, or `IGNORED_LABEL`.
        window: xyxy, frame of the picture.
        visible: the part of the window that shows tissue pixels, where the window hangs over the picture's edge.
        min_visible: share of a box that must be visible for the box to count; less, but more than nothing, is ignored.

    Raises:
        LabelError: a box is not finite or has no area.
    """
    b = _checked(boxes)
    shown = window if visible is None else visible
    cut = np.column_stack([np.maximum(b[:, :2], shown[:2]), np.minimum(b[:, 2:], shown[2:])])
    share = box_area(cut) / box_area(b)
    cut -= np.array([window.x0, window.y0, window.x0, window.y0])
    known = np.asarray(labels, dtype=np.int64) != IGNORED_LABEL
    whole = known & (share >= min_visible)
    # A sliver thinner than a pixel may have no area left in float32, and hides nothing.
    partial = (cut[:, 2:] - cut[:, :2] >= 1.0).all(axis=1) & ~whole
    return PatchTargets(
        boxes=cut[whole].astype(np.float32),
        labels=np.asarray(labels, dtype=np.int64)[whole],
        ignore_boxes=cut[partial].astype(np.float32),
    )


def _square(side: int) -> Box:
    return Box(0.0, 0.0, float(side), float(side))


def _checked(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    b = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    # The augmentation library turns an infinite box into one that ends at the picture's edge, without a word.
    bad = ~np.isfinite(b).all(axis=1) | (b[:, 2:] <= b[:, :2]).any(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise LabelError(
            f"{int(bad.sum())} boxes are not finite or have no area; the first is row {row}: {b[row].tolist()}"
        )
    return b
