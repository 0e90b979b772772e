"""Per-patch quality: five numbers that go into columns. What to do about them is for whoever reads the column.

All are heuristics of a few windows of a patch, made to compare patches, not to measure a preparation. Sums are sums of
integers, so a figure is the same on every machine and in any number of threads.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect.config import Config
from wsi_detect.errors import ConfigError

if TYPE_CHECKING:
    from wsi_detect.tiling.mask import CellMask

QUALITY_COLUMNS = ("focus", "stain", "crowding", "blood", "mucus")
#: Side of a sampled window, patch px; windows lie on its multiples, where scanners put their tiles.
SAMPLE_PX = 256
#: Windows sampled of a patch at most.
SAMPLES = 4

#: Every fourth row, and every fourth px for colours: neighbours say the same, and cost the same.
_STEP = 4
#: Optical density is counted in thousandths. A px is a cell's above this in green, where all nuclear stain absorbs.
_CELL = 50
#: Fewer sampled cell px than this are dust: a nucleus of 5 µm at 0.25 µm/px has 20.
_FEWEST = 12
#: Mean density over the colours of what is as dark as a nucleus or as cells on top of each other.
_DARK = 260
#: A step between px this far apart is looked at, and how much of it lies between px that far apart.
_FAR, _NEAR = 12, 2
#: A step counts if it is this part of the contrast of the darkest cells, and no less than this part of the ground.
_EDGE, _LEAST_EDGE = 0.35, 0.04
#: Pale and smooth: mean density between these, and its range within a block of this many sampled px no more than that.
_PALE, _SMOOTH, _BLOCK = (30, 150), 40, 16

_Grey = NDArray[np.uint8]
_Density = NDArray[np.uint16]
_Pair = tuple[_Grey, _Grey]


class QualityConfig(Config):
    """How quality columns are read. No patch is ever dropped for one.

    Attributes:
        in_focus: focus under which the cells of a patch count as out of focus. Between sharp fields and the same ones
            blurred by a Gaussian of 2 px and more, on conventional smears and liquid-based fields at about 0.25 µm/px;
            docs/tiling.md has the figures. Where optics resolve less than the px, as at 0.1 µm/px, it must be lower.
    """

    in_focus: float = Field(default=1.5, ge=0)


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of one patch, NaN where no px of a cell was sampled.

    Attributes:
        focus: how steep the steps in the cells are: root of the mean square of the differences over 2 px, in the midst
            of the strong differences over 12 px, as a multiple of the even slope. 1 is a ramp, 2.4 a sharp edge;
            0 where cells show no step at all. Contrast cancels; what the size of a px is does not.
        stain: mean optical density of the cell px, over the three colours, against the clean ground.
        crowding: fraction of the px as dark as a nucleus or as overlapping cells.
        blood: fraction of the px of the hue of red cells, which dense eosinophilic cytoplasm and debris have too.
        mucus: fraction of the area in blocks of 64 px that are pale, stained and smooth throughout, as mucus and thin
            protein are; the middle of a very large pale cell can be as well.
    """

    focus: float
    stain: float
    crowding: float
    blood: float
    mucus: float


#: Column → least and most a patch may have; None leaves that side open.
Rule = Mapping[str, tuple[float | None, float | None]]

_NOTHING = Quality(*[math.nan] * len(QUALITY_COLUMNS))


def sample_boxes(
    cells: "CellMask", origins: NDArray[np.int64], patch_slide_px: int, patch_px: int
) -> NDArray[np.int64]:
    """Choose the windows of each patch to measure: those with most of the cell mask, the first ones where equal.

    Args:
        cells: the slide's mask.
        origins: (N, 2) top-left corners of the patches as x, y, slide px.
        patch_slide_px: side of a patch, slide px.
        patch_px: side of a patch, patch px.

    Returns:
        (N, 4, 2) int64 top-left corners as x, y, patch px, multiples of `SAMPLE_PX`; -1 where fewer windows hold any
        of the mask. A window reaches `SAMPLE_PX` to the right and down, or to the edge of the patch.
    """
    chosen = np.full((len(origins), SAMPLES, 2), -1, dtype=np.int64)
    places = np.arange(0, patch_px, SAMPLE_PX)
    corners = np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2)
    scale = patch_slide_px / patch_px
    boxes = np.concatenate([corners, np.minimum(corners + SAMPLE_PX, patch_px)], axis=1) * scale
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for start in range(0, len(origins), 4096):
        rows = slice(start, start + 4096)
        placed = boxes + np.tile(origins[rows], 2)[:, None, :]
        covered = cells.coverage(placed.reshape(-1, 4)).reshape(-1, len(corners)) * area
        best = np.argsort(-covered, axis=1, kind="stable")[:, :SAMPLES]
        found = np.take_along_axis(covered, best, axis=1) > 0
        chosen[rows, : best.shape[1]] = np.where(found[..., None], corners[best], -1)
    return chosen


