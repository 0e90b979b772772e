"""Patch pixels ↔ the bytes of one chunk: the slide's JPEG tiles, one JPEG, or lossless zstd, each with a crc32c behind.

The names and configurations are those zarr v3 knows (`imagecodecs_jpeg`, `zstd`, `crc32c`, and our own
`wsi_detect.jpeg_tiles`), so the chunks are what zarr itself would write; `codec.py` teaches zarr the first and last.
"""

from typing import Any, Literal

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import DamagedArtifactError
from wsi_detect.slides import jpeg
from wsi_detect.slides.jpeg import JpegFaultError
from wsi_detect.tiling.jpeg_tiles import Window, canvas, decode_tiles, scratch

#: What patches are stored as. `jpeg_tiles` is copied, never encoded: see `jpeg_tiles.pack_tiles`.
PixelCodec = Literal["jpeg_tiles", "jpeg", "zstd"]

#: Quality 90 costs a mean error of 0.1-0.5 grey levels on slides that were JPEG already, at an eighth of zstd's size.
JPEG_LEVEL = 90
ZSTD_LEVEL = 3

JPEG_NAME = "imagecodecs_jpeg"
TILES_NAME, TILES_VERSION = "wsi_detect.jpeg_tiles", 1
#: Entries of zarr's metadata that turn a patch into bytes.
METADATA: dict[PixelCodec, list[dict[str, Any]]] = {
    "jpeg_tiles": [{"name": TILES_NAME, "configuration": {"version": TILES_VERSION}}],
    "jpeg": [{"name": JPEG_NAME, "configuration": {"level": JPEG_LEVEL}}],
    "zstd": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}],
}
_CRC_BYTES = 4

_Image = NDArray[np.uint8]


def crc32c(content: bytes) -> int:
    """Castagnoli checksum of some bytes, as zarr's `crc32c` codec appends it."""
    return int(google_crc32c.value(content))


def with_checksum(content: bytes) -> bytes:
    """Append the checksum."""
    return content + crc32c(content).to_bytes(_CRC_BYTES, "little")


def without_checksum(chunk: bytes) -> bytes:
    """Check and take off the checksum.

    Raises:
        DamagedArtifactError: it does not match.
    """
    content = chunk[:-_CRC_BYTES]
    if len(chunk) <= _CRC_BYTES or crc32c(content).to_bytes(_CRC_BYTES, "little") != chunk[-_CRC_BYTES:]:
        raise DamagedArtifactError("checksum mismatch")
    return content


def encode_chunk(rgb: _Image, codec: Literal["jpeg", "zstd"]) -> bytes:
    """Encode a patch (S, S, 3) uint8 as one chunk, checksum included."""
    rgb = np.ascontiguousarray(rgb)
    if codec == "jpeg":
        return with_checksum(encode_jpeg(rgb, JPEG_LEVEL))
    return with_checksum(bytes(imagecodecs.zstd_encode(rgb.tobytes(), level=ZSTD_LEVEL)))


def decode_chunk(
    chunk: bytes, codec: PixelCodec, side: int, window: Window | None = None, out: _Image | None = None
) -> tuple[_Image, int]:
    """Decode one chunk to its patch, or to a window of it.

    Args:
        chunk: with its checksum, which covers all of it.
        codec: what the store is made of.
        side: of the patch, px.
        window: x0, y0, x1, y1 within the patch, px; None for all of it.
        out: contiguous (height, width, 3) uint8 to decode into.

    Returns:
        (height, width, 3) uint8, and how many of its px are white because the decoder refuses the slide's tile.

    Raises:
        DamagedArtifactError: the checksum does not match, or the chunk is not what it should be.
        ValueError: the window leaves the patch, or `out` does not fit it.
    """
    content = without_checksum(chunk)
    if codec == "jpeg_tiles":
        return decode_tiles(content, side, window, out)
    whole = window is None or window == (0, 0, side, side)
    x0, y0, x1, y1 = window or (0, 0, side, side)
    out = canvas((x0, y0, x1, y1), side, out)
    patch = out if whole else scratch((side, side, 3))
    try:
        if codec == "jpeg":
            decode_jpeg(content, patch)
        else:
            _decode_zstd(content, patch)
    except (RuntimeError, ValueError) as error:
        raise DamagedArtifactError(f"cannot be decoded ({error})") from error
    if not whole:
        out[...] = patch[y0:y1, x0:x1]
    return out, 0


def encode_jpeg(rgb: _Image, level: int) -> bytes:
    """Encode (S, S, 3) RGB as a baseline JPEG of the given quality."""
    return bytes(imagecodecs.jpeg8_encode(rgb, level=level))


def decode_jpeg(content: bytes, out: _Image) -> None:
    """Decode a JPEG into a contiguous (H, W, 3) uint8 of its size.

    Raises:
        JpegFaultError: it has another size, or the decoder refuses.
    """
    frame = jpeg.read_frame(content)
    if (frame.height, frame.width) != out.shape[:2]:
        raise JpegFaultError(f"declares {frame.width} x {frame.height} px, expected {out.shape[1]} x {out.shape[0]}")
    jpeg.decode(content, out=out)


def _decode_zstd(content: bytes, out: _Image) -> None:
    # The size is given to the decoder, so that a few bytes cannot ask for gigabytes.
    found = imagecodecs.zstd_decode(content, out=out.reshape(-1).data)
    if len(found) != out.size:
        raise ValueError(f"holds {len(found)} bytes, expected {out.size}")
