"""The patch store: the patches of one slide in a sharded zarr v3 group, complete or refused.

`patches.zarr/zarr.json` is written last and lists every shard with its size and checksum; a folder without it is an
unfinished store. Stock zarr reads the same files, but shows a shard or chunk that vanished as white patches; here
absence is an error. An *index-only* store has no pixels: they are read from the slide.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, SchemaVersionError, StaleArtifactError
from wsi_detect.geometry import Box, PatchFrame
from wsi_detect.schema import SCHEMA_VERSION
from wsi_detect.slides.reader import SlideInfo, SlideReader
from wsi_detect.slides.resample import RegionPixels, read_at_mpp
from wsi_detect.tiling import shard
from wsi_detect.tiling.chunk import decode_chunk
from wsi_detect.tiling.grid import TileGrid

KIND = "wsi_detect.patches"
ROOT = "zarr.json"
StoreCodec = Literal["jpeg", "zstd", "none"]

#: Columns with one number a patch; the second group is measured on pixels, so an index-only store has NaN there.
MASK_COLUMNS = ("coverage",)
PIXEL_COLUMNS = ("no_data", "unreadable", "focus", "stain", "crowding")


@dataclass(frozen=True, eq=False)
class PatchStore:
    """The patches of one slide, one row a patch, rows ordered by patch id.

    Attributes:
        path: the zarr group.
        slide: facts of the slide; a store does not know where its slide lies, so unless one was given to `open`,
            `slide.path` is the slide id.
        grid: where patches lie, slide px.
        patch_px: side of a patch, px.
        mpp: µm per px of the patches, after resampling.
        codec: `jpeg`, `zstd`, or `none` for an index-only store.
        shards: rows of each shard; of an index-only store, the runs of rows a stage commits together.
        patch_ids: (N,) int64, index of each row's patch in the grid.
        columns: (N,) float32 each: coverage, no_data, unreadable, focus, stain, crowding.
        attributes: everything the group says about itself.
    """

    path: Path
    slide: SlideInfo
    grid: TileGrid
    patch_px: int
    mpp: float
    codec: StoreCodec
    shards: list[range]
    patch_ids: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float32]]
    attributes: Mapping[str, Any]
    _reader: SlideReader | None = None
    _origins: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.int64), repr=False)
    _indices: dict[int, NDArray[np.uint64]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path, slide: SlideReader | None = None) -> Self:
        """Open a finished store and check that every shard is there in full size.

        Args:
            path: the folder `patches.zarr`.
            slide: the open slide; needed to read pixels of an index-only store.

        Raises:
            MissingArtifactError: the store is unfinished, or a shard is missing.
            DamagedArtifactError: a shard has another size than recorded, or the metadata makes no sense.
            SchemaVersionError: it was written under another schema version.
            StaleArtifactError: `slide` is another slide than the one tiled.
        """
        facts = read_attributes(path)
        try:
            store = cls._from_attributes(path, facts, slide)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, (MissingArtifactError, DamagedArtifactError)):
                raise
            raise DamagedArtifactError(f"{path}: metadata invalid ({error!r}); tile the slide again") from error
        for number, entry in enumerate(facts["shards"]):
            check_size(shard_path(path, number), entry["size"], store._label(number))
        if slide is not None:
            _check_slide(store, slide.info)
        return store

    @classmethod
    def _from_attributes(cls, path: Path, facts: Mapping[str, Any], slide: SlideReader | None) -> Self:
        grid = TileGrid(**facts["grid"])
        rows, run = int(facts["patches"]), int(facts["shard_patches"])
        patch_ids = shard.read_column(path / "patch_id", rows, "int64")
        if facts["codec"] not in ("jpeg", "zstd", "none") or run < 1 or facts["patch_px"] < 1:
            raise ValueError("codec, shard_patches or patch_px")
        if rows and not 0 <= int(patch_ids[0]) <= int(patch_ids[-1]) < len(grid):
            raise ValueError("patch ids outside the grid")
        names = [*MASK_COLUMNS, *PIXEL_COLUMNS]
        return cls(
            path=path,
            slide=slide.info if slide is not None else slide_from(facts["slide"]),
            grid=grid,
            patch_px=int(facts["patch_px"]),
            mpp=float(facts["mpp"]),
            codec=facts["codec"],
            shards=runs_of(rows, run),
            patch_ids=patch_ids,
            columns={name: shard.read_column(path / name, rows, "float32") for name in names},
            attributes=facts,
            _reader=slide,
            _origins=grid.origins()[patch_ids],
        )

    def __len__(self) -> int:
        return len(self.patch_ids)

    @property
    def index_only(self) -> bool:
        """Whether pixels come from the slide."""
        return self.codec == "none"

    @property
    def coverage(self) -> NDArray[np.float32]:
        """Fraction of each patch inside the cell mask, (N,)."""
        return self.columns["coverage"]

    @property
    def origin_px(self) -> NDArray[np.int64]:
        """Top-left corner of each patch, (N, 2) as x, y, slide px."""
        return self._origins

    @property
    def cell_area_px(self) -> float:
        """Area of the slide's cell mask, slide px², in stored patches or not."""
        return float(self.attributes["mask"]["area_px"])

    def frame(self, row: int) -> PatchFrame:
        """Return where the patch of a row lies; its scale is slide px per patch px."""
        x, y = self._origins[row]
        return PatchFrame(float(x), float(y), self.grid.patch / self.patch_px)

    def read(self, row: int) -> RegionPixels:
        """Read the patch of a row: (patch_px, patch_px, 3) uint8, and how much of it has no data or was unreadable.

        Raises:
            IndexError: there is no such row.
            MissingArtifactError: its shard or chunk is gone, or the store is index-only and was opened without slide.
            DamagedArtifactError: its checksum does not match.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a store of {len(self)} patches")
        if self.index_only:
            return self._read_slide(row)
        number, place = divmod(row, int(self.attributes["shard_patches"]))
        label = f"patch {int(self.patch_ids[row])} (place {place} of {self._label(number)})"
        offset, length = self._index(number)[place]
        if offset == shard.ABSENT:
            raise MissingArtifactError(f"{label} missing in {self.path}; tile the slide again")
        with shard_path(self.path, number).open("rb") as stream:
            stream.seek(int(offset))
            content = stream.read(int(length))
        try:
            rgb = decode_chunk(content, "zstd" if self.codec == "zstd" else "jpeg", self.patch_px)
        except DamagedArtifactError as error:
            raise DamagedArtifactError(f"{label} is damaged: {error}, in {self.path}; tile the slide again") from error
        return RegionPixels(rgb, float(self.columns["no_data"][row]), float(self.columns["unreadable"][row]))

    def batches(
        self, size: int, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Yield the row numbers (B,) and pixels (B, patch_px, patch_px, 3) of patches, at most `size` at a time."""
        wanted = range(len(self)) if rows is None else rows
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
            yield np.array(part, dtype=np.int64), np.stack([self.read(row).rgb for row in part])

    def verify(self) -> None:
        """Read every shard and hold it against its checksum.

        Raises:
            DamagedArtifactError: one differs from what was written.
        """
        for number, entry in enumerate(self.attributes["shards"]):
            path = shard_path(self.path, number)
            if digest_of(path.read_bytes()) != entry["sha256"]:
                raise DamagedArtifactError(f"{self._label(number)} fails its checksum ({path}); tile the slide again")

    def _read_slide(self, row: int) -> RegionPixels:
        if self._reader is None:
            raise MissingArtifactError(f"{self.path} is index-only; open it together with its slide to read pixels")
        x, y = self._origins[row]
        return read_at_mpp(self._reader, int(x), int(y), self.grid.patch, self.patch_px)

    def _index(self, number: int) -> NDArray[np.uint64]:
        if number not in self._indices:
            capacity = int(self.attributes["shard_patches"])
            self._indices[number] = shard.read_index(shard_path(self.path, number), capacity, self._label(number))
        return self._indices[number]

    def _label(self, number: int) -> str:
        return f"shard {number + 1} of {len(self.shards)}"


