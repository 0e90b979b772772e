"""Stable orders of large arrays, and floats as bits that sort as the floats do."""

import numpy as np
from numpy.typing import NDArray


def order_of(key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the stable order (N,) of whole numbers (N,).

    Sixteen bits at a time: those numpy sorts by counting, which takes a quarter of the time of comparing.
    """
    digits = np.ascontiguousarray(key, dtype="<u8").view("<u2").reshape(-1, 4)
    top = max(int(key.max(initial=0)).bit_length(), 1)
    return np.lexsort(digits.T[: -(-top // 16)])


def sortable(values: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return 32 bits a value (N,) that sort as the values do, in single precision: equals may differ in truth."""
    # Adding zero makes -0 and 0, which are equal, the same bits.
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)
    flipped = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
    return flipped.astype(np.uint64)
