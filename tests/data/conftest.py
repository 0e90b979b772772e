"""What the tests of this room share: a patch store held in memory, and annotation tables."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from wsi_detect import artifact, schema
from wsi_detect.geometry import PatchFrame
from wsi_detect.tiling.grid import TileGrid


@dataclass
class Pixels:
    rgb: np.ndarray


@dataclass
class MemoryStore:
    """Patches of a slide of `side` px without resampling, each of its own noise; a square at the top left is black."""

    path: Path
    seed: int = 0
    side: int = 400
    patch_px: int = 100
    mpp: float = 0.5
    index_only: bool = False
    windows: list = field(default_factory=list)
    grid: TileGrid = field(init=False)

    def __post_init__(self):
        self.grid = TileGrid(self.side, self.side, self.patch_px, 0)
        self.patch_ids = np.arange(len(self.grid), dtype=np.int64)
        self.coverage = np.ones(len(self.grid), np.float32)
        self.columns = {"focus": np.full(len(self.grid), np.nan, np.float32)}

    def frame(self, i):
        x, y = self.grid.origins()[i]
        return PatchFrame(float(x), float(y), 1.0)

    def read(self, i, window=None, out=None):
        rgb = np.random.default_rng([self.seed, i]).integers(0, 256, (self.patch_px, self.patch_px, 3), np.uint8)
        rgb[:20, :30] = 0
        if window is None:
            return Pixels(rgb)
        self.windows.append((i, window))
        x0, y0, x1, y1 = window
        assert 0 <= x0 < x1 <= self.patch_px and 0 <= y0 < y1 <= self.patch_px  # noqa: PT018
        out[:] = rgb[y0:y1, x0:x1]
        return Pixels(out)


def write_rows(path, rows):
    """Write rows (slide_id, label, x0, y0, x1, y1) as `annotations.parquet`."""
    table = [
        {
            "slide_id": slide, "annotation_id": str(k), "label": label, "source_label": label,
            **dict(zip(schema.BOX_COLUMNS, map(float, box), strict=True)),
        }
        for k, (slide, label, *box) in enumerate(rows)
    ]  # fmt: skip
    artifact.write_table(path, artifact.table_of(table, schema.ANNOTATIONS), schema.ANNOTATIONS)
    return path


@pytest.fixture(scope="session")
def memory_store():
    return MemoryStore


@pytest.fixture(scope="session")
def write_annotations():
    return write_rows
