"""How much of a result hangs on where patch edges fall: detection repeated on a shifted grid, cell maps compared."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect import __version__, artifact, schema
from wsi_detect.config import digest, parse, with_overrides
from wsi_detect.errors import ConfigError, StaleArtifactError
from wsi_detect.evaluation.gate_cost import NOWHERE, owner_rows
from wsi_detect.geometry import Boxes
from wsi_detect.inference.detect import detect_patches
from wsi_detect.run.config import RunConfig
from wsi_detect.run.stages import CELLS, STORE
from wsi_detect.run.status import NOT_SCREENED, STATUS, Status, area_shares
from wsi_detect.run.tiled_slide import open_tiled
from wsi_detect.slides.reader import SlideReader
from wsi_detect.stitching.agreement import Agreement, compare_cells
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.stitcher import stitch_detections
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.journal import finish, prepare
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import make_plan

if TYPE_CHECKING:
    from wsi_detect.inference.detector import Detector

AUDIT = "audit.json"
#: The repetition lies in a folder of this name, made like a slide's own.
FOLDER = "audit"
IOU = 0.5


def recorded(folder: Path, overrides: Sequence[str] = ()) -> tuple[Status, RunConfig]:
    """Read how a slide was screened.

    Args:
        folder: of the slide.
        overrides: `detection.key=value`, for another machine than the run had; the rest stays as recorded.

    Returns:
        The content of `status.json`, and the configuration in it with the overrides applied.

    Raises:
        MissingArtifactError: the folder is not that of a run.
        StaleArtifactError: the slide was not screened, there is nothing to repeat.
        ConfigError: an override is of another section, or wrong.
    """
    status = artifact.read_json(folder / STATUS)
    if status.get("status") == NOT_SCREENED:
        raise StaleArtifactError(f"{folder}: {status['slide_id']} was not screened; run it, then audit")
    for override in overrides:
        if not override.startswith("detection."):
            raise ConfigError(f"--set {override!r}: an audit repeats the run; only detection.… can be set")
    return status, parse(with_overrides(status["config"], overrides), RunConfig, where=str(folder / STATUS))


def audit_slide(folder: Path, slide: Path, detector: "Detector", overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Detect and stitch once more, on a grid shifted by half a patch, and compare with the cells of the run.

    Pixels come from the slide, whatever the run kept of them. The results of the run are not touched: the repetition
    lies in `audit/` and is continued if it was interrupted.

    Args:
        folder: of a screened slide.
        slide: the slide file.
        detector: the model of the run.
        overrides: see `recorded`.

    Returns:
        The content of `audit.json`, which is written beside `status.json`.

    Raises:
        StaleArtifactError: slide or model are not those of the run.
    """
    status, config = recorded(folder, overrides)
    if detector.info.model_id != status["model"]["model_id"]:
        raise StaleArtifactError(
            f"{folder} was made by {status['model']['model_id']}, not by {detector.info.model_id}; give its --model"
        )
    with artifact.lock(folder), open_tiled(folder, slide) as opened:
        store = PatchStore.open(folder / STORE, opened)
        out = folder / FOLDER
        shifted = _shifted_store(store, opened, config, detector, out)
        detect_patches(shifted, detector, out, config.detection)
        scale = shifted.grid.patch / shifted.patch_px
        cells = stitch_detections(
            out / "detections",
            shifted.grid,
            opened.info,
            out,
            config.stitching,
            model_id=detector.info.model_id,
            scale=scale,
        )
        figures = {**_facts(status, shifted, overrides), **_compare(folder, (store, shifted), cells)}
        artifact.write_json(folder / AUDIT, figures)
    return figures


