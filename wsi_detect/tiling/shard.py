"""The bytes of a zarr v3 store, written and parsed by ourselves: shards, small columns, metadata.

A shard is its chunks one after the other, then an index (u64 offset and length of each chunk, all ones where there is
none) and the index's crc32c. zarr's own writer gives the same bytes from the same chunks, an eighth as fast.
"""

import itertools
import os
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError
from wsi_detect.tiling.chunk import METADATA, ZSTD_LEVEL, PixelCodec, crc32c, with_checksum

#: Offset and length of a chunk that is not there.
ABSENT = (2**64 - 1, 2**64 - 1)
#: What to do about a store that is not whole.
REMEDY = "mend it with `wsi-detect store repair`, or tile the slide again"
#: Absent pixels read as white by a stock zarr reader; ours refuses to read them at all.
FILL = 255
_CRC: dict[str, Any] = {"name": "crc32c"}
_LITTLE: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}


def pack(chunks: Sequence[bytes | None], capacity: int) -> bytes:
    """Join chunks to a shard with room for `capacity` of them; None and the rest of the index stay absent."""
    index = np.full((capacity, 2), ABSENT[0], dtype="<u8")
    there = [k for k, chunk in enumerate(chunks) if chunk is not None]
    content = [chunk for chunk in chunks if chunk is not None]
    lengths = np.array([len(chunk) for chunk in content], dtype="<u8")
    index[there, 0] = np.cumsum(lengths) - lengths
    index[there, 1] = lengths
    table = index.tobytes()
    return b"".join([*content, with_checksum(table)])


