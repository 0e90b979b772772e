"""A map of evidence written by hand, for tests of everything that reads one."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_detect.slides.reader import SlideInfo
from wsi_detect.tiling.evidence_grid import MapGrid
from wsi_detect.tiling.evidence_map import (
    FULL,
    HEATMAP,
    NOT_LOOKED,
    SHARD,
    EvidenceMap,
    encode,
    write_group,
    write_plane,
)
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.patch_store import slide_facts


def write_map(
    folder: Path,
    evidence: NDArray[np.floating],
    *,
    px: float = 4.0,
    mpp: float = 0.25,
    slide_id: str = "S1",
    patch: int = 64,
) -> EvidenceMap:
    """Write a map over a grid of patches without overlap, and open it.

    Args:
        folder: of the slide.
        evidence: (H, W) in [0, 1], NaN where nobody looked; a patch with such a px was not readable.
        px: slide px per px.
        mpp: of the slide.
        slide_id: of the slide.
        patch: side of the patches, slide px.
    """
    height, width = evidence.shape
    info = SlideInfo(slide_id, Path(slide_id), round(width * px), round(height * px), mpp, "file", (1.0,))
    grid = TileGrid(info.width_px, info.height_px, patch, 0)
    codes = encode(evidence)
    blocks = MapGrid(grid, px).blocks()
    inside = [codes[y0:y1, x0:x1] for x0, y0, x1, y1 in blocks]
    done = np.array([not (part == NOT_LOOKED).any() for part in inside])
    columns = {
        "patch_id": np.arange(len(grid)),
        "state": np.where(done, 1, 2),
        "no_data": np.zeros(len(grid)),
        "unreadable": np.where(done, 0.0, 1.0),
        "core_max": np.array([part.max() / FULL if ok else np.nan for part, ok in zip(inside, done, strict=True)]),
        "core_mean": np.array([part.mean() / FULL if ok else np.nan for part, ok in zip(inside, done, strict=True)]),
    }
    store = folder / HEATMAP
    entries = [
        entry for k, y in enumerate(range(0, height, SHARD)) for entry in write_plane(store, k, codes[y : y + SHARD])
    ]
    facts = {
        "slide": slide_facts(info),
        "grid": {"width": grid.width, "height": grid.height, "patch": patch, "overlap": 0},
        "shape": [height, width],
        "px": px,
        "mpp": px * mpp,
        "model_id": "hand@1",
        "region": ["HSIL"],
        "threshold": 0.5,
        "patches": len(grid),
        "states": {"done": int(done.sum()), "unreadable": int((~done).sum()), "failed": 0},
        "key": {},
    }
    write_group(store, facts, columns, entries)
    return EvidenceMap.open(store)
