"""Ids of cells: a UUID each, a function of slide, model, class and box, so the same in every run and every export."""

import hashlib

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from wsi_detect.geometry import Boxes
from wsi_detect.stitching.columns import NAMES
from wsi_detect.stitching.ordering import order_of

Words = NDArray[np.uint64]

#: Boxes are told apart to 1/100 px.
_STEPS_A_PX = 100
#: First and last digit of each group of the text 8-4-4-4-12.
_GROUPS = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
#: Two digits of each octet.
_HEX = np.frombuffer("".join(f"{octet:02x}" for octet in range(256)).encode(), dtype=np.uint16)


def cell_ids(slide_id: str, model_id: str, label: NDArray[np.integer], sides: Boxes) -> pa.StringArray:
    """Return a UUID (version 8, RFC 9562) for each cell as text, (N,).

    128 bits: two words that start from the SHA-256 of slide, model and class, into which the four sides, rounded to
    0.01 px, are mixed one after the other. Cells that agree in all of it are numbered in the order they come.

    Args:
        slide_id: the slide.
        model_id: the detector.
        label: (N,) places among `NAMES`.
        sides: (4, N) x0, y0, x1, y1, slide px.
    """
    words = _seeds(slide_id, model_id).take(label, axis=1)
    for side in np.round(sides * _STEPS_A_PX).astype(np.int64).view(np.uint64):
        words = _mix(words, side)
    again = _occurrence(words)
    twice = np.flatnonzero(again)
    # A detector may report a box twice in one patch; ids stay unique all the same.
    words[:, twice] = _mix(words[:, twice], again[twice])
    return _as_text(words)


def _seeds(slide_id: str, model_id: str) -> Words:
    """Return the two words each label starts from: (2, number of names)."""
    digests = [hashlib.sha256(f"{slide_id}|{model_id}|{name}".encode()).digest()[:16] for name in NAMES]
    return np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).T.astype(np.uint64)


def _mix(words: Words, value: Words) -> Words:
    """Mix a value (N,) into two words (2, N), each in its own way: the finaliser of SplitMix64 (Steele et al. 2014)."""
    factors = np.array([[0xBF58476D1CE4E5B9, 0x94D049BB133111EB], [0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53]], np.uint64)
    state = words * factors[:, 1:] + value
    state = (state ^ (state >> np.uint64(30))) * factors[:, :1]
    state = (state ^ (state >> np.uint64(27))) * factors[:, 1:]
    return np.asarray(state ^ (state >> np.uint64(31)))


def _occurrence(words: Words) -> Words:
    """Return how many equal words came before: (2, N) → (N,)."""
    known = np.sort(words[0])
    if (known[1:] != known[:-1]).all():
        return np.zeros(len(known), dtype=np.uint64)
    order = order_of(words[0])
    new = np.append(True, (np.diff(words[:, order]) != 0).any(axis=0))[: len(order)]
    run = np.arange(len(order)) - np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    again = np.empty(len(order), dtype=np.uint64)
    again[order] = run
    return again


def _as_text(words: Words) -> pa.StringArray:
    high, low = words
    high = high & np.uint64(0xFFFFFFFFFFFF0FFF) | np.uint64(8 << 12)
    low = low & np.uint64(0x3FFFFFFFFFFFFFFF) | np.uint64(2 << 62)
    octets = np.column_stack([high, low]).astype(">u8").view(np.uint8).reshape(-1, 16)
    digits = _HEX[octets].view(np.uint8)
    text = np.full((len(octets), 36), ord("-"), dtype=np.uint8)
    for hyphens, (first, after) in enumerate(_GROUPS):
        text[:, first + hyphens : after + hyphens] = digits[:, first:after]
    offsets = np.arange(len(octets) + 1, dtype=np.int32) * 36
    return pa.StringArray.from_buffers(len(octets), pa.py_buffer(offsets), pa.py_buffer(text))
