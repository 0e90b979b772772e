"""Teach zarr the codecs of our chunks, so that stock zarr reads a store.

Our own reading and writing does not go through zarr, whose pipeline costs more than the JPEG itself; this file is for
everybody else. zarr finds it by entry point wherever the package is installed; importing it does the same. The name
`imagecodecs_jpeg` is that of the package `imagecodecs-zarr`; where that one is installed it is left to serve.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.errors import UnknownCodecError
from zarr.registry import get_codec_class, register_codec

from wsi_detect.tiling.chunk import JPEG_LEVEL, JPEG_NAME, TILES_NAME, TILES_VERSION, decode_jpeg, encode_jpeg
from wsi_detect.tiling.jpeg_tiles import decode_tiles

#: Value of pixels that are not there: white.
FILL = 255


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
        return {"name": JPEG_NAME, "configuration": {"level": self.level}}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse what is not a stack of RGB patches of bytes."""
        _check(JPEG_NAME, shape, dtype)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise: the size of a JPEG depends on its content."""
        raise ValueError(f"{JPEG_NAME} has no fixed size")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        rgb = _one_patch(chunk_spec)
        decode_jpeg(chunk_data.to_bytes(), rgb[0])
        return chunk_spec.prototype.nd_buffer.from_numpy_array(rgb)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        rgb = np.ascontiguousarray(chunk_data.as_numpy_array()).reshape(chunk_spec.shape[-3:])
        return chunk_spec.prototype.buffer.from_bytes(encode_jpeg(rgb, self.level))


@dataclass(frozen=True)
class JpegTilesCodec(ArrayBytesCodec):
    """One square RGB patch per chunk, (1, S, S, 3) uint8, as the slide's own JPEG tiles; white where there is none.

    It only decodes: what is not there already as tiles of a slide cannot be stored verbatim.
    """

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Make the codec from its entry in zarr's metadata.

        Raises:
            ValueError: another version.
        """
        configuration = data.get("configuration")
        if configuration != {"version": TILES_VERSION}:
            raise ValueError(f"{TILES_NAME} of configuration {configuration}; this program knows {TILES_VERSION}")
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Return the entry for zarr's metadata."""
        return {"name": TILES_NAME, "configuration": {"version": TILES_VERSION}}

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Refuse an array it is not made for; within a shard zarr asks nowhere else."""
        _check_tiles(array_spec.shape, array_spec.dtype)
        if array_spec.fill_value != FILL:
            raise ValueError(f"{TILES_NAME} needs the fill value {FILL}, got {array_spec.fill_value}")
        return self

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse what is not a stack of square RGB patches of bytes, one a chunk."""
        _check_tiles(shape, dtype)
        if chunk_grid.chunk_shape != (1, *shape[1:]):
            raise ValueError(f"{TILES_NAME} stores one patch a chunk, not {chunk_grid.chunk_shape} of {shape}")

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise: the size of a tile depends on its content."""
        raise ValueError(f"{TILES_NAME} has no fixed size")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        rgb = _one_patch(chunk_spec)
        _, lost = decode_tiles(chunk_data.to_bytes(), chunk_spec.shape[1], None, rgb[0])
        if lost:
            # Stock zarr has no way to say how much of a patch is white because it is broken.
            raise ValueError(f"{TILES_NAME}: tiles of {lost} px cannot be decoded; PatchStore.read gives the others")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(rgb)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        raise ValueError(f"{TILES_NAME} stores tiles verbatim; write with PatchStore")


def _check(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    if len(shape) != 4 or shape[-1] != 3 or dtype.to_native_dtype() != np.uint8:
        raise ValueError(f"{name} stores uint8 arrays of shape (N, H, W, 3), got {dtype} {shape}")


def _check_tiles(shape: tuple[int, ...], dtype: Any) -> None:
    _check(TILES_NAME, shape, dtype)
    if shape[1] != shape[2]:
        raise ValueError(f"{TILES_NAME} stores square patches, got {shape}")


def _one_patch(chunk_spec: ArraySpec) -> NDArray[np.uint8]:
    """Memory for a chunk, which has to be one patch."""
    if chunk_spec.shape[0] != 1:
        raise ValueError(f"one patch a chunk is stored, not {chunk_spec.shape[0]}")
    return np.empty(chunk_spec.shape, dtype=np.uint8)


def register() -> None:
    """Make the codecs known to zarr in this process."""
    register_codec(TILES_NAME, JpegTilesCodec)
    try:
        get_codec_class(JPEG_NAME)
    except (KeyError, UnknownCodecError):
        register_codec(JPEG_NAME, JpegCodec)


register()