def measure_patch(rgb: NDArray[np.uint8], ground: tuple[float, float, float]) -> Quality:
    """Measure a patch (H, W, 3) without a mask: on the windows with most px of cells, the first where equal."""
    dark = rgb[:: 2 * _STEP, :: 2 * _STEP, 1] < ground[1] * 10 ** (-_CELL / 1000)
    starts = [np.arange(0, side, SAMPLE_PX // (2 * _STEP)) for side in dark.shape]
    counts = np.add.reduceat(np.add.reduceat(dark, starts[0], axis=0, dtype=np.int64), starts[1], axis=1)
    best = np.argsort(-counts, axis=None, kind="stable")[:SAMPLES]
    corners = [(int(k) // counts.shape[1] * SAMPLE_PX, int(k) % counts.shape[1] * SAMPLE_PX) for k in best]
    return measure(
        [rgb[y : y + SAMPLE_PX, x : x + SAMPLE_PX] for y, x in corners if counts[y // SAMPLE_PX, x // SAMPLE_PX]],
        ground,
    )


def measure(samples: Sequence[NDArray[np.uint8]], ground: tuple[float, float, float]) -> Quality:
    """Measure a patch on windows of it.

    Args:
        samples: (h, w, 3) uint8 each, at the patch's own resolution.
        ground: colour of the clean glass (`CellMask.ground`).
    """
    table = _densities(ground)
    thin = [rgb[::_STEP, ::_STEP] for rgb in samples]
    density = [np.stack([table[k][rgb[..., k]] for k in range(3)]) for rgb in thin]
    flat = np.concatenate([d.reshape(3, -1) for d in density], axis=1) if density else np.zeros((3, 0), np.uint16)
    cell = flat[1] >= _CELL
    count, total = int(np.count_nonzero(cell)), flat.shape[1]
    if count < _FEWEST:
        return _NOTHING
    red, green, blue = flat
    level = red + green + blue
    blood = (green >= 200) & (blue >= 150) & (red * 5 < green * 2)
    darkest = int(np.partition(green[cell], count - 1 - count // 50)[count - 1 - count // 50])
    contrast = ground[1] * (1 - 10 ** (-darkest / 1000))
    smooth = sum(_smooth_px(d.sum(axis=0, dtype=np.uint16)) for d in density)
    return Quality(
        focus=_focus(samples, max(_EDGE * contrast, _LEAST_EDGE * ground[1])),
        stain=int(level[cell].sum(dtype=np.int64)) / (3000 * count),
        crowding=int(np.count_nonzero(level >= 3 * _DARK)) / total,
        blood=int(np.count_nonzero(blood)) / total,
        mucus=smooth / total,
    )


def select(columns: Mapping[str, NDArray[np.floating]], rule: Rule) -> NDArray[np.bool_]:
    """Return which patches a declared rule keeps: (N,) bool, for columns (N,) each.

    A figure that was not measured (NaN) passes: not knowing is no reason to drop a patch.

    Raises:
        ConfigError: the rule names a column that is not there.
    """
    kept = np.ones(len(next(iter(columns.values()), ())), dtype=np.bool_)
    for name, (least, most) in rule.items():
        if name not in columns:
            raise ConfigError(f"there is no column {name!r} to choose patches by; known: {', '.join(sorted(columns))}")
        if least is not None:
            kept &= ~(columns[name] < least)
        if most is not None:
            kept &= ~(columns[name] > most)
    return kept


def _densities(ground: tuple[float, float, float]) -> NDArray[np.uint16]:
    """Optical density of every value of every colour, thousandths, at most 2.5: (3, 256)."""
    values = np.maximum(np.arange(256), 1)
    rows = [np.clip(np.rint(np.log10(max(level, 1.0) / values) * 1000), 0, 2500) for level in ground]
    return np.stack(rows).astype(np.uint16)


def _focus(samples: Sequence[_Grey], edge: float) -> float:
    """Rms of the near differences over that of the far ones around them, where those are at least `edge` grey levels.

    Sums of squares, because the sum of a step's differences is its height however wide it is. The threshold keeps
    grain out, which is as steep as an edge but never as high.
    """
    near = far = 0
    least, side = np.uint8(min(math.ceil(edge), 255)), (_FAR - _NEAR) // 2
    for rgb in samples:
        # Green is the sharpest of a scanner's colours, and the one every dye of the nucleus absorbs.
        for grey in (np.ascontiguousarray(rgb[:, ::_STEP, 1]), np.ascontiguousarray(rgb[::_STEP, :, 1]).T):
            if len(grey) <= _FAR:
                continue
            steps = _differences(grey[_FAR:], grey[:-_FAR])
            high = steps >= least
            far += _energy(steps, high)
            near += _energy(_differences(grey[side + _NEAR : -side], grey[side : -side - _NEAR]), high)
    return _FAR / _NEAR * math.sqrt(near / far) if far else 0.0


def _differences(a: _Grey, b: _Grey) -> _Grey:
    """Absolute differences, without leaving bytes."""
    return np.asarray(np.maximum(a, b) - np.minimum(a, b))


def _energy(values: _Grey, chosen: NDArray[np.bool_]) -> int:
    """Sum of the squares of the chosen values."""
    kept = values * chosen
    return int(np.multiply(kept, kept, dtype=np.uint16).sum(dtype=np.uint64))


def _smooth_px(level: _Density) -> int:
    """Sampled px in blocks that are pale and smooth throughout; `level` is the sum of the three densities."""
    rows, columns = level.shape[0] // _BLOCK, level.shape[1] // _BLOCK
    blocks = level[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    low, high = blocks.min(axis=(1, 3)), blocks.max(axis=(1, 3))
    pale = (low >= 3 * _PALE[0]) & (high <= 3 * _PALE[1]) & (high - low <= 3 * _SMOOTH)
    return int(np.count_nonzero(pale)) * _BLOCK * _BLOCK
