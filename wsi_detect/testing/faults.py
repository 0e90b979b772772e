"""What disks, cables and copies do to files: ends cut off, bits turned over, blocks of zeros."""

from collections.abc import Iterator

import numpy as np

#: Sizes of the blocks that disks and copies lose.
_BLOCKS = (16, 64, 512, 4096)


def cut_off(content: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield the file ended early at `count` places, evenly spread, the first and the last byte among them."""
    for end in np.unique(np.linspace(1, len(content) - 1, count).astype(np.int64)).tolist():
        yield f"cut at {end}", content[:end]


def flipped(content: bytes, places: range, count: int | None, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield the file with one bit turned over.

    Args:
        content: of the file.
        places: bytes that may be hit.
        count: how many bits, drawn without repeating; None takes every one.
        seed: of the draw.
    """
    bits = 8 * len(places)
    drawn = range(bits) if count is None else np.random.default_rng(seed).permutation(bits)[:count].tolist()
    for bit in drawn:
        place = places[bit // 8]
        changed = bytearray(content)
        changed[place] ^= 1 << bit % 8
        yield f"bit {bit % 8} of byte {place}", bytes(changed)


def zeroed(content: bytes, places: range, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield the file with one block of 16 to 4096 bytes set to zero, as far as it lies within `places`."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        start, size = places[int(rng.integers(len(places)))], _BLOCKS[k % len(_BLOCKS)]
        changed = bytearray(content)
        end = min(start + size, places.stop)
        changed[start:end] = bytes(end - start)
        yield f"{end - start} zeros at {start}", bytes(changed)
