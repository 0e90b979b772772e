"""Teach zarr the codec `imagecodecs_jpeg`, so that stock zarr reads (and would write) the same chunks.

Our own reading and writing does not go through zarr, whose pipeline costs more than the JPEG itself; this file is
for everybody else. The stored name and configuration are those of the package `imagecodecs-zarr`; where that one is
installed it is left to serve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.errors import UnknownCodecError
from zarr.registry import get_codec_class, register_codec

from wsi_detect.tiling.chunk import JPEG_LEVEL, decode_jpeg, encode_jpeg

NAME = "imagecodecs_jpeg"


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """One RGB patch per chunk, (1, H, W, 3) uint8, as a JPEG of quality `level`."""

    level: int = JPEG_LEVEL
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make the codec from its entry in zarr's metadata."""
        return cls(level=int(data.get("configuration", {}).get("level", JPEG_LEVEL)))

    def to_dict(self) -> dict[str, Any]:
        """Return the entry for zarr's metadata."""
        return {"name": NAME, "configuration": {"level": self.level}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse what is not a stack of RGB patches of bytes."""
        if len(shape) != 4 or shape[-1] != 3 or dtype.to_native_dtype() != np.uint8:
            raise ValueError(f"{NAME} stores uint8 arrays of shape (N, H, W, 3), got {dtype} {shape}")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise: the size of a JPEG depends on its content."""
        raise ValueError(f"{NAME} has no fixed size")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        rgb = decode_jpeg(chunk_data.to_bytes()).reshape(chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(rgb)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        rgb = np.ascontiguousarray(chunk_data.as_numpy_array()).reshape(chunk_spec.shape[-3:])
        return chunk_spec.prototype.buffer.from_bytes(encode_jpeg(rgb, self.level))


def register() -> None:
    """Make `imagecodecs_jpeg` known to zarr in this process, unless another package already has."""
    try:
        get_codec_class(NAME)
    except (KeyError, UnknownCodecError):
        register_codec(NAME, JpegCodec)
