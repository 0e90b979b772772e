"""The evidence map of one slide, `heatmap.zarr`: a zarr v3 group with one plane and a few columns, complete or refused.

The plane `evidence` is uint16: evidence is code / 65534, and 65535 says that nobody looked there. Steps of 1.5e-5 are
finer than what a change of batch size may do, at little more than half the packed bytes of float32, whose last bits no
packer can pack; float16 is up to 2.4e-4 off, and uint8 would show steps of its own. The fill value is 65535 too, so a
chunk that is lost reads as "not looked at" in a stock zarr reader and never as "no evidence"; here its absence is an
error. `scale_factor` and `_FillValue` are the words of the CF conventions, which xarray and others apply by themselves.

`zarr.json` of the group is written last and lists every shard with its size and checksum.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError
from wsi_detect.schema import SCHEMA_VERSION
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.tiling import shard
from wsi_detect.tiling.chunk import ZSTD_LEVEL, with_checksum, without_checksum
from wsi_detect.tiling.patch_store import ROOT, digest_of, read_root, slide_from

KIND = "wsi_detect.evidence"
#: Name of a slide's map in its folder.
HEATMAP = "heatmap.zarr"
PLANE = "evidence"
#: Code of evidence 1, and of a px nobody looked at.
FULL, NOT_LOOKED = 65534, 65535
#: Sides of chunks and shards, map px.
CHUNK, SHARD = 256, 2048
#: States of a patch, as the column `state` has them; 0 is none, so that a column that is lost cannot read as done.
STATES = ("", "done", "unreadable", "failed")
#: Columns, one number a patch of the store.
COLUMNS = {
    "patch_id": "int64",
    "state": "uint8",
    "no_data": "float32",
    "unreadable": "float32",
    "core_max": "float32",
    "core_mean": "float32",
}
_EXACT = 1e-6
_REMEDY = "delete the folder and map the slide again"

Codes = NDArray[np.uint16]


def encode(evidence: NDArray[np.floating]) -> Codes:
    """Evidence in [0, 1] → codes; NaN is a px nobody looked at."""
    looked = ~np.isnan(evidence)
    codes: Codes = np.rint(np.clip(np.where(looked, evidence, 0), 0, 1) * FULL).astype(np.uint16)
    codes[~looked] = NOT_LOOKED
    return codes


def decode(codes: Codes) -> NDArray[np.float32]:
    """Codes → evidence in [0, 1], NaN where nobody looked."""
    values = (codes / np.float64(FULL)).astype(np.float32)
    values[codes == NOT_LOOKED] = np.nan
    return values


def write_plane(store: Path, row: int, band: Codes) -> list[dict[str, Any]]:
    """Write one row of shards of the plane.

    Args:
        store: folder of the map.
        row: number of the row of shards.
        band: (at most `SHARD`, W) codes.

    Returns:
        What the group says of each shard. One where nobody looked is left out.
    """
    entries = []
    for column, x in enumerate(range(0, band.shape[1], SHARD)):
        part = band[:, x : x + SHARD]
        if (part == NOT_LOOKED).all():
            continue
        content = shard.pack(_chunks(part), (SHARD // CHUNK) ** 2)
        artifact.write_bytes(_shard_path(store, row, column), content)
        entries.append({"row": row, "column": column, "size": len(content), "sha256": digest_of(content)})
    return entries


def write_group(
    store: Path, facts: Mapping[str, Any], columns: Mapping[str, NDArray[Any]], shards: Sequence[Mapping[str, Any]]
) -> None:
    """Write all but the shards; the group's own file, which makes the map a whole one, is the last.

    Args:
        store: folder of the map.
        facts: of the group, see `EvidenceMap`.
        columns: `COLUMNS`, one number a patch.
        shards: what `write_plane` gave.
    """
    shape = facts["shape"]
    attributes = {"scale_factor": 1 / FULL, "add_offset": 0.0, "_FillValue": NOT_LOOKED, "units": "1"}
    metadata = shard.plane_metadata((shape[0], shape[1]), SHARD, CHUNK, NOT_LOOKED)
    artifact.write_json(store / PLANE / ROOT, {**metadata, "attributes": attributes, "dimension_names": ["y", "x"]})
    for name, kind in COLUMNS.items():
        shard.write_column(store / name, columns[name].astype(kind))
    whole = hashlib.sha256(json.dumps([facts["key"], list(shards)], sort_keys=True).encode()).hexdigest()
    entire = {**facts, "kind": KIND, "schema_version": SCHEMA_VERSION, "shards": list(shards), "digest": whole}
    artifact.write_json(store / ROOT, shard.group_metadata(entire))


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a finished map says about itself; raises what `read_root` does."""
    return read_root(path, KIND, "evidence map", "map")


