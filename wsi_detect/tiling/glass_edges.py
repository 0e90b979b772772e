"""What belongs to the glass: the label or frosted end of a slide, and the edge of the coverslip."""

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect.config import Config
from wsi_detect.tiling.blocks import Blocks, Mask

#: The edge of a coverslip may lie this much askew: rise over run.
_TILT = 0.05
#: A line is no wider than this, blocks; a clear strip of as much lies on both sides.
_LINE = 3
#: Of the length of a line this share must be seen, and strips beside it must hold less than that share of it.
_SEEN, _BESIDE = 0.9, 0.2
#: In this share of its length a line is as thick as it mostly is.
_EVEN = 0.7
#: Where the line is wider than it mostly is by this, µm, a cell may lie on it.
_CELL_UM = 8.0
#: How far from its middle a line is looked at, µm.
_REACH_UM = 48.0


class EdgeConfig(Config):
    """What counts as label or coverslip edge. Whatever is in doubt is kept.

    Attributes:
        opaque: optical density in green both have at least; ground glass takes a third of the light, paint all of it.
        label_um: a label covers at least this much of one border of the slide, µm: no clump of cells is as long.
        label_share: and this fraction of the border.
        label_depth: and reaches no further into the slide than this fraction.
        line_um: the least length of a coverslip's edge, µm; coverslips are 18 mm and more.
        line_share: and the fraction of the slide's side it spans.
        border: fraction of the slide, at each side, in which such an edge can lie.
    """

    opaque: float = Field(default=0.1, gt=0, lt=2)
    label_um: float = Field(default=2000.0, gt=0)
    label_share: float = Field(default=0.3, gt=0, le=1)
    label_depth: float = Field(default=0.4, gt=0, le=1)
    line_um: float = Field(default=5000.0, gt=0)
    line_share: float = Field(default=0.6, gt=0, le=1)
    border: float = Field(default=0.25, gt=0, le=0.5)


def find_label(blocks: Blocks, ground: tuple[float, float, float], config: EdgeConfig) -> Mask | None:
    """Find flat opaque rectangles that begin at a border of the slide.

    Args:
        blocks: of the thumbnail.
        ground: colour of the clean glass.
        config: thresholds.

    Returns:
        The blocks to leave out, or None where there is no label.
    """
    opaque = blocks.high < ground[1] * 10**-config.opaque
    found = np.zeros(opaque.shape, dtype=np.bool_)
    if max(opaque.shape) * blocks.um < config.label_um:
        return None
    # Clumps of cells are uneven, paint is not.
    flat: Mask | None = None
    for turn in range(4):
        edge = np.rot90(opaque, turn)[0]
        if np.count_nonzero(edge) < config.label_share * len(edge):
            continue
        flat = opaque & blocks.flat(0.05 * ground[1], 0.1) if flat is None else flat
        _enter_label(np.rot90(flat, turn), np.rot90(found, turn), blocks.um, config)
    return found if found.any() else None


def _enter_label(flat: Mask, found: Mask, um: float, config: EdgeConfig) -> None:
    """Enter into `found` the rectangle that begins at the first row, if there is one."""
    depth = np.logical_and.accumulate(flat, axis=0).sum(axis=0)
    deep = depth[depth >= 4]
    if not len(deep):
        return
    typical = float(np.median(deep))
    columns = np.flatnonzero(np.abs(depth - typical) <= max(2.0, 0.1 * typical))
    if not len(columns) or typical > config.label_depth * len(flat):
        return
    span = int(columns[-1] - columns[0]) + 1
    if len(columns) < 0.9 * span or span * um < config.label_um or span < config.label_share * len(depth):
        return
    # The outermost blocks of a rectangle have neighbours outside it, and its edge is not quite sharp.
    first, last = max(int(columns[0]) - 2, 0), int(columns[-1]) + 3
    inside = np.zeros(len(depth), dtype=np.bool_)
    inside[columns] = True
    inside[first : int(columns[0])] = inside[int(columns[-1]) + 1 : last] = True
    reach = np.where(depth > 0, depth, typical) + 2
    rows = np.arange(len(flat))[:, None]
    found |= inside & (rows < reach)


