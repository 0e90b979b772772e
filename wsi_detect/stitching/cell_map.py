"""The cell map: the stitched cells of one slide, with the slide facts needed to read them."""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.errors import DamagedArtifactError
from wsi_detect.geometry import Box
from wsi_detect.schema import BOX_COLUMNS, CELLS
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching import queries
from wsi_detect.stitching.hilbert import curve_order
from wsi_detect.taxonomy import gravest_first

if TYPE_CHECKING:
    import pandas as pd

_FACTS = ("slide_id", "width_px", "height_px", "mpp", "mpp_source", "objective_power", "vendor")
#: Small groups fit a window closely, but with each the file's index grows by 0.8 kB. With these numbers a window of a
#: hundredth of the slide, laid anywhere on a round deposit, needs at most 4.8 % of a file of 200,000 cells (3.1 % on
#: average) and 3.6 % of one of 600,000 (2.4 %); their indices are 1.6 % and 1.4 %. `tests/stitching/test_cell_map.py`.
_GROUPS, _LEAST_ROWS, _MOST_ROWS = 1024, 512, 16_384


def cell_order(table: pa.Table, slide: SlideInfo) -> NDArray[np.int64]:
    """Return the indices (N,) that put rows of `schema.CELLS` into the order of `cells.parquet`, `curve_order`."""
    names = pa.array(sorted(pc.unique(table["label"]).to_pylist()), type=pa.string())
    label = pc.index_in(table["label"], value_set=names).to_numpy()
    return curve_order(_boxes(table), label, table["score"].to_numpy(), slide.width_px, slide.height_px)


def _boxes(table: pa.Table) -> NDArray[np.float64]:
    return np.column_stack([table[name].to_numpy() for name in BOX_COLUMNS]).reshape(-1, 4)


@dataclass(frozen=True)
class CellMap:
    """The cells of one slide.

    Attributes:
        slide: facts of the slide; a map read back from a file knows no path, since no file name travels.
        table: rows of `schema.CELLS`, boxes in slide px (level 0); the stitcher's, and a file's, lie along Hilbert's
            curve.
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
        return _boxes(self.table)

    def counts(self) -> dict[str, int]:
        """Cells per class, gravest class first; classes without a cell are absent."""
        found = pc.value_counts(self.table["label"])
        number = {str(entry["values"]): int(entry["counts"]) for entry in found.to_pylist()}
        return {name: number[name] for name in gravest_first(number)}

    def density_per_mm2(
        self, area_um2: float | None = None, *, region: queries.Region | None = None
    ) -> dict[str, float]:
        """Cells per mm² of each class, gravest first.

        Args:
            area_um2: the area examined, µm²; the whole slide when neither is given.
            region: a part of the slide, slide px; the cells whose middle lies in it, on its area within the slide.

        Raises:
            MissingResolutionError: no area is given and the slide has no mpp.
            ValueError: the area is not positive, both are given, or `queries.check_region` refuses the region.
        """
        if area_um2 is not None and region is not None:
            raise ValueError("give an area or a region, not both")
        size = (self.slide.width_px, self.slide.height_px)
        if area_um2 is None:
            area_um2 = queries.area_px2(region or Box(0, 0, *size), *size) * self.slide.resolution() ** 2
        if not area_um2 > 0:
            raise ValueError(f"an area must be positive, got {area_um2} µm²")
        cells = self if region is None else self.within(region)
        return {name: number / (area_um2 / 1e6) for name, number in cells.counts().items()}

    def filter(self, *, labels: Collection[str] | None = None, min_score: float | None = None) -> "CellMap":
        """Return the cells of the given classes and of at least the given score; None keeps all."""
        keep = np.ones(len(self), dtype=bool)
        if labels is not None:
            wanted = pa.array(sorted(labels), type=pa.string())
            keep &= pc.is_in(self.table["label"], value_set=wanted).to_numpy(zero_copy_only=False)
        if min_score is not None:
            keep &= self.table["score"].to_numpy() >= min_score
        return self._of(self.table.filter(pa.array(keep)))

    def within(self, region: queries.Region, *, touching: bool = False) -> "CellMap":
        """Return the cells of a part of the slide.

        Args:
            region: slide px. The left and top edge of a Box belong to it, of a polygon all its outline.
            touching: take every cell whose box shares area with the region, not only those whose middle lies in it.

        Raises:
            ValueError: the region is empty, no polygon, or crosses itself.
        """
        queries.check_region(region)
        boxes = self.boxes()
        if isinstance(region, Box):
            keep = queries.meets(region, boxes) if touching else queries.holds(region, queries.centres(boxes))
        elif touching:
            keep = queries.meets_polygon(region, self._tree)
        else:
            keep = queries.holds_polygon(region, self._tree, queries.centres(boxes))
        return self._of(self.table.filter(pa.array(keep)))

    def nearest(self, x_px: float, y_px: float, k: int = 1) -> "CellMap":
        """Return the k cells whose middle is nearest to a place in slide px, nearest first; all if there are fewer."""
        return self._of(self.table.take(queries.nearest(queries.centres(self.boxes()), x_px, y_px, k)))

    def nearest_neighbours(self) -> NDArray[np.float64]:
        """Distances (N,) in µm from the middle of each cell to that of the nearest other; infinite if it is alone.

        Raises:
            MissingResolutionError: the slide has no mpp.
        """
        return queries.nearest_distances(queries.centres(self.boxes())) * self.slide.resolution()

    @cached_property
    def _tree(self) -> shapely.STRtree:
        """The boxes as an R-tree, made when a polygon is first asked for."""
        return shapely.STRtree(shapely.box(*self.boxes().T))

    def _of(self, table: pa.Table) -> "CellMap":
        return CellMap(self.slide, table, self.classes, self.model_id)

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
        """Write the map as one Parquet file, slide facts included, atomically; rows go into the order of `cell_order`.

        The row groups are small and carry the extent of their boxes, so that `read` of a window skips most of them.
        """
        facts = json.dumps({name: getattr(self.slide, name) for name in _FACTS}, sort_keys=True)
        keys = {"slide": facts, "classes": json.dumps(self.classes), "model_id": self.model_id}
        order = cell_order(self.table, self.slide)
        table = self.table if (np.diff(order) > 0).all() else self.table.take(order)
        layout = {
            "row_group_size": min(max(-(-len(self) // _GROUPS), _LEAST_ROWS), _MOST_ROWS),
            "write_statistics": list(BOX_COLUMNS),
            # Ids and coordinates do not repeat, and names that do are small after zstd.
            "use_dictionary": False,
        }
        artifact.write_table(path, table, CELLS, keys, layout)
        return path

    @classmethod
    def read(cls, path: Path, window: Box | None = None) -> "CellMap":
        """Read a map `write` has written.

        Args:
            path: the file.
            window: slide px; of the file only the part near it is read, and the cells returned are those whose box
                shares area with it: `within(window, touching=True)` of the whole map.

        Raises:
            MissingArtifactError: there is no such file.
            DamagedArtifactError: it is not a cell map.
            SchemaVersionError: it was written under another version.
            ValueError: the window is empty or reversed.
        """
        if window is None:
            table = artifact.read_table(path, CELLS)
        else:
            queries.check_region(window)
            table = artifact.read_table(path, CELLS, lambda metadata: queries.groups_meeting(metadata, window))
            table = table.filter(pa.array(queries.meets(window, _boxes(table))))
        keys = table.schema.metadata or {}
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
