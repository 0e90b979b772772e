"""The stage detect: a detector over a patch store, one part file a shard, each committed by one rename."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect import artifact, schema
from wsi_detect.config import Config, digest
from wsi_detect.errors import ResolutionMismatchError, StaleArtifactError
from wsi_detect.inference.detector import Detections, Detector, detection_rows, on_slide
from wsi_detect.tiling.quality import QUALITY_COLUMNS, measure_patch

if TYPE_CHECKING:
    from wsi_detect.inference.gate import Gate
    from wsi_detect.slides.resample import RegionPixels
    from wsi_detect.tiling.patch_store import PatchStore

DETECTIONS = "detections"
PATCHES = "patches.parquet"
_KEY = "key.json"

_log = logging.getLogger(__name__)


class DetectionConfig(Config):
    """How a detector goes over a store.

    Attributes:
        runtime: which back end runs the bundle.
        batch_size: patches in one forward.
        threads: CPU threads of one process. Fixed, because sums in another order differ in the last digit: tables are
            equal for any number of processes, not for any number of threads.
        score_threshold: report detections above it; None keeps the model's own.
        nms: suppression within a patch, whatever the class or within each class; None keeps the model's own. A cell is
            one detection: what it may be besides its label is in its class scores.
        max_unreadable: a patch with a larger unreadable fraction is not shown to the detector.
        mpp_tolerance: relative difference between the resolution of the store and of the model that is let through.
    """

    runtime: Literal["torch"] = "torch"
    batch_size: int = Field(4, ge=1)
    threads: int = Field(2, ge=1)
    score_threshold: float | None = Field(None, ge=0, le=1)
    nms: Literal["agnostic", "class"] | None = "agnostic"
    max_unreadable: float = Field(0.5, ge=0, le=1)
    mpp_tolerance: float = Field(0.02, ge=0, lt=1)


def detect_patches(
    store: "PatchStore",
    detector: Detector,
    out: Path,
    config: DetectionConfig | None = None,
    gate: "Gate | None" = None,
) -> Path:
    """Run a detector over every patch of a store, or over those a gate shows it.

    Args:
        store: the patches.
        detector: a loaded bundle.
        out: folder of the slide; gets `detections/part-*.parquet`, one a shard, and `patches.parquet`.
        config: batch size and tolerances.
        gate: leaves patches out; each of them has the state `gated` in `patches.parquet`.

    Returns:
        The folder of the part files. Parts that an interrupted run left complete are kept.

    Raises:
        ResolutionMismatchError: the store has another resolution or patch size than the model.
        StaleArtifactError: the parts already there were made by another model, from other patches or under another
            configuration.
    """
    config = config or DetectionConfig()
    _check_resolution(store, detector, config)
    folder = out / DETECTIONS
    _claim(folder, _key(store, detector, config) | ({} if gate is None else {"gate": gate.key}))
    parts = [folder / f"part-{number:05d}.parquet" for number in range(len(store.shards))]
    found = sum(part.exists() for part in parts)
    if found:
        _log.info("detect %s: resuming, %d of %d parts found", store.slide.slide_id, found, len(parts))
    start, cells = time.monotonic(), 0
    for part, rows in zip(parts, store.shards, strict=True):
        if not part.exists():
            cells += _write_part(part, store, detector, rows, (config, gate))
    artifact.write_table(out / PATCHES, _patches(parts), schema.PATCHES)
    seconds = time.monotonic() - start
    patches = len(store)
    _log.info("detect %s: %d patches, %d detections, %.1f s", store.slide.slide_id, patches, cells, seconds)
    return folder


def _check_resolution(store: "PatchStore", detector: Detector, config: DetectionConfig) -> None:
    info = detector.info
    if abs(store.mpp / info.mpp - 1) > config.mpp_tolerance:
        raise ResolutionMismatchError(
            f"the patches are at {store.mpp:.4g} µm/px, the model was trained at {info.mpp:.4g}; "
            f"tile again with --set tiling.mpp={info.mpp:.4g}"
        )


def _key(store: "PatchStore", detector: Detector, config: DetectionConfig) -> dict[str, Any]:
    patches = hashlib.sha256(np.ascontiguousarray(store.patch_ids, dtype="<i8").tobytes()).hexdigest()[:16]
    return {
        "slide_id": store.slide.slide_id,
        "grid": {name: int(getattr(store.grid, name)) for name in ("width", "height", "patch", "overlap")},
        "patches": patches,
        "shards": len(store.shards),
        "mpp": float(store.mpp),
        "model": hashlib.sha256(json.dumps(asdict(detector.info), sort_keys=True).encode()).hexdigest()[:16],
        "config": digest(config),
    }


def _claim(folder: Path, key: dict[str, Any]) -> None:
    """Enter what the parts are made from before the first of them, and refuse parts made from something else."""
    path = folder / _KEY
    if not path.exists():
        artifact.write_json(path, key)
        return
    found = artifact.read_json(path)
    changed = [name for name in {**key, **found} if found.get(name) != key.get(name)]
    if changed:
        raise StaleArtifactError(
            f"{folder} was made with another {', '.join(changed)}; delete it, or give another --out (run: --overwrite)"
        )


def _write_part(
    part: Path, store: "PatchStore", detector: Detector, rows: range, rule: "tuple[DetectionConfig, Gate | None]"
) -> int:
    """Detect on one shard; the patches' states travel in the metadata, so that one rename commits both."""
    name, classes = store.slide.slide_id, detector.info.classes
    config, gate = rule
    tables: list[pa.Table] = []
    states = [] if gate is None else [_gated(store, row, gate) for row in rows if not gate.shown[row]]
    for batch in _batches([row for row in rows if gate is None or gate.shown[row]], config.batch_size):
        regions = [store.read(row) for row in batch]
        usable = [k for k, region in enumerate(regions) if region.unreadable <= config.max_unreadable]
        pixels = _stack([regions[k] for k in usable])
        answers = dict(zip(usable, detector(pixels) if usable else [], strict=True))
        for k, row in enumerate(batch):
            found = answers.get(k)
            states.append(_state(store, row, regions[k], found))
            if found is not None and len(found) and found.is_finite():
                frame = store.frame(row)
                seen = on_slide(found, frame, store.grid.width, store.grid.height)
                tables.append(detection_rows(name, int(store.patch_ids[row]), frame, seen, classes))
    table = pa.concat_tables(tables) if tables else artifact.empty_table(schema.DETECTIONS)
    metadata = {"classes": json.dumps(classes), "patches": json.dumps(states, allow_nan=False)}
    artifact.write_table(part, table, schema.DETECTIONS, metadata)
    return int(table.num_rows)