@dataclass(frozen=True, eq=False)
class EvidenceMap:
    """How much evidence of the region a model was trained to see there is at each place of a slide.

    Attributes:
        path: the zarr group.
        slide: facts of the slide; its path is its id.
        shape: rows and columns of px.
        px: side of a px of the map, slide px; px (row, column) covers x from `column * px`, y from `row * px` on.
        mpp: µm per px of the map.
        threshold: above which the model calls a px evidence.
        columns: `COLUMNS`, (N,) each, one number a patch of the store, in its order.
        attributes: everything the group says about itself.
    """

    path: Path
    slide: SlideInfo
    shape: tuple[int, int]
    px: float
    mpp: float
    threshold: float
    columns: Mapping[str, NDArray[Any]]
    attributes: Mapping[str, Any]
    _files: shard.ShardFiles
    _there: frozenset[int]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a finished map and check that every shard is there in full size.

        Raises:
            MissingArtifactError: the map is unfinished, or a shard is missing.
            DamagedArtifactError: a shard has another size than recorded, or the metadata makes no sense.
            SchemaVersionError: it was written under another schema version.
        """
        facts = read_facts(path)
        try:
            height, width = (int(side) for side in facts["shape"])
            rows, wide = int(facts["patches"]), _shards(width)
            there = {entry["row"] * wide + entry["column"]: int(entry["size"]) for entry in facts["shards"]}
            opened = cls(
                path=path,
                slide=slide_from(facts["slide"]),
                shape=(height, width),
                px=float(facts["px"]),
                mpp=float(facts["mpp"]),
                threshold=float(facts["threshold"]),
                columns={name: shard.read_column(path / name, rows, kind) for name, kind in COLUMNS.items()},
                attributes=facts,
                _files=shard.ShardFiles(partial(_numbered, path, wide), _shards(height) * wide, (SHARD // CHUNK) ** 2),
                _there=frozenset(there),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, DamagedArtifactError):
                raise
            raise DamagedArtifactError(f"{path}: metadata invalid ({error!r}); {_REMEDY}") from error
        for number, size in there.items():
            _check(_numbered(path, wide, number), size)
        return opened

    def codes(self, rows: tuple[int, int], columns: tuple[int, int]) -> Codes:
        """Read a rectangle of the plane as it is stored: (H, W), see `decode`.

        Args:
            rows: first row and the one behind the last, map px.
            columns: likewise.

        Raises:
            ValueError: the rectangle leaves the map.
            MissingArtifactError, DamagedArtifactError: a shard is gone, or fails its checksum.
        """
        inside = 0 <= rows[0] <= rows[1] <= self.shape[0] and 0 <= columns[0] <= columns[1] <= self.shape[1]
        if not inside:
            raise ValueError(f"rows {rows} and columns {columns} of a map of {self.shape[0]} x {self.shape[1]} px")
        out = np.full((rows[1] - rows[0], columns[1] - columns[0]), NOT_LOOKED, np.uint16)
        for y in range(rows[0] // CHUNK, -(-rows[1] // CHUNK)):
            for x in range(columns[0] // CHUNK, -(-columns[1] // CHUNK)):
                self._paste(out, (y, x), (rows[0], columns[0]))
        return out

    def evidence(self, rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.float32]:
        """Read a rectangle: (H, W) in [0, 1], NaN where nobody looked; arguments and errors as for `codes`."""
        return decode(self.codes(rows, columns))

    def peaks(self, boxes: NDArray[np.float64], *, whole: bool = False) -> NDArray[np.float32]:
        """Highest evidence in boxes, of all px of the map they touch: (N,), NaN where nobody looked at any.

        Args:
            boxes: (N, 4) xyxy, slide px; what lies beyond the slide has no px.
            whole: NaN also where there is a single px nobody looked at.
        """
        found = np.full(len(boxes), np.nan, np.float32)
        sides = self.shape[1], self.shape[0], self.shape[1], self.shape[0]
        # A corner of a px, as a float, may lie a hair beyond it.
        low, high = np.floor(boxes[:, :2] / self.px + _EXACT), np.ceil(boxes[:, 2:] / self.px - _EXACT)
        edges = np.column_stack([low, high])
        for k, (x0, y0, x1, y1) in enumerate(np.clip(edges, 0, sides).astype(np.int64).tolist()):
            codes = self.codes((y0, max(y1, y0)), (x0, max(x1, x0)))
            looked = codes[codes != NOT_LOOKED]
            if len(looked) and (len(looked) == codes.size or not whole):
                found[k] = looked.max() / np.float64(FULL)
        return found

    def _paste(self, out: Codes, at: tuple[int, int], origin: tuple[int, int]) -> None:
        """Lay the chunk `at` into `out`, whose first px is `origin`."""
        per = SHARD // CHUNK
        number = at[0] // per * _shards(self.shape[1]) + at[1] // per
        chunk = self._files.chunk(number, at[0] % per * per + at[1] % per) if number in self._there else None
        if chunk is None:
            return
        try:
            content = imagecodecs.zstd_decode(without_checksum(chunk))
            codes = np.frombuffer(content, "<u2").reshape(CHUNK, CHUNK)
        except (RuntimeError, ValueError) as error:
            where = self._files.label(number)
            raise DamagedArtifactError(f"{self.path}: {where} cannot be decoded ({error}); {_REMEDY}") from error
        y, x = at[0] * CHUNK - origin[0], at[1] * CHUNK - origin[1]
        y0, x0 = max(y, 0), max(x, 0)
        y1, x1 = min(y + CHUNK, out.shape[0]), min(x + CHUNK, out.shape[1])
        out[y0:y1, x0:x1] = codes[y0 - y : y1 - y, x0 - x : x1 - x]


def _chunks(part: Codes) -> list[bytes | None]:
    """Chunks of a shard, row by row; None where nobody looked."""
    whole = np.full((SHARD, SHARD), NOT_LOOKED, "<u2")
    whole[: part.shape[0], : part.shape[1]] = part
    tiles = [whole[y : y + CHUNK, x : x + CHUNK] for y in range(0, SHARD, CHUNK) for x in range(0, SHARD, CHUNK)]
    return [None if (tile == NOT_LOOKED).all() else _pack(tile) for tile in tiles]


def _pack(tile: NDArray[Any]) -> bytes:
    content = np.ascontiguousarray(tile).tobytes()
    return with_checksum(bytes(imagecodecs.zstd_encode(content, level=ZSTD_LEVEL)))


def _shards(side: int) -> int:
    return -(-side // SHARD)


def _shard_path(store: Path, row: int, column: int) -> Path:
    return store / PLANE / "c" / str(row) / str(column)


def _numbered(store: Path, wide: int, number: int) -> Path:
    return _shard_path(store, number // wide, number % wide)


def _check(path: Path, size: int) -> None:
    if not path.exists():
        raise MissingArtifactError(f"shard {path} of an evidence map is missing; {_REMEDY}")
    if path.stat().st_size != size:
        raise DamagedArtifactError(
            f"shard {path} of an evidence map has {path.stat().st_size} bytes, {size} were written; {_REMEDY}"
        )
