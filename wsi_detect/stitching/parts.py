"""Part files of detections, read by rows of patches: what their statistics say a band does not need is not read."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, StaleArtifactError
from wsi_detect.schema import DETECTIONS
from wsi_detect.stitching.columns import Detections
from wsi_detect.tiling.grid import TileGrid

#: Patch ids a row group without statistics may hold.
_ANY = (-(2**62), 2**62)


@dataclass(frozen=True, slots=True)
class Group:
    """A row group of a part file: its number, its rows, and the patch ids it holds, from the least to the greatest."""

    path: Path
    number: int
    rows: int
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The part files of a slide.

    Attributes:
        slide_id: the slide.
        grid: the grid of its patches.
        groups: every row group of every part.
        classes: what `class_scores` follows.
    """

    slide_id: str
    grid: TileGrid
    groups: tuple[Group, ...]
    classes: tuple[str, ...]

    @classmethod
    def open(cls, folder: Path, slide_id: str, grid: TileGrid) -> "Parts":
        """Look at the part files of a folder.

        Raises:
            MissingArtifactError: a hole in their numbers, or no part where patches were recorded.
            DamagedArtifactError: parts disagree about the classes, or cannot be read.
            SchemaVersionError: a part was written under another version.
        """
        parts = sorted(folder.glob("part-*.parquet"))
        absent = [name for k in range(len(parts)) if not (folder / (name := f"part-{k:05d}.parquet")).exists()]
        if absent or (not parts and not (folder.parent / "patches.parquet").exists()):
            raise MissingArtifactError(f"{folder / (absent or ['part-00000.parquet'])[0]} is missing; run detect again")
        groups: list[Group] = []
        classes = set()
        for part in parts:
            with artifact.open_table(part, DETECTIONS) as file:
                classes.add((file.schema_arrow.metadata or {}).get(b"classes", b"[]"))
                groups.extend(_groups(part, file.metadata))
        if len(classes) > 1:
            raise DamagedArtifactError(
                f"the parts in {folder} come from detectors with other classes; run detect again"
            )
        return cls(slide_id, grid, tuple(groups), tuple(json.loads(classes.pop())) if classes else ())

    def rows(self) -> int:
        """Return the number of detections."""
        return sum(group.rows for group in self.groups)

    def counts(self) -> NDArray[np.int64]:
        """Return about how many detections each row of patches has, by the extent of the row groups."""
        rows, columns = self.grid.shape
        result = np.zeros(rows)
        for group in self.groups:
            first, last = (min(max(patch // columns, 0), rows - 1) for patch in (group.least, group.most))
            result[first : last + 1] += group.rows / (last + 1 - first)
        return result.astype(np.int64)

    def before(self) -> NDArray[np.int64]:
        """Return how many detections there are in the patches before each: (P,)."""
        counts = np.zeros(len(self.grid), dtype=np.int64)
        for path in sorted({group.path for group in self.groups}):
            with artifact.open_table(path, DETECTIONS) as file:
                patch = file.read(["patch_id"])["patch_id"].to_numpy()
            # What is not in the grid is refused where it is read.
            inside = patch[(patch >= 0) & (patch < len(counts))]
            counts += np.bincount(inside, minlength=len(counts))
        return np.asarray(np.cumsum(counts) - counts)

    def load(self, first: int, after: int) -> Detections:
        """Read the detections of rows of patches; the first and the last row also take what is not in the grid.

        Raises:
            StaleArtifactError: detections of another slide.
            NonFiniteError: a box or a score is not finite; the message names the patch.
            UnmappedLabelError: a label is not in the taxonomy.
        """
        rows, columns = self.grid.shape
        low = first * columns if first > 0 else _ANY[0]
        high = after * columns if after < rows else _ANY[1]
        needed: dict[Path, list[int]] = {}
        for group in self.groups:
            if group.rows and group.least < high and group.most >= low:
                needed.setdefault(group.path, []).append(group.number)
        tables = [self._read(path, numbers, low, high) for path, numbers in needed.items()]
        return Detections.of(pa.concat_tables(tables) if tables else artifact.empty_table(DETECTIONS))

    def _read(self, path: Path, numbers: list[int], low: int, high: int) -> pa.Table:
        with artifact.open_table(path, DETECTIONS, ("slide_id", "label")) as file:
            table = file.read_row_groups(numbers, use_threads=False).replace_schema_metadata()
        foreign = set(pc.unique(table["slide_id"]).to_pylist()) - {self.slide_id}
        if foreign:
            raise StaleArtifactError(
                f"{path.parent} holds detections of slide {min(foreign)}, not of {self.slide_id}; run detect again"
            )
        patch = table["patch_id"].to_numpy()
        inside = (patch >= low) & (patch < high)
        return table if inside.all() else table.filter(pa.array(inside))


def _groups(path: Path, file: pq.FileMetaData) -> list[Group]:
    column = DETECTIONS.get_field_index("patch_id")
    result = []
    for number in range(file.num_row_groups):
        group = file.row_group(number)
        known = group.column(column).statistics
        least, most = (known.min, known.max) if known is not None and known.has_min_max else _ANY
        result.append(Group(path, number, group.num_rows, least, most))
    return result
