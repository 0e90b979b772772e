"""Pictures inside a page: arrays as data URIs, and scale bars of round lengths."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_ROUND_UM = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))


@dataclass(frozen=True, slots=True)
class ScaleBar:
    """A scale bar: its length in px of its picture, and what that is."""

    length: float
    text: str


def jpeg_uri(rgb: NDArray[np.uint8], quality: int) -> str:
    """Picture (H, W, 3) uint8 → `data:` URI of a JPEG without colour subsampling, which would smear stain edges."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=quality, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def scale_bar(width: float, um_per_px: float, share: float = 0.2) -> ScaleBar:
    """Return the longest bar of 1, 2 or 5 times a power of ten µm that takes at most `share` of a picture's width.

    Args:
        width: of the picture, px.
        um_per_px: of the picture.
        share: of the width.
    """
    fitting = [length for length in _ROUND_UM if length / um_per_px <= width * share]
    length = fitting[-1] if fitting else _ROUND_UM[0]
    text = f"{length // 1000} mm" if length >= 1000 else f"{length} µm"
    return ScaleBar(length / um_per_px, text)