def shifted_grid(grid: TileGrid, align: int = 1) -> TileGrid:
    """Return the grid shifted by half a patch, or by half a stride where patches overlap by more than a third.

    So its seams lie at least a quarter of a stride from those of the other. A slide no larger than a patch has no seam,
    and the grid stays the same.

    Args:
        grid: not shifted.
        align: origins must be multiples of it, slide px; the stride is one.
    """
    stride = grid.patch - grid.overlap
    half = (grid.patch if 3 * grid.overlap <= grid.patch else stride) // 2
    return replace(grid, align=align, shift=half // align * align % stride)


def _shifted_store(
    store: PatchStore, slide: SlideReader, config: RunConfig, detector: "Detector", out: Path
) -> PatchStore:
    """Write the index of the shifted patches; what is there of another audit is cleared away."""
    # Where the px of a level serve as they are, they must do so here.
    step = 1 if store.attributes["level"] is None else store.grid.patch // store.patch_px
    plan = make_plan(slide, config.tiling.model_copy(update={"codec": "none"}), shifted_grid(store.grid, step))
    key = {"plan": plan.key, "model": detector.info.model_id, "detection": digest(config.detection)}
    if not artifact.is_fresh(out, "audit", key):
        shutil.rmtree(out, ignore_errors=True)
        artifact.record_stage(out, "audit", {"key": key, "files": {}})
    prepare(plan, out)
    finish(plan, out)
    return PatchStore.open(out / STORE, slide)


def _facts(status: Status, shifted: PatchStore, overrides: Sequence[str]) -> dict[str, Any]:
    patches = artifact.read_table(shifted.path.parent / "patches.parquet", schema.PATCHES)
    return {
        "slide_id": status["slide_id"],
        "model_id": status["model"]["model_id"],
        "version": __version__,
        "grid": asdict(shifted.grid),
        "overrides": list(overrides),
        "examined_fraction": {
            "first": status["examined_fraction"],
            "second": area_shares(patches)["examined_fraction"],
        },
    }


def _compare(folder: Path, stores: tuple[PatchStore, PatchStore], second: CellMap) -> dict[str, Any]:
    """Compare the cells both grids had in view: at the rim of the cell area, the patches of one may reach further.

    What the run's gate hid is left out: that its cells are missing says nothing about patch edges.
    """
    maps, gated = (CellMap.read(folder / CELLS), second), _gated(folder)
    views = [_in_view(cells.boxes(), other) for cells, other in zip(maps, reversed(stores), strict=True)]
    sides = [
        (cells.boxes()[seen], cells.table["label"].to_numpy(zero_copy_only=False).astype(object)[seen])
        for cells, seen in zip(maps, views, strict=True)
    ]
    shown = [_shown(boxes, stores[0], gated) for boxes, _ in sides]
    # A cell on the edge of what was shown counts if either grid has its middle inside: a px more or less is no change.
    partner = compare_cells(sides[0], sides[1], iou=IOU).partner
    paired = np.flatnonzero(partner >= 0)
    shown[0][paired] = shown[1][partner[paired]] = shown[0][paired] | shown[1][partner[paired]]
    first, last = ((boxes[keep], labels[keep]) for (boxes, labels), keep in zip(sides, shown, strict=True))
    return {
        "iou": IOU,
        "out_of_view": _left_out(views),
        "behind_gate": _left_out(shown),
        "compared_fraction": _compared_fraction(stores[0], gated),
        **_figures(compare_cells(first, last, iou=IOU)),
    }


def _gated(folder: Path) -> NDArray[np.bool_]:
    """Which patches of the run, (N,) in the order of its store, a gate kept from the detector."""
    states = artifact.read_table(folder / "patches.parquet", schema.PATCHES)["status"].to_pylist()
    return np.array([state == "gated" for state in states], dtype=bool)


def _shown(boxes: Boxes, store: PatchStore, gated: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which boxes (N, 4) have their middle where the run showed the detector the patch it belongs to."""
    shown = _in_view(boxes, store, ~gated)
    owner = owner_rows(store.grid, store.patch_ids, boxes)
    owned = owner != NOWHERE
    shown[owned] &= ~gated[owner[owned]]
    return shown


def _compared_fraction(store: PatchStore, gated: NDArray[np.bool_]) -> float:
    """Share of the cell area in patches no gate hid; patches weigh as in `status.area_shares`."""
    whole = float(store.coverage.sum())
    return round(1 - float(store.coverage[gated].sum()) / whole, 6) if whole > 0 else 1.0


def _left_out(kept: Sequence[NDArray[np.bool_]]) -> dict[str, int]:
    return {name: int((~mask).sum()) for name, mask in zip(("first", "second"), kept, strict=True)}


def _in_view(boxes: Boxes, store: PatchStore, rows: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Which boxes (N, 4) have their middle in a patch of the store, or in one of some of its rows."""
    patches = store.grid.boxes()[store.patch_ids if rows is None else store.patch_ids[rows]]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    found = shapely.STRtree(shapely.box(*patches.T)).query(shapely.points(centres))[0]
    seen = np.zeros(len(boxes), dtype=bool)
    seen[found] = True
    return seen


def _figures(agreement: Agreement) -> dict[str, Any]:
    """Counts of all cells and of each class, each with the share that changed of those found by either grid."""
    classes = {name: _with_share(counts) for name, counts in agreement.by_class().items()}
    return {"cells": _with_share(agreement.counts()), "classes": classes}


def _with_share(counts: dict[str, int]) -> dict[str, float]:
    changed = sum(value for name, value in counts.items() if name not in ("first", "second", "same"))
    return {**counts, "changed": round(changed / max(changed + counts["same"], 1), 6)}
