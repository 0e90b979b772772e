"""The border audit: does the detector see less at the edges of its patches, and does the result hang on the grid?

A cell is seen from the patch that holds it deepest. How deep its box lies there, the distance to the nearest edge of
that patch, is all the context the detector can have had on that side; a cell that every patch cuts has a negative
depth. Edges at the rim of the slide are no borders: beyond them there is nothing to be seen.
"""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.bootstrap import Interval, percentile_intervals
from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.matching import ask

#: Where bands of depth meet, px: cut by every patch; up to a nucleus from the edge; up to two; further in.
BANDS_PX = (0.0, 32.0, 64.0)


@dataclass(frozen=True, slots=True, eq=False)
class FoundCells:
    """The cells of all images, found or not, and how deep they lie in their patches.

    Attributes:
        depth_px: (N,) in px of the boxes; infinite where no border is near; NaN where no patch holds the cell's middle.
        found: (N,) bool.
        image: (N,) int64, index of the image.
        images: F.
    """

    depth_px: NDArray[np.float64]
    found: NDArray[np.bool_]
    image: NDArray[np.int64]
    images: int


@dataclass(frozen=True, slots=True)
class Band:
    """Cells of one range of depths.

    Attributes:
        low_px: least depth.
        high_px: all are less deep.
        cells: how many.
        recall: share found, None without one.
        interval: of the recall.
    """

    low_px: float
    high_px: float
    cells: int
    recall: float | None
    interval: Interval


@dataclass(frozen=True, slots=True)
class BorderAudit:
    """Recall by depth.

    Attributes:
        bands: the shallowest first, the interior last.
        difference: recall of the interior minus that of all other bands together; above 0 cells are lost at borders.
        interval: of the difference.
        unseen: cells in no patch, which are in no band.
    """

    bands: tuple[Band, ...]
    difference: float | None
    interval: Interval
    unseen: int


def patch_depth(
    boxes: NDArray[np.floating], patches: NDArray[np.floating], width: float, height: float
) -> NDArray[np.float64]:
    """How deep boxes lie in the patch that holds them deepest.

    Args:
        boxes: (N, 4) xyxy.
        patches: (P, 4) xyxy in the same px, such as `TileGrid.boxes()`.
        width: of the slide or field; edges of patches at its rim, or beyond, are no borders.
        height: of the same.

    Returns:
        (N,) px from the box to the nearest border of that patch; negative where it reaches beyond, infinite where the
        patch has no border, NaN where no patch holds the middle of the box.
    """
    inner = np.asarray(patches, np.float64).reshape(-1, 4).copy()
    inner[:, :2][inner[:, :2] <= 0] = -np.inf
    for side, limit in ((2, width), (3, height)):
        inner[inner[:, side] >= limit, side] = np.inf
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    middle = shapely.points((boxes[:, :2] + boxes[:, 2:]) / 2)
    row, patch = shapely.STRtree(shapely.box(*np.asarray(patches, np.float64).reshape(-1, 4).T)).query(middle)
    sides = [boxes[row, :2] - inner[patch, :2], inner[patch, 2:] - boxes[row, 2:]]
    deepest = np.full(len(boxes), -np.inf)
    np.maximum.at(deepest, row, np.hstack(sides).min(axis=1))
    deepest[~np.isin(np.arange(len(boxes)), row)] = np.nan
    return deepest


def found_cells(
    predictions: Collection[FieldPrediction],
    truths: Sequence[FieldTruth],
    patches: Mapping[str, NDArray[np.floating]],
    *,
    min_score: float,
    merge_iou: float = 0.5,
    threshold: float = 0.5,
) -> FoundCells:
    """Match cells whatever their class, and measure how deep they lie.

    Args:
        predictions: at most one an image.
        truths: one an image, with its width and height.
        patches: image → (P, 4) xyxy the patches it was seen in, px of the image.
        min_score: detections below it are not shown.
        merge_iou: see `matching.merge_labels`.
        threshold: smallest IoU of a match.

    Raises:
        LabelError: an image has no patches, or its size is not known.
    """
    columns = lay_out(predictions, truths, merge_iou, floor=threshold)
    question = ask(columns, {"": columns.names}, merge=True)
    matches, is_cell = question.taken(threshold)
    shown = question.rows[columns.detections.scores[question.rows] >= min_score]
    hit = np.zeros(len(is_cell) + 1, np.bool_)
    hit[matches[shown]] = True
    depths = [np.zeros(0)]
    for truth in truths:
        if truth.image_id not in patches:
            raise LabelError(f"image {truth.image_id}: its patches are not given")
        if min(truth.width, truth.height) < 1:
            raise LabelError(f"image {truth.image_id}: its size is not known, so neither is where its patches end")
        depths.append(patch_depth(truth.boxes, patches[truth.image_id], truth.width, truth.height))
    return FoundCells(np.concatenate(depths), hit[:-1][is_cell], columns.cells.image[is_cell], columns.images)


