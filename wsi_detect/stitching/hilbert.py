"""The order of cells on a slide: along Hilbert's curve, so that cells near each other lie near each other in a file.

D. Hilbert, "Über die stetige Abbildung einer Linie auf ein Flächenstück", Math. Ann. 38 (1891), 459-460. Keys are
found bit by bit from the top, turning the quarter that a point lies in (C. H. Hamilton, A. Rau-Chaplin, "Compact
Hilbert indices", Inf. Process. Lett. 105 (2008), 155-163, in two dimensions).
"""

import numpy as np
from numpy.typing import NDArray

from wsi_detect.geometry import Boxes

#: The curve visits 2**ORDER x 2**ORDER squares: 2 px of a slide of 130,000 px.
ORDER = 16
_ONE, _ALL = np.uint32(1), np.uint32(0xFFFFFFFF)


def hilbert_key(
    x: NDArray[np.float64], y: NDArray[np.float64], width_px: float, height_px: float
) -> NDArray[np.uint64]:
    """Return how far along the curve points lie.

    The curve fills the square that has the slide's longer side, origin at the slide's top left; a point outside
    counts as one on the edge.

    Args:
        x: abscissae (N,) in slide px, no NaN.
        y: ordinates (N,) in slide px, no NaN.
        width_px: width of the slide.
        height_px: height of the slide.

    Returns:
        Keys (N,), each below 4**ORDER.
    """
    squares = 1 << ORDER
    scale = squares / max(width_px, height_px)
    a = np.clip(np.asarray(x) * scale, 0, squares - 1).astype(np.uint32)
    b = np.clip(np.asarray(y) * scale, 0, squares - 1).astype(np.uint32)
    key = np.zeros(a.shape, dtype=np.uint64)
    for bit in range(ORDER - 1, -1, -1):
        right, below = (a >> np.uint32(bit)) & _ONE, (b >> np.uint32(bit)) & _ONE
        key <<= np.uint64(2)
        key |= (right << _ONE | right) ^ below
        # In the two upper quarters the curve runs transposed, in the right one of them also reversed.
        reverse = _ALL * (right & (below ^ _ONE))
        a, b = a ^ reverse, b ^ reverse
        transpose = (a ^ b) & (_ALL * (below ^ _ONE))
        a, b = a ^ transpose, b ^ transpose
    return key


def curve_order(
    boxes: Boxes, label: NDArray[np.integer], score: NDArray[np.floating], width_px: float, height_px: float
) -> NDArray[np.int64]:
    """Return the indices (N,) that put cells into the order of `cells.parquet`.

    That is: Hilbert key of the box's centre, then y0, x0, y1, x1, label, highest score first; what is equal in all
    of it stays as it came.

    Args:
        boxes: (N, 4) xyxy in slide px.
        label: (N,) numbers that sort as the labels' names do.
        score: (N,).
        width_px: width of the slide.
        height_px: height of the slide.
    """
    x0, y0, x1, y1 = boxes.T
    key = hilbert_key((x0 + x1) / 2, (y0 + y1) / 2, width_px, height_px)
    order = np.argsort(key, kind="stable")
    same = np.diff(key[order]) == 0
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    # Few cells share a square: the other seven keys are looked at for these alone.
    rows = order[tied]
    x0, y0, x1, y1 = boxes[rows].T
    order[tied] = rows[np.lexsort((-score[rows], label[rows], x1, y1, x0, y0, key[rows]))]
    return order
