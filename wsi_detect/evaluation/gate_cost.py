"""What a gate before a detector costs and saves: cells in patches that are not shown, by class.

A cell belongs to the patch in whose core its middle lies, as in stitching, or, where that is not in the store, to the
nearest that shows its middle; it is lost if that patch is not shown. With labels, or with the cells of a run without a
gate, the cost is counted. In a run with one it is estimated, from patches below the gate that were shown all the same.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect.geometry import Boxes
from wsi_detect.taxonomy import gravest_first, is_abnormal
from wsi_detect.tiling.grid import TileGrid

#: Row of a cell that no patch of the store shows.
NOWHERE = -1
_Z = {0.9: 1.6448536269514722, 0.95: 1.959963984540054, 0.99: 2.5758293035489004}


@dataclass(frozen=True, slots=True, eq=False)
class GatedSlide:
    """A slide with known cells, and how much evidence each of its patches has.

    Attributes:
        grid: of the patches.
        patch_ids: (N,) patches of the store.
        peaks: (N,) highest evidence of each; NaN where not all of it was looked at, and the gate is open.
        boxes: (C, 4) cells, slide px.
        labels: C taxonomy names.
    """

    grid: TileGrid
    patch_ids: NDArray[np.int64]
    peaks: NDArray[np.float32]
    boxes: Boxes
    labels: Sequence[str]


def owner_rows(grid: TileGrid, patch_ids: NDArray[np.int64], boxes: Boxes) -> NDArray[np.int64]:
    """Row of the patch each box belongs to, see above: (C,); `NOWHERE` if no patch of the store shows its middle.

    Args:
        grid: of the slide.
        patch_ids: (N,) patches of the store, ascending.
        boxes: (C, 4) xyxy, slide px.
    """
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    rows, columns = grid.shape
    cores = grid.cores().reshape(rows, columns, 4)
    down = np.searchsorted(cores[:, 0, 3], middles[:, 1], side="right")
    across = np.searchsorted(cores[0, :, 2], middles[:, 0], side="right")
    patch = np.minimum(down, rows - 1) * columns + np.minimum(across, columns - 1)
    place = np.searchsorted(patch_ids, patch)
    known = place < len(patch_ids)
    known[known] = patch_ids[place[known]] == patch[known]
    found = np.where(known, place, NOWHERE)
    stray = np.flatnonzero(found == NOWHERE)
    if len(stray) and len(patch_ids):
        found[stray] = _nearest(grid.boxes()[patch_ids], grid.cores()[patch_ids], middles[stray])
    return found


def _nearest(views: Boxes, cores: Boxes, middles: NDArray[np.float64]) -> NDArray[np.int64]:
    """Of the patches that show a place that with the nearest core, the first of several: (S, 2) px → (S,) rows."""
    rows = np.full(len(middles), NOWHERE, dtype=np.int64)
    for k, middle in enumerate(middles):
        showing = np.flatnonzero(((middle >= views[:, :2]) & (middle < views[:, 2:])).all(axis=1))
        if len(showing):
            inside = np.clip(middle, cores[showing, :2], cores[showing, 2:])
            rows[k] = showing[np.hypot(*(middle - inside).T).argmin()]
    return rows


def gate_table(slides: Sequence[GatedSlide], thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Count what gates of several thresholds cost and save, over all slides together.

    Args:
        slides: with their cells.
        thresholds: of the gates.

    Returns:
        One row a threshold: `threshold`, `patches`, `not_shown`, `saved` (share of the patches), `cells` (class →
        `cells` and `lost`), `abnormal` likewise, and `outside`: cells that no patch shows, which no gate has
        anything to do with.
    """
    owners = [owner_rows(slide.grid, slide.patch_ids, slide.boxes) for slide in slides]
    names = gravest_first({name for slide in slides for name in slide.labels})
    patches = sum(len(slide.patch_ids) for slide in slides)
    rows = []
    for threshold in thresholds:
        cells = {name: {"cells": 0, "lost": 0} for name in names}
        hidden = 0
        for slide, owner in zip(slides, owners, strict=True):
            # NaN is not below anything.
            shut = slide.peaks <= threshold
            hidden += int(shut.sum())
            inside = owner != NOWHERE
            for name, row in zip(np.asarray(slide.labels, dtype=object)[inside], owner[inside], strict=True):
                cells[name]["cells"] += 1
                cells[name]["lost"] += int(shut[row])
        rows.append(
            {
                "threshold": float(threshold),
                "patches": patches,
                "not_shown": hidden,
                "saved": hidden / patches if patches else 0.0,
                "cells": cells,
                "abnormal": _abnormal(cells),
                "outside": int(sum((owner == NOWHERE).sum() for owner in owners)),
            }
        )
    return rows


