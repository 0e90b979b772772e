"""OME-TIFF pyramids with focal planes, as converters write them: levels in SubIFDs, sizes in XML."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

_Pixels = NDArray[np.uint8]


def write_ome(
    path: Path,
    planes: Sequence[_Pixels],
    *,
    levels: int = 3,
    tile_px: int = 64,
    compression: str = "zstd",
    mpp: float | None = 0.25,
    step_um: float = 1.5,
) -> Path:
    """Write a slide whose levels are a factor of 2 apart.

    Args:
        path: the file, `.ome.tif`.
        planes: of equal shape (H, W, 3), one a focal plane.
        levels: of the pyramid.
        tile_px: side of the tiles, px.
        compression: as tifffile calls it; lossless where the codec can.
        mpp: µm per px; None writes none.
        step_um: between focal planes.

    Returns:
        `path`.
    """
    stack = np.stack(planes) if len(planes) > 1 else planes[0]
    facts: dict[str, object] = {"axes": "ZYXS" if len(planes) > 1 else "YXS"}
    if mpp is not None:
        facts |= {f"PhysicalSize{axis}": mpp for axis in "XY"} | {f"PhysicalSize{axis}Unit": "µm" for axis in "XY"}
    if len(planes) > 1:
        facts |= {"PhysicalSizeZ": step_um, "PhysicalSizeZUnit": "µm"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for level in range(levels):
            tiff.write(
                stack if level == 0 else shrink(stack, 2**level),
                subifds=levels - 1 if level == 0 else None,
                subfiletype=min(level, 1),
                photometric="rgb",
                tile=(tile_px, tile_px),
                compression=compression,
                compressionargs=LOSSLESS.get(compression),
                metadata=facts if level == 0 else None,
            )
    return path


#: Compression → what makes tifffile write it without loss.
LOSSLESS: dict[str, dict[str, object]] = {
    "webp": {"lossless": True},
    "jpegxl": {"lossless": True},
    "jpeg2000": {"reversible": True, "level": 0},
}


def shrink(pixels: _Pixels, step: int) -> _Pixels:
    """Mean over blocks of `step` x `step` px of (…, H, W, 3); the last rows and columns of incomplete blocks repeat."""
    edges = [(0, 0)] * (pixels.ndim - 3) + [(0, -pixels.shape[-3] % step), (0, -pixels.shape[-2] % step), (0, 0)]
    padded = np.pad(pixels, edges, mode="edge")
    *front, height, width, samples = padded.shape
    blocks = padded.reshape(*front, height // step, step, width // step, step, samples)
    return np.asarray(blocks.mean(axis=(-4, -2)).round(), dtype=np.uint8)