def border_audit(
    cells: FoundCells,
    bands_px: Sequence[float] = BANDS_PX,
    *,
    groups: Sequence[Hashable] | None = None,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BorderAudit:
    """Compare recall near patch borders with recall in the interior.

    Args:
        cells: found and missed.
        bands_px: depths at which bands meet, ascending; cells from the last on are the interior.
        groups: (F,) patient, slide or field of each image; see `bootstrap.draws`.
        replicates: of the bootstrap.
        confidence: of the intervals.
        seed: of the bootstrap.
    """
    known = ~np.isnan(cells.depth_px)
    band = np.searchsorted(np.asarray(bands_px, np.float64), cells.depth_px[known], side="right")
    found, image = cells.found[known], cells.image[known]
    number = len(bands_px) + 1

    def figures(weights: NDArray[np.float64]) -> dict[str, float | None]:
        often = weights[image]
        total = np.bincount(band, often, number)
        right = np.bincount(band, often * found, number)
        values = {str(k): _share(right[k], total[k]) for k in range(number)}
        rim, interior = _share(right[:-1].sum(), total[:-1].sum()), values[str(number - 1)]
        return values | {"difference": None if rim is None or interior is None else interior - rim}

    values = figures(np.ones(cells.images))
    intervals = percentile_intervals(
        figures, cells.images, groups=groups, replicates=replicates, confidence=confidence, seed=seed
    )
    nothing = Interval(None, None, 0)
    edges = [-np.inf, *map(float, bands_px), np.inf]
    counts = np.bincount(band, minlength=number)
    made = (
        Band(edges[k], edges[k + 1], int(counts[k]), values[str(k)], intervals.get(str(k), nothing))
        for k in range(number)
    )
    return BorderAudit(tuple(made), values["difference"], intervals.get("difference", nothing), int((~known).sum()))


@dataclass(frozen=True, slots=True)
class GridChange:
    """How much changes when the patches lie elsewhere.

    Attributes:
        cells: found by either grid, in all slides.
        changed: share that only one grid has found, or that they call differently; None without a cell.
        interval: of the share.
    """

    cells: int
    changed: float | None
    interval: Interval


def grid_change(
    audits: Sequence[Mapping[str, Any]],
    label: str | None = None,
    *,
    groups: Sequence[Hashable] | None = None,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> GridChange:
    """Pool the audits of several slides: the share of cells that hang on where patch edges fall.

    Args:
        audits: one a slide, contents of `audit.json` (`wsi-detect audit`).
        label: cells of one class; None takes all.
        groups: (F,) patient or slide of each audit; see `bootstrap.draws`.
        replicates: of the bootstrap.
        confidence: of the interval.
        seed: of the bootstrap.
    """
    rows = [audit["cells"] if label is None else audit["classes"].get(label, {}) for audit in audits]
    same = np.array([row.get("same", 0) for row in rows], np.float64)
    other = ("renamed", "renamed_from", "renamed_to", "first_only", "second_only")
    changed = np.array([sum(row.get(key, 0) for key in other) for row in rows], np.float64)

    def figures(weights: NDArray[np.float64]) -> dict[str, float | None]:
        return {"changed": _share(float(weights @ changed), float(weights @ (changed + same)))}

    intervals = percentile_intervals(
        figures, len(rows), groups=groups, replicates=replicates, confidence=confidence, seed=seed
    )
    share = figures(np.ones(len(rows)))["changed"]
    return GridChange(int((changed + same).sum()), share, intervals.get("changed", Interval(None, None, 0)))


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
