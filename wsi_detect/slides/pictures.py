"""Tiles that are pictures of their own: JPEG 2000, JPEG XL, JPEG-LS, WebP, LERC.

Each decoder is given the array the tile belongs in, and compares its stream's header with it before it decodes: a tile
of a few bytes cannot ask for gigabytes.
"""

from collections.abc import Callable
from typing import Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

_Image = NDArray[np.uint8]
Codec = Literal["jpeg2000", "jpegxl", "jpegls", "webp", "lerc"]

_DECODERS: dict[Codec, Callable[..., _Image]] = {
    "jpeg2000": imagecodecs.jpeg2k_decode,
    "jpegxl": imagecodecs.jpegxl_decode,
    "jpegls": imagecodecs.jpegls_decode,
    "webp": imagecodecs.webp_decode,
    "lerc": imagecodecs.lerc_decode,
}
_JPEG_2000_SIZE = b"\xff\x4f\xff\x51"


def decode(codec: Codec, data: bytes, shape: tuple[int, int, int]) -> _Image:
    """Decode a stream to (h, w, samples).

    Raises:
        Exception: of many kinds, as the codecs have it: the stream is damaged, or of another shape.
    """
    if codec == "jpeg2000":
        _check_jpeg_2000(data, shape)
    out = np.empty(shape if shape[2] > 1 else shape[:2], dtype=np.uint8)
    return _DECODERS[codec](data, out=out).reshape(shape)


def _check_jpeg_2000(data: bytes, shape: tuple[int, int, int]) -> None:
    """Compare the size marker with the tile: this decoder takes memory before it compares."""
    place = data.find(_JPEG_2000_SIZE)
    x1, y1, x0, y0 = (int.from_bytes(data[place + 8 + 4 * k : place + 12 + 4 * k]) for k in range(4))
    if place < 0 or (y1 - y0, x1 - x0) != shape[:2]:
        raise ValueError("its header does not declare the size of the tile")