def shard_path(store: Path, number: int) -> Path:
    """File of a shard, as zarr's default chunk keys name it."""
    return store / "images" / "c" / str(number) / "0" / "0" / "0"


def digest_of(content: bytes) -> str:
    """Hash of a shard's file.

    Not a crc32c: chunks and index end in one of their own, and changes that leave those right leave it right too.
    """
    return hashlib.sha256(content).hexdigest()


def check_size(path: Path, size: int, label: str) -> None:
    """Refuse a file that is absent or has another size than recorded.

    Raises:
        MissingArtifactError: it is not there.
        DamagedArtifactError: it has another size.
    """
    if not path.exists():
        raise MissingArtifactError(f"{label} missing ({path}); tile the slide again")
    found = path.stat().st_size
    if found != size:
        raise DamagedArtifactError(
            f"{label} is damaged: {found} bytes, {size} were written ({path}); tile the slide again"
        )


def runs_of(rows: int, size: int) -> list[range]:
    """Cut `rows` rows into runs of `size`."""
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


def read_attributes(path: Path) -> dict[str, Any]:
    """Read what a finished store says about itself.

    Raises:
        MissingArtifactError: there is no finished store.
        DamagedArtifactError: the metadata is not ours.
        SchemaVersionError: another schema version.
    """
    if not (path / ROOT).exists():
        state = "unfinished" if path.exists() else "missing"
        raise MissingArtifactError(f"the patch store {path} is {state}; tile the slide (again)")
    facts = artifact.read_json(path / ROOT).get("attributes")
    if not isinstance(facts, dict) or facts.get("kind") != KIND:
        raise DamagedArtifactError(f"{path} is not a patch store of this program")
    if facts.get("schema_version") != SCHEMA_VERSION:
        raise SchemaVersionError(
            f"{path} has schema version {facts.get('schema_version')}, this program writes {SCHEMA_VERSION}"
        )
    return facts


def slide_facts(info: SlideInfo) -> dict[str, Any]:
    """Return the facts of a slide a store may keep: all but the path, since file names can hold a patient's name."""
    facts = asdict(info)
    del facts["path"]
    facts["bounds"] = None if info.bounds is None else [float(value) for value in info.bounds]
    return facts


def slide_from(facts: Mapping[str, Any]) -> SlideInfo:
    """Rebuild a slide's facts from a store; its path is its id."""
    values = dict(facts)
    values["bounds"] = None if values["bounds"] is None else Box(*values["bounds"])
    # JSON knows lists only.
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return SlideInfo(path=Path(values["slide_id"]), **values)


def _check_slide(store: PatchStore, info: SlideInfo) -> None:
    kept = slide_from(store.attributes["slide"])
    same = (kept.slide_id, kept.width_px, kept.height_px, kept.mpp) == (
        info.slide_id,
        info.width_px,
        info.height_px,
        info.mpp,
    )
    if not same:
        raise StaleArtifactError(
            f"{store.path} was made from slide {kept.slide_id}, {kept.width_px} x {kept.height_px} px at {kept.mpp} "
            f"µm/px, not from {info.slide_id}, {info.width_px} x {info.height_px} px at {info.mpp}; tile it again"
        )
