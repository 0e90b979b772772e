"""The cell map: the stitched cells of one slide, with the slide facts needed to read them."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError
from wsi_detect.schema import BOX_COLUMNS, CELLS
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.taxonomy import gravest_first

if TYPE_CHECKING:
    import pandas as pd

_FACTS = ("slide_id", "width_px", "height_px", "mpp", "mpp_source", "objective_power", "vendor")


@dataclass(frozen=True)
class CellMap:
    """The cells of one slide.

    Attributes:
        slide: facts of the slide; a map read back from a file knows no path, since no file name travels.
        table: rows of `schema.CELLS`, boxes in slide px (level 0), in one total order (top to bottom, left to right).
        classes: class names that `class_scores` follows; empty when the detector gave none.
        model_id: the detector that found the cells.
    """

    slide: SlideInfo
    table: pa.Table
    classes: tuple[str, ...] = ()
    model_id: str = "unknown"

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def boxes(self) -> NDArray[np.float64]:
        """Boxes (N, 4) float64 xyxy in slide px."""
        return np.column_stack([self.table[name].to_numpy() for name in BOX_COLUMNS]).reshape(-1, 4)

    def counts(self) -> dict[str, int]:
        """Cells per class, gravest class first; classes without a cell are absent."""
        found = pc.value_counts(self.table["label"])
        number = {str(entry["values"]): int(entry["counts"]) for entry in found.to_pylist()}
        return {name: number[name] for name in gravest_first(number)}

    def density_per_mm2(self, area_um2: float | None = None) -> dict[str, float]:
        """Cells per mm² of each class, gravest first.

        Args:
            area_um2: the area examined, µm²; the whole slide when not given.

        Raises:
            MissingResolutionError: no area is given and the slide has no mpp.
            ValueError: the area is not positive.
        """
        if area_um2 is None:
            area_um2 = self.slide.width_px * self.slide.height_px * self.slide.resolution() ** 2
        if not area_um2 > 0:
            raise ValueError(f"an area must be positive, got {area_um2} µm²")
        return {name: number / (area_um2 / 1e6) for name, number in self.counts().items()}

    def filter(self, *, labels: Collection[str] | None = None, min_score: float | None = None) -> "CellMap":
        """Return the cells of the given classes and of at least the given score; None keeps all."""
        keep = np.ones(len(self), dtype=bool)
        if labels is not None:
            wanted = pa.array(sorted(labels), type=pa.string())
            keep &= pc.is_in(self.table["label"], value_set=wanted).to_numpy(zero_copy_only=False)
        if min_score is not None:
            keep &= self.table["score"].to_numpy() >= min_score
        return CellMap(self.slide, self.table.filter(pa.array(keep)), self.classes, self.model_id)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table as a pandas frame, one row a cell."""
        frame: pd.DataFrame = self.table.to_pandas()
        return frame

    def to_shapely(self) -> NDArray[np.object_]:
        """Return geometries (N,) in slide px: the outline where there is one, else the box."""
        shapes = np.asarray(shapely.box(*self.boxes().T), dtype=object).reshape(-1)
        outlines = self.table["geometry"]
        if outlines.null_count < len(self):
            known = pc.is_valid(outlines).to_numpy(zero_copy_only=False)
            shapes[known] = shapely.from_wkb(outlines.filter(pa.array(known)).to_pylist())
        return shapes

    def rows(self, chunk: int = 8192) -> Iterator[dict[str, Any]]:
        """Yield cells one by one as plain mappings, a chunk in memory at a time."""
        for batch in self.table.to_batches(max_chunksize=chunk):
            yield from batch.to_pylist()

    def write(self, path: Path) -> Path:
        """Write the map as one Parquet file, slide facts included, atomically."""
        facts = json.dumps({name: getattr(self.slide, name) for name in _FACTS}, sort_keys=True)
        keys = {"slide": facts, "classes": json.dumps(self.classes), "model_id": self.model_id}
        artifact.write_table(path, self.table, CELLS, keys)
        return path

    @classmethod
    def read(cls, path: Path) -> "CellMap":
        """Read a map `write` has written.

        Raises:
            MissingArtifactError: there is no such file.
            DamagedArtifactError: it is not a cell map.
            SchemaVersionError: it was written under another version.
        """
        table = artifact.read_table(path, CELLS)
        keys = pq.read_schema(path).metadata or {}
        try:
            facts = json.loads(keys[b"slide"])
            known = {name: facts[name] for name in _FACTS}
            classes, model_id = tuple(json.loads(keys[b"classes"])), keys[b"model_id"].decode()
        except (KeyError, ValueError, TypeError) as error:
            raise DamagedArtifactError(
                f"{path} lacks its slide facts ({error!r}); delete it and stitch again"
            ) from error
        slide = SlideInfo(path=Path(), level_downsamples=(1.0,), bounds=None, **known)
        return cls(slide, table, classes, model_id)