def find_coverslip(
    stained: Mask, blocks: Blocks, ground: tuple[float, float, float], config: EdgeConfig
) -> Mask | None:
    """Find long thin straight dark lines near the borders of the slide.

    Args:
        stained: (h, w) what is stained on the thumbnail.
        blocks: of that thumbnail.
        ground: colour of the clean glass.
        config: thresholds.

    Returns:
        The px of `stained` to leave out, or None where there is no such line. Where something thicker lies on the
        line, all of it stays.
    """
    dark = blocks.low < ground[1] * 10**-config.opaque
    found: Mask | None = None
    for turned in (False, True):
        view = dark.T if turned else dark
        rows, columns = view.shape
        if columns * blocks.um < config.line_um:
            continue
        depth = max(2 * _LINE + 1, math.ceil(config.border * rows))
        for first in sorted({0, max(rows - depth, 0)}):
            line = _line(
                _thin(view[first : first + depth]), max(config.line_share * columns, config.line_um / blocks.um)
            )
            if line is None:
                continue
            found = np.zeros(stained.shape, dtype=np.bool_) if found is None else found
            place, rise, (left, right) = line
            across = np.arange(left * blocks.side, min((right + 1) * blocks.side, blocks.shape[0 if turned else 1]))
            middle = (first + place + 0.5) * blocks.side + rise * across
            target, source = (found.T, stained.T) if turned else (found, stained)
            _enter_line(source, target, across, middle, blocks.um / blocks.side)
    return found


def _thin(dark: Mask) -> Mask:
    """Dark blocks with clear ones above and below, `_LINE` blocks away."""
    clear = np.pad(~dark, ((_LINE, _LINE), (0, 0)), constant_values=True)
    return np.asarray(dark & clear[: len(dark)] & clear[2 * _LINE :])


def _line(thin: Mask, least: float) -> tuple[float, float, tuple[int, int]] | None:
    """The one line across a strip: its row where it begins, its rise per column, its first and last column."""
    rows, columns = thin.shape
    y, x = np.nonzero(thin)
    if len(y) < _SEEN * least:
        return None
    most = math.ceil(_TILT * columns)
    best, place, lean = 0, 0, 0
    for rise in range(-most, most + 1):
        votes = np.bincount(y - np.rint(x * (rise / columns)).astype(np.int64) + most, minlength=rows + 2 * most)
        sums = votes[:-2] + votes[1:-1] + votes[2:]
        top = int(np.argmax(sums))
        if sums[top] > best:
            best, place, lean = int(sums[top]), top + 1, rise
    off = y - np.rint(x * (lean / columns)).astype(np.int64) + most - place
    seen = np.unique(x[np.abs(off) <= 1])
    span = int(seen[-1] - seen[0]) + 1
    beside = float(((np.abs(off) >= 5) & (np.abs(off) <= 10)).sum()) / 12 * 3
    if span < least or len(seen) < _SEEN * span or beside > _BESIDE * best:
        return None
    return float(place - most), lean / columns, (int(seen[0]), int(seen[-1]))


def _enter_line(
    stained: Mask, found: Mask, across: NDArray[np.int64], middle: NDArray[np.float64], um_per_px: float
) -> None:
    """Enter into `found` the stained px of a line, where it is no thicker than elsewhere.

    Cells in a row are no line: their thickness changes, and where they crowd there is no clear glass beside it.
    """
    reach = math.ceil(_REACH_UM / um_per_px)
    rows = middle.astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    inside = (rows >= 0) & (rows < len(stained))
    rows = rows.clip(0, len(stained) - 1)
    part = stained[rows, across[:, None]] & inside
    thickness = part.sum(axis=1)
    usual, slack = float(np.median(thickness)), math.ceil(_CELL_UM / um_per_px)
    if not 0 < usual <= reach or (np.abs(thickness - usual) <= slack).mean() < _EVEN:
        return
    part &= (thickness <= usual + slack)[:, None]
    found[rows[part], np.broadcast_to(across[:, None], part.shape)[part]] = True
