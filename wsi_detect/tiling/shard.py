"""The bytes of a zarr v3 store, written and parsed by ourselves: shards, small columns, metadata.

A shard is its chunks one after the other, then an index (u64 offset and length of each chunk, all ones where there is
none) and the index's crc32c. zarr's own writer gives the same bytes from the same chunks, an eighth as fast.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError
from wsi_detect.tiling.chunk import CODECS, CodecName, crc32c

#: Offset and length of a chunk that is not there.
ABSENT = np.uint64(2**64 - 1)
#: Absent pixels read as white by a stock zarr reader; ours refuses to read them at all.
FILL = 255
_CRC: dict[str, Any] = {"name": "crc32c"}
_LITTLE: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}


def pack(chunks: Sequence[bytes], capacity: int) -> bytes:
    """Join chunks to a shard with room for `capacity` of them; the rest of the index stays absent."""
    index = np.full((capacity, 2), ABSENT, dtype="<u8")
    lengths = np.array([len(chunk) for chunk in chunks], dtype="<u8")
    index[: len(chunks), 0] = np.cumsum(lengths) - lengths
    index[: len(chunks), 1] = lengths
    table = index.tobytes()
    return b"".join(chunks) + table + crc32c(table).to_bytes(4, "little")


def read_index(path: Path, capacity: int, label: str) -> NDArray[np.uint64]:
    """Read a shard's index: (capacity, 2) offsets and lengths, `ABSENT` where there is no chunk.

    Raises:
        MissingArtifactError: there is no such shard.
        DamagedArtifactError: it is too short, or its index fails its checksum.
    """
    size = capacity * 16 + 4
    try:
        with path.open("rb") as stream:
            length = stream.seek(0, 2)
            stream.seek(max(length - size, 0))
            content = stream.read()
    except FileNotFoundError as error:
        raise MissingArtifactError(f"{label} missing ({path}); tile the slide again") from error
    if length < size or crc32c(content[:-4]).to_bytes(4, "little") != content[-4:]:
        raise DamagedArtifactError(f"{label} is damaged: its index fails its checksum ({path}); tile the slide again")
    index = np.frombuffer(content[:-4], dtype="<u8").reshape(capacity, 2).astype(np.uint64)
    present = index[index[:, 0] != ABSENT]
    if len(present) and int(present.sum(axis=1).max()) > length - size:
        raise DamagedArtifactError(f"{label} is damaged: its index points outside the file ({path})")
    return index


def images_metadata(patches: int, side: int, shard_patches: int, codec: CodecName) -> dict[str, Any]:
    """Metadata of the array `images` (patches, side, side, 3) uint8: one patch a chunk, `shard_patches` a shard."""
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, side, side, 3],
            "codecs": [*CODECS[codec].metadata, _CRC],
            "index_codecs": [_LITTLE, _CRC],
            "index_location": "end",
        },
    }
    return _array((patches, side, side, 3), "uint8", (shard_patches, side, side, 3), FILL, [sharding])


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a zarr group."""
    return {"attributes": dict(attributes), "node_type": "group", "zarr_format": 3}


def write_column(folder: Path, values: NDArray[Any]) -> None:
    """Write a small array (N,) or (N, 2) as a zarr array of one chunk."""
    shape = (max(len(values), 1), *values.shape[1:])
    codecs = [_LITTLE, _CRC]
    if len(values):
        content = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
        path = folder.joinpath("c", *["0"] * values.ndim)
        artifact.write_bytes(path, content + crc32c(content).to_bytes(4, "little"))
    artifact.write_json(folder / "zarr.json", _array(values.shape, values.dtype.name, shape, 0, codecs))


def read_column(folder: Path, rows: int, dtype: str, columns: int | None = None) -> NDArray[Any]:
    """Read what `write_column` wrote: (rows,) or (rows, columns).

    Raises:
        MissingArtifactError: the chunk is not there.
        DamagedArtifactError: it fails its checksum, or has another length.
    """
    shape = (rows,) if columns is None else (rows, columns)
    kind = np.dtype(dtype).newbyteorder("<")
    if rows == 0:
        return np.zeros(shape, dtype=dtype)
    path = folder.joinpath("c", *["0"] * len(shape))
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingArtifactError(f"column {folder.name!r} is missing ({path}); tile the slide again") from error
    body = content[:-4]
    if len(body) != int(np.prod(shape)) * kind.itemsize or crc32c(body).to_bytes(4, "little") != content[-4:]:
        raise DamagedArtifactError(f"column {folder.name!r} fails its checksum ({path}); tile the slide again")
    return np.frombuffer(body, dtype=kind).reshape(shape).astype(dtype)


def _array(
    shape: Sequence[int], dtype: str, chunk: Sequence[int], fill: int, codecs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "attributes": {},
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": list(codecs),
        "data_type": dtype,
        "fill_value": fill,
        "node_type": "array",
        "shape": list(shape),
        "zarr_format": 3,
    }