class ShardFiles:
    """The shards of a store, for reading; safe to use from several threads.

    Files stay open, the `_MOST_OPEN` used last of all stores of a process. One is closed when nobody reads it any more.
    """

    def __init__(self, path_of: Callable[[int], Path], count: int, capacity: int) -> None:
        """Prepare; nothing is opened yet.

        Args:
            path_of: number of a shard → its file.
            count: shards of the store, for messages.
            capacity: chunks a shard has room for.
        """
        self._path_of, self._count, self._capacity = path_of, count, capacity
        self._indices: dict[int, list[tuple[int, int]]] = {}
        self._token = next(_tokens)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process without what is open."""
        return ShardFiles, (self._path_of, self._count, self._capacity)

    def chunk(self, number: int, place: int) -> bytes | None:
        """Return a chunk as it lies in a shard, None if the shard has none at that place.

        Raises:
            MissingArtifactError: there is no such shard.
            DamagedArtifactError: it is too short, or its index fails its checksum.
        """
        handle = _open_files.get((self._token, number))
        if handle is None:
            handle = self._open(number)
        index = self._indices.get(number)
        if index is None:
            index = self._indices[number] = self._read_index(number, handle)
        offset, length = index[place]
        if (offset, length) == ABSENT:
            return None
        return os.pread(handle.number, length, offset)

    def label(self, number: int) -> str:
        """Name a shard in a message."""
        return f"shard {number + 1} of {self._count}"

    def close(self) -> None:
        """Give the files back; they are opened again when needed."""
        _open_files.drop(self._token)

    def __del__(self) -> None:
        self.close()

    def _open(self, number: int) -> "_File":
        path = self._path_of(number)
        try:
            handle = _File(path)
        except FileNotFoundError as error:
            raise MissingArtifactError(f"{self.label(number)} missing ({path}); {REMEDY}") from error
        _open_files.put((self._token, number), handle)
        return handle

    def _read_index(self, number: int, handle: "_File") -> list[tuple[int, int]]:
        """Offset and length of each chunk."""
        label, path = self.label(number), self._path_of(number)
        size, length = self._capacity * 16 + 4, os.fstat(handle.number).st_size
        content = os.pread(handle.number, size, max(length - size, 0))
        if length < size or crc32c(content[:-4]).to_bytes(4, "little") != content[-4:]:
            raise DamagedArtifactError(f"{label} is damaged: its index fails its checksum ({path}); {REMEDY}")
        table = np.frombuffer(content[:-4], dtype="<u8").reshape(self._capacity, 2)
        index = [(offset, count) for offset, count in table.tolist()]
        if any(offset + count > length - size for offset, count in index if (offset, count) != ABSENT):
            raise DamagedArtifactError(f"{label} is damaged: its index points outside the file ({path}); {REMEDY}")
        return index


class _File:
    """An open file that closes itself when the last thread that reads it lets it go."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _OpenFiles:
    """The files used last, by store and shard."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: OrderedDict[tuple[int, int], _File] = OrderedDict()
        self._gone: deque[int] = deque()
        self._lock = threading.Lock()
        # A thread of the parent may hold the lock at the moment of the fork, and is not there to give it back.
        os.register_at_fork(after_in_child=self._renew_lock)

    def get(self, key: tuple[int, int]) -> _File | None:
        """Return an open file, if it still is."""
        with self._lock:
            self._purge()
            found = self._files.get(key)
            if found is not None:
                self._files.move_to_end(key)
            return found

    def put(self, key: tuple[int, int], file: _File) -> None:
        """Keep a file, at the cost of the one not used for longest."""
        with self._lock:
            self._purge()
            self._files[key] = file
            while len(self._files) > self._most:
                self._files.popitem(last=False)

    def drop(self, store: int) -> None:
        """Let go of a store's files, now or when the lock is next held.

        The garbage collector may call this in the middle of `get`: to wait here would be to wait for oneself.
        """
        self._gone.append(store)
        if self._lock.acquire(blocking=False):
            try:
                self._purge()
            finally:
                self._lock.release()

    def _purge(self) -> None:
        while self._gone:
            store = self._gone.popleft()
            for key in [key for key in self._files if key[0] == store]:
                del self._files[key]

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()


#: Half of what a process may usually have open stays free.
_MOST_OPEN = 512
_open_files = _OpenFiles(_MOST_OPEN)
_tokens = itertools.count()


def images_metadata(patches: int, side: int, shard_patches: int, codec: PixelCodec) -> dict[str, Any]:
    """Metadata of the array `images` (patches, side, side, 3) uint8: one patch a chunk, `shard_patches` a shard."""
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, side, side, 3],
            "codecs": [*METADATA[codec], _CRC],
            "index_codecs": [_LITTLE, _CRC],
            "index_location": "end",
        },
    }
    return _array((patches, side, side, 3), "uint8", (shard_patches, side, side, 3), FILL, [sharding])


def plane_metadata(shape: tuple[int, int], side: int, chunk: int, fill: int) -> dict[str, Any]:
    """Metadata of a plane (H, W) of uint16: chunks of `chunk` px squared, shards of `side` px squared, zstd."""
    codecs = [_LITTLE, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}}, _CRC]
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [chunk, chunk],
            "codecs": codecs,
            "index_codecs": [_LITTLE, _CRC],
            "index_location": "end",
        },
    }
    return _array(shape, "uint16", (side, side), fill, [sharding])


def group_metadata(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a zarr group."""
    return {"attributes": dict(attributes), "node_type": "group", "zarr_format": 3}


def column_metadata(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    """Metadata of a small array (N,) or (N, 2), one chunk."""
    return _array(shape, dtype, (max(shape[0], 1), *shape[1:]), 0, [_LITTLE, _CRC])


def column_path(folder: Path, dimensions: int) -> Path:
    """File of a column's one chunk."""
    return folder.joinpath("c", *["0"] * dimensions)


def write_column(folder: Path, values: NDArray[Any]) -> None:
    """Write a small array (N,) or (N, 2) as a zarr array of one chunk."""
    if len(values):
        content = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
        artifact.write_bytes(column_path(folder, values.ndim), with_checksum(content))
    artifact.write_json(folder / "zarr.json", column_metadata(values.shape, values.dtype.name))


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
    path = column_path(folder, len(shape))
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingArtifactError(f"column {folder.name!r} is missing ({path}); {REMEDY}") from error
    body = content[:-4]
    if len(body) != int(np.prod(shape)) * kind.itemsize or crc32c(body).to_bytes(4, "little") != content[-4:]:
        raise DamagedArtifactError(f"column {folder.name!r} fails its checksum ({path}); {REMEDY}")
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