def _batches(rows: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _stack(regions: "list[RegionPixels]") -> NDArray[np.uint8]:
    if not regions:
        return np.zeros((0, 0, 0, 3), np.uint8)
    return np.stack([region.rgb for region in regions])


def _state(store: "PatchStore", row: int, region: "RegionPixels", found: Detections | None) -> dict[str, Any]:
    """Return the row of `PATCHES` for one patch."""
    if found is None:
        status, reason = "unreadable", f"{region.unreadable:.0%} of the patch cannot be decoded"
    elif not found.is_finite():
        status, reason = "failed", "non-finite output"
    else:
        status, reason = "done", None
    return {
        "slide_id": store.slide.slide_id,
        "patch_id": int(store.patch_ids[row]),
        "status": status,
        "reason": reason,
        "coverage": float(store.coverage[row]),
        "no_data": float(region.no_data),
        "unreadable": float(region.unreadable),
        **_quality(store, row, region),
    }


def _gated(store: "PatchStore", row: int, gate: "Gate") -> dict[str, Any]:
    """Return the row of `PATCHES` for a patch the detector is not shown; its pixels the evidence model has seen."""
    return {
        "slide_id": store.slide.slide_id,
        "patch_id": int(store.patch_ids[row]),
        "status": "gated",
        "reason": f"evidence {gate.peaks[row]:.3f}, gate {gate.config.threshold:g}",
        "coverage": float(store.coverage[row]),
        "no_data": float(gate.no_data[row]),
        "unreadable": float(gate.unreadable[row]),
        **_quality(store, row, None),
    }


def _quality(store: "PatchStore", row: int, region: "RegionPixels | None") -> dict[str, float | None]:
    """Return the quality columns of one patch; an index-only store has seen no pixels, so they are measured here."""
    known = [float(store.columns[name][row]) for name in QUALITY_COLUMNS]
    if store.index_only and region is not None:
        known = list(astuple(measure_patch(region.rgb, store.ground)))
    return {name: None if math.isnan(value) else value for name, value in zip(QUALITY_COLUMNS, known, strict=True)}


def _patches(parts: list[Path]) -> pa.Table:
    states: list[dict[str, Any]] = []
    for part in parts:
        metadata = pq.read_schema(part).metadata or {}
        states.extend(json.loads(metadata[b"patches"]))
    states.sort(key=lambda state: int(state["patch_id"]))
    return artifact.table_of(states, schema.PATCHES)
