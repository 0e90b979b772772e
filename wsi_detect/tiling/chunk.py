"""Patch pixels ↔ the bytes of one chunk: JPEG, or lossless zstd, each followed by a crc32c.

The names and configurations are those zarr v3 knows (`imagecodecs_jpeg`, `zstd`, `crc32c`), so the chunks are what
zarr itself would write; `codec.py` teaches zarr the first of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import DamagedArtifactError

CodecName = Literal["jpeg", "zstd"]

#: Quality 90 costs a mean error of 0.1-0.5 grey levels on slides that were JPEG already, at an eighth of zstd's size.
JPEG_LEVEL = 90
ZSTD_LEVEL = 3
_CRC_BYTES = 4


@dataclass(frozen=True, slots=True)
class Codec:
    """How one patch becomes bytes: its entry in zarr's metadata, and the two directions without the checksum."""

    metadata: list[dict[str, Any]]
    encode: Callable[[NDArray[np.uint8]], bytes]
    decode: Callable[[bytes, int], NDArray[np.uint8]]


def crc32c(content: bytes) -> int:
    """Castagnoli checksum of some bytes, as zarr's `crc32c` codec appends it."""
    return int(google_crc32c.value(content))


def encode_chunk(rgb: NDArray[np.uint8], codec: CodecName) -> bytes:
    """Encode a patch (S, S, 3) uint8 as one chunk, checksum included."""
    content = CODECS[codec].encode(np.ascontiguousarray(rgb))
    return content + crc32c(content).to_bytes(_CRC_BYTES, "little")


def decode_chunk(chunk: bytes, codec: CodecName, side: int) -> NDArray[np.uint8]:
    """Decode one chunk to its patch (side, side, 3) uint8.

    Raises:
        DamagedArtifactError: the checksum does not match, or the decoder refuses.
    """
    content = chunk[:-_CRC_BYTES]
    if len(chunk) <= _CRC_BYTES or crc32c(content).to_bytes(_CRC_BYTES, "little") != chunk[-_CRC_BYTES:]:
        raise DamagedArtifactError("checksum mismatch")
    try:
        return CODECS[codec].decode(content, side)
    except (RuntimeError, ValueError) as error:
        raise DamagedArtifactError(f"cannot be decoded ({error})") from error


def encode_jpeg(rgb: NDArray[np.uint8], level: int) -> bytes:
    """Encode (S, S, 3) RGB as a baseline JPEG of the given quality."""
    return bytes(imagecodecs.jpeg8_encode(rgb, level=level))


def decode_jpeg(content: bytes) -> NDArray[np.uint8]:
    """Decode a JPEG to (H, W, 3) RGB uint8."""
    return np.asarray(imagecodecs.jpeg8_decode(content), dtype=np.uint8)


def _encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    return encode_jpeg(rgb, JPEG_LEVEL)


def _decode_jpeg(content: bytes, side: int) -> NDArray[np.uint8]:
    rgb = decode_jpeg(content)
    if rgb.shape != (side, side, 3):
        raise ValueError(f"shape {rgb.shape}, expected {(side, side, 3)}")
    return rgb


def _encode_zstd(rgb: NDArray[np.uint8]) -> bytes:
    return bytes(imagecodecs.zstd_encode(rgb.tobytes(), level=ZSTD_LEVEL))


def _decode_zstd(content: bytes, side: int) -> NDArray[np.uint8]:
    # The size is given to the decoder, so that a few bytes cannot ask for gigabytes.
    raw = imagecodecs.zstd_decode(content, out=side * side * 3)
    return np.frombuffer(raw, dtype=np.uint8).reshape(side, side, 3)


CODECS: dict[CodecName, Codec] = {
    "jpeg": Codec([{"name": "imagecodecs_jpeg", "configuration": {"level": JPEG_LEVEL}}], _encode_jpeg, _decode_jpeg),
    "zstd": Codec(
        [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}],
        _encode_zstd,
        _decode_zstd,
    ),
}
