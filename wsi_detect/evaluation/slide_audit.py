"""What the patches of finished slides add to an evaluation: recall at their borders, what a shifted grid changes."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.evaluation.border import BANDS_PX, band_counts, changed_cells, found_cells_in, recall_by_depth
from wsi_detect.evaluation.figures import AGNOSTIC
from wsi_detect.evaluation.parts import Floats, Key, Part, Scene, Values
from wsi_detect.tiling.journal import STORE
from wsi_detect.tiling.patch_store import PatchStore

#: What `wsi-detect audit` leaves in the folder of a slide.
AUDIT_FILE = "audit.json"


class Patches(NamedTuple):
    """How slides were looked at.

    Attributes:
        boxes: slide → (P, 4) xyxy its patches, slide px.
        audits: slide → content of `audit.json`, of those that were audited.
    """

    boxes: Mapping[str, NDArray[np.float64]]
    audits: Mapping[str, Mapping[str, Any]]


def read_patches(folders: Mapping[str, Path]) -> Patches:
    """Read the patches and audits of slides.

    Args:
        folders: slide → its folder; one that holds no patches, or no audit, gives none.

    Raises:
        DamagedArtifactError: a store or an audit makes no sense.
    """
    boxes = {}
    for slide, folder in folders.items():
        if (folder / STORE / "zarr.json").is_file():
            store = PatchStore.open(folder / STORE)
            boxes[slide] = store.grid.boxes()[store.patch_ids]
    found = {slide: folder / AUDIT_FILE for slide, folder in folders.items() if (folder / AUDIT_FILE).is_file()}
    return Patches(boxes, {slide: artifact.read_json(path) for slide, path in found.items()})


def audit_parts(scene: Scene, patches: Patches) -> list[Part]:
    """Make the parts: of borders where the patches of every slide are known, of the grid where a slide was audited."""
    ids = [truth.image_id for truth in scene.truths]
    known = bool(ids) and all(name in patches.boxes for name in ids)
    audited = [k for k, name in enumerate(ids) if name in patches.audits]
    return ([_borders(scene, patches)] if known else []) + ([_grid(ids, audited, patches)] if audited else [])


def _borders(scene: Scene, patches: Patches) -> Part:
    score = scene.config.min_score
    cells = found_cells_in(scene.columns, scene.truths, patches.boxes, min_score=score)
    edges = [f"{edge:g}" for edge in BANDS_PX]
    names = [f"under {edges[0]}", *(f"{a} to {b}" for a, b in itertools.pairwise(edges)), f"from {edges[-1]}"]
    keys = [Key("border_recall", AGNOSTIC, score, f"{name} px deep") for name in names]
    loss = Key("border_loss", AGNOSTIC, score)
    counts = dict(zip(keys, band_counts(cells), strict=True))

    def values(weights: Floats) -> Values:
        recalls, difference = recall_by_depth(cells, BANDS_PX, weights)
        return {**dict(zip(keys, recalls, strict=True)), loss: difference}

    return Part(values, lambda key: counts.get(key, sum(counts.values())))


def _grid(ids: list[str], audited: list[int], patches: Patches) -> Part:
    changed, total = changed_cells([patches.audits[ids[k]] for k in audited])
    key = Key("grid_change", AGNOSTIC)

    def values(weights: Floats) -> Values:
        often = weights[audited]
        cells = float(often @ total)
        return {key: float(often @ changed) / cells if cells else None}

    return Part(values, lambda key: int(total.sum()))