def audit_findings(
    grid: TileGrid, patch_ids: NDArray[np.int64], audited: NDArray[np.bool_], boxes: Boxes, labels: Sequence[str]
) -> dict[str, Any]:
    """Count what was found in the patches below the gate that were shown all the same.

    Args:
        grid: of the slide.
        patch_ids: (N,) patches of the store.
        audited: (N,) bool.
        boxes: (C, 4) cells found on the slide, slide px.
        labels: C taxonomy names.

    Returns:
        `cells` (class → number, of cells owned by audited patches) and `patches_with_abnormal`.
    """
    owner = owner_rows(grid, patch_ids, boxes)
    found = [k for k, row in enumerate(owner.tolist()) if row != NOWHERE and audited[row]]
    names = [labels[k] for k in found]
    hit = {int(owner[k]) for k in found if is_abnormal(labels[k])}
    return {"cells": {name: names.count(name) for name in gravest_first(set(names))}, "patches_with_abnormal": len(hit)}


@dataclass(frozen=True, slots=True)
class SlideSample:
    """What the audit of one slide drew.

    Attributes:
        hidden: patches below the gate that were not shown.
        audited: patches below the gate that were shown all the same.
        hits: audited patches with what is looked for.
    """

    hidden: int
    audited: int
    hits: int


def hidden_interval(samples: Sequence[SlideSample], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the share of the patches not shown, of all slides, that hold what the audit looked for.

    Slides are strata. The estimate weighs what was seen on each slide by the patches not shown there (Horvitz and
    Thompson 1952): slides of which a larger part was audited, as small ones are, do not count for more.

    The interval is Wilson's (1927) at an effective sample size, as Korn and Graubard (1998) have it for surveys. Theirs
    needs the variance within strata, which cannot be had where one patch was audited. Ours is the least size that
    variance can mean: of the difference between the share p seen on a slide and that of its M patches not shown, n
    having been audited, the variance is about p (1 - p) (1 / n + 1 / M). Weighted by M and summed over slides that is
    at most P (1 - P) / m, with P the share of all, and m the number of patches not shown times the lowest part audited,
    n / (n + M), of any slide: p (1 - p) is concave, so slides that differ can only lower the sum. For slides audited
    alike nothing is given away; else the interval is wider than it had to be.

    Args:
        samples: one a slide.
        confidence: 0.9, 0.95 or 0.99.

    Returns:
        Both ends; (0, 1) where a slide has patches not shown and none audited, (0, 0) where nothing is hidden.
    """
    hiding = [sample for sample in samples if sample.hidden]
    hidden = sum(sample.hidden for sample in hiding)
    if not hidden:
        return 0.0, 0.0
    lowest = min(sample.audited / (sample.audited + sample.hidden) for sample in hiding)
    if not lowest:
        return 0.0, 1.0
    share = sum(sample.hidden * sample.hits / sample.audited for sample in hiding) / hidden
    return share_interval(share * hidden * lowest, hidden * lowest, confidence)


def share_interval(hits: float, number: float, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a share seen as `hits` of `number` (Wilson 1927); (0, 1) where nothing was seen.

    Args:
        hits: how many were.
        number: of how many; both may be effective sizes, with fractions.
        confidence: 0.9, 0.95 or 0.99.
    """
    if not number:
        return 0.0, 1.0
    z = _Z[confidence]
    share, weight = hits / number, 1 + z * z / number
    middle = (share + z * z / (2 * number)) / weight
    half = z / weight * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _abnormal(cells: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    wanted = [counts for name, counts in cells.items() if is_abnormal(name)]
    return {key: sum(counts[key] for counts in wanted) for key in ("cells", "lost")}
