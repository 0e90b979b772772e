"""The patch store: the patches of one slide in a sharded zarr v3 group, complete or refused.

`patches.zarr/zarr.json` is written last and lists every shard with its size and checksum; a folder without it is an
unfinished store. Stock zarr reads the same files, but shows a shard or chunk that vanished as white patches; here
absence is an error. An *index-only* store has no pixels: they are read from the slide.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, SchemaVersionError, StaleArtifactError
from wsi_detect.geometry import Box, PatchFrame
from wsi_detect.schema import SCHEMA_VERSION
from wsi_detect.slides.planes import plane_of
from wsi_detect.slides.reader import SlideInfo, SlideReader
from wsi_detect.slides.resample import RegionPixels, read_at_mpp
from wsi_detect.tiling import shard
from wsi_detect.tiling.chunk import PixelCodec, decode_chunk, without_checksum
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.jpeg_tiles import Window, canvas, single_jpeg
from wsi_detect.tiling.quality import QUALITY_COLUMNS

KIND = "wsi_detect.patches"
ROOT = "zarr.json"
StoreCodec = Literal[PixelCodec, "none"]

#: Columns with one number a patch; the second group is measured on pixels, so an index-only store has NaN there.
MASK_COLUMNS = ("coverage",)
PIXEL_COLUMNS = ("no_data", "unreadable", "skipped", "plane", *QUALITY_COLUMNS)


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
        codec: `jpeg_tiles` (the slide's own), `jpeg`, `zstd`, or `none` for an index-only store.
        shards: rows of each shard; of an index-only store, the runs of rows a stage commits together.
        patch_ids: (N,) int64, index of each row's patch in the grid.
        columns: (N,) float32 each: `MASK_COLUMNS` and `PIXEL_COLUMNS`.
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
    _origins: NDArray[np.int64]
    _files: shard.ShardFiles
    _reader: SlideReader | None = None

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
            check_size(shard_path(path, number), entry["size"], store._files.label(number))
        if slide is not None:
            _check_slide(store, slide.info)
        return store

    @classmethod
    def _from_attributes(cls, path: Path, facts: Mapping[str, Any], slide: SlideReader | None) -> Self:
        grid = TileGrid(**facts["grid"])
        rows, run = int(facts["patches"]), int(facts["shard_patches"])
        patch_ids = shard.read_column(path / "patch_id", rows, "int64")
        if facts["codec"] not in (*get_args(PixelCodec), "none") or run < 1 or facts["patch_px"] < 1:
            raise ValueError("codec, shard_patches or patch_px")
        if rows and not 0 <= int(patch_ids[0]) <= int(patch_ids[-1]) < len(grid):
            raise ValueError("patch ids outside the grid")
        names = [*MASK_COLUMNS, *PIXEL_COLUMNS]
        shards = runs_of(rows, run)
        return cls(
            path=path,
            slide=slide.info if slide is not None else slide_from(facts["slide"]),
            grid=grid,
            patch_px=int(facts["patch_px"]),
            mpp=float(facts["mpp"]),
            codec=facts["codec"],
            shards=shards,
            patch_ids=patch_ids,
            columns={name: shard.read_column(path / name, rows, "float32") for name in names},
            attributes=facts,
            _origins=grid.origins()[patch_ids],
            _files=shard.ShardFiles(partial(shard_path, path), len(shards), run),
            _reader=slide,
        )

    def __len__(self) -> int:
        return len(self.patch_ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the shards' files back; a later read opens them again."""
        self._files.close()

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

    @property
    def ground(self) -> tuple[float, float, float]:
        """Colour of the slide's clean glass."""
        red, green, blue = self.attributes["mask"]["ground"]
        return float(red), float(green), float(blue)

    def frame(self, row: int) -> PatchFrame:
        """Return where the patch of a row lies; its scale is slide px per patch px."""
        x, y = self._origins[row]
        return PatchFrame(float(x), float(y), self.grid.patch / self.patch_px)

    def read(self, row: int, window: Window | None = None, out: NDArray[np.uint8] | None = None) -> RegionPixels:
        """Read the patch of a row, or a window of it; several threads may do so at once.

        Args:
            row: of the store.
            window: x0, y0, x1, y1 within the patch, patch px; None for all of it. Of a patch kept as the slide's own
                tiles only those it touches are decoded.
            out: contiguous (height, width, 3) uint8 to read into; spares the memory of a new one.

        Returns:
            (height, width, 3) uint8, and how much of the patch has no data or was unreadable when it was tiled; what
            proves undecodable now is white and counted as well.

        Raises:
            IndexError: there is no such row.
            ValueError: the window leaves the patch, or `out` does not fit it.
            MissingArtifactError: its shard or chunk is gone, or the store is index-only and was opened without slide.
            DamagedArtifactError: its checksum does not match.
        """
        self._check_row(row)
        if self.codec == "none":
            return self._read_slide(row, window, out)
        chunk, label = self._chunk(row)
        try:
            rgb, lost = decode_chunk(chunk, self.codec, self.patch_px, window, out)
        except DamagedArtifactError as error:
            raise DamagedArtifactError(f"{label} is damaged: {error}, in {self.path}; {shard.REMEDY}") from error
        unreadable = float(self.columns["unreadable"][row])
        if lost:
            unreadable = min(unreadable + lost / self._px_on_slide(row, window), 1.0)
        return RegionPixels(rgb, float(self.columns["no_data"][row]), unreadable)

    def jpeg(self, row: int) -> bytes | None:
        """Return the patch of a row as the one JPEG file it is stored as; None if it is stored in any other way.

        Raises:
            IndexError: there is no such row.
            MissingArtifactError: its shard or chunk is gone.
            DamagedArtifactError: its checksum does not match.
        """
        self._check_row(row)
        if self.codec not in ("jpeg", "jpeg_tiles"):
            return None
        chunk, label = self._chunk(row)
        try:
            content = without_checksum(chunk)
            return content if self.codec == "jpeg" else single_jpeg(content, self.patch_px)
        except DamagedArtifactError as error:
            raise DamagedArtifactError(f"{label} is damaged: {error}, in {self.path}; {shard.REMEDY}") from error

    def batches(
        self, size: int, rows: Sequence[int] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
        """Yield the row numbers (B,) and pixels (B, patch_px, patch_px, 3) of patches, at most `size` at a time."""
        wanted = range(len(self)) if rows is None else rows
        for start in range(0, len(wanted), size):
            part = wanted[start : start + size]
            pixels = np.empty((len(part), self.patch_px, self.patch_px, 3), dtype=np.uint8)
            for row, rgb in zip(part, pixels, strict=True):
                self.read(row, out=rgb)
            yield np.array(part, dtype=np.int64), pixels

    def _check_row(self, row: int) -> None:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a store of {len(self)} patches")

    def _chunk(self, row: int) -> tuple[bytes, str]:
        """The chunk of a row as it lies in its shard, and its name in messages."""
        number, place = divmod(row, len(self.shards[0]))
        label = f"patch {int(self.patch_ids[row])} (place {place} of {self._files.label(number)})"
        chunk = self._files.chunk(number, place)
        if chunk is None:
            raise MissingArtifactError(f"{label} missing in {self.path}; {shard.REMEDY}")
        return chunk, label

    def _read_slide(self, row: int, window: Window | None, out: NDArray[np.uint8] | None) -> RegionPixels:
        if self._reader is None:
            raise MissingArtifactError(f"{self.path} is index-only; open it together with its slide to read pixels")
        x, y = (int(value) for value in self._origins[row])
        side, wanted = self.grid.patch, window or (0, 0, self.patch_px, self.patch_px)
        if out is not None or window is not None:
            out = canvas(wanted, self.patch_px, out)
        plane = plane_of(self._reader, self.attributes["key"]["config"]["plane"], x, y, side)
        x0, y0, x1, y1 = wanted
        if side == self.patch_px and x1 - x0 == y1 - y0:
            # One px is one px: no more needs to be read than is asked for.
            region = read_at_mpp(self._reader, x + x0, y + y0, x1 - x0, x1 - x0, plane=plane)
            rgb = region.rgb
        else:
            region = read_at_mpp(self._reader, x, y, side, self.patch_px, plane=plane)
            rgb = region.rgb[y0:y1, x0:x1]
        if out is None:
            return region
        out[...] = rgb
        return RegionPixels(out, region.no_data, region.unreadable)

    def _px_on_slide(self, row: int, window: Window | None) -> int:
        """Px of a window of a patch, or of all of it, that lie on the slide; at least 1."""
        x0, y0, x1, y1 = window or (0, 0, self.patch_px, self.patch_px)
        scale = self.grid.patch / self.patch_px
        x, y = (int(value) for value in self._origins[row])
        across = min(math.ceil((self.grid.width - x) / scale), x1) - x0
        down = min(math.ceil((self.grid.height - y) / scale), y1) - y0
        return max(across, 1) * max(down, 1)


def slide_of(store: PatchStore) -> SlideReader | None:
    """Return the slide a store was opened with, None if it was opened alone."""
    return store._reader


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
        raise MissingArtifactError(f"{label} missing ({path}); {shard.REMEDY}")
    found = path.stat().st_size
    if found != size:
        raise DamagedArtifactError(f"{label} is damaged: {found} bytes, {size} were written ({path}); {shard.REMEDY}")


def runs_of(rows: int, size: int) -> list[range]:
    """Cut `rows` rows into runs of `size`."""
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


def read_attributes(path: Path) -> dict[str, Any]:
    """Read what a finished store says about itself; raises what `read_root` does."""
    return read_root(path, KIND, "patch store", "tile")


def read_root(path: Path, kind: str, name: str, verb: str) -> dict[str, Any]:
    """Read the attributes of a finished group of this program.

    Args:
        path: folder of the group.
        kind: what its attribute `kind` has to be.
        name: what such a group is called in messages.
        verb: what to do to the slide for a new one.

    Raises:
        MissingArtifactError: there is no finished one.
        DamagedArtifactError: the metadata is not ours.
        SchemaVersionError: another schema version.
    """
    if not (path / ROOT).exists():
        state = "unfinished" if path.exists() else "missing"
        raise MissingArtifactError(f"the {name} {path} is {state}; {verb} the slide (again)")
    facts = artifact.read_json(path / ROOT).get("attributes")
    if not isinstance(facts, dict) or facts.get("kind") != kind:
        raise DamagedArtifactError(f"{path} is no {name} of this program")
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
