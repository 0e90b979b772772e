"""The stage evidence: a model over the patches of a slide, each writing the px of the map it owns, to `heatmap.zarr`.

Shards of the store are mapped one by one, by any number of processes, each into a part file of its own that one rename
commits; then the parts are laid together. No chunk of the map is ever written by two.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect import artifact, schema
from wsi_detect.config import Config, digest
from wsi_detect.errors import (
    ArtifactError,
    DamagedArtifactError,
    MissingArtifactError,
    ModelError,
    StaleArtifactError,
)
from wsi_detect.geometry import PatchFrame
from wsi_detect.inference.windows import Demand, Sight, look
from wsi_detect.tiling import evidence_map
from wsi_detect.tiling.evidence_grid import area_means, grown
from wsi_detect.tiling.evidence_map import HEATMAP, NOT_LOOKED, SHARD, STATES, Codes, encode
from wsi_detect.tiling.patch_store import ROOT, slide_facts

if TYPE_CHECKING:
    from wsi_detect.detectors.evidence_info import EvidenceInfo, EvidenceMapper
    from wsi_detect.slides.resample import RegionPixels
    from wsi_detect.tiling.patch_store import PatchStore

PARTS = "heatmap.parts"
_KEY = "key.json"
#: A network's softmax may leave [0, 1] by rounding, not by more.
_ROUNDING = 1e-3

_log = logging.getLogger(__name__)


class EvidenceConfig(Config):
    """How an evidence model goes over a store.

    Attributes:
        batch_size: windows in one forward.
        threads: CPU threads of one process; see `DetectionConfig.threads`.
        reduce: px of the model along a px of the map, whose evidence is their mean. 4 of 0.27 µm are about 1 µm, an
            eighth of a nucleus; 1 keeps every px, at sixteen times the size.
        margin_px: px of the model shown around what is kept of its answer; None is the model's own, half of what it can
            possibly see. Less is faster, and can leave steps where cores meet.
        max_unreadable: a window with a larger unreadable fraction is not shown to the model. In one that is, px that
            an unreadable one has a say in are not looked at all the same.
        mpp_tolerance: relative difference of resolution that is let through without resampling.
    """

    batch_size: int = Field(4, ge=1)
    threads: int = Field(2, ge=1)
    reduce: int = Field(4, ge=1, le=64)
    margin_px: int | None = Field(None, ge=0)
    max_unreadable: float = Field(0.5, ge=0, le=1)
    mpp_tolerance: float = Field(0.02, ge=0, lt=1)


def map_evidence(
    store: "PatchStore",
    model: "EvidenceMapper",
    out: Path,
    config: EvidenceConfig | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Map the evidence of a slide (STAGE evidence).

    Args:
        store: the patches; opened with its slide, unless patches overlap by twice the model's margin.
        model: a loaded bundle.
        out: folder of the slide.
        config: batch size, resolution of the map, tolerances.
        overwrite: replace a map, whole or begun, of another making, instead of refusing.

    Returns:
        The folder `heatmap.zarr`. Parts that an interrupted run left complete are kept; a finished map is left alone.

    Raises:
        ResolutionMismatchError, ConfigError: see `inference.windows.look`.
        StaleArtifactError: what is there was made by another model, from other patches or under another configuration.
        ModelError: the model gives values outside [0, 1].
    """
    config = config or EvidenceConfig()
    if not is_mapped(store, model.info, out, config, overwrite=overwrite):
        start = time.monotonic()
        for number in range(len(store.shards)):
            map_part(store, model, out, config, number)
        finish(store, model.info, out, config)
        seconds = time.monotonic() - start
        _log.info("evidence %s: %d patches, %.1f s", store.slide.slide_id, len(store), seconds)
    return out / HEATMAP


def is_mapped(
    store: "PatchStore", info: "EvidenceInfo", out: Path, config: EvidenceConfig, *, overwrite: bool = False
) -> bool:
    """Whether the finished map is there already; what is of another making is refused, or removed.

    Raises:
        StaleArtifactError: see `map_evidence`.
    """
    key = _key(store, info, config)
    target, parts = out / HEATMAP, out / PARTS
    if (target / ROOT).exists() and _is_kept(target, lambda: evidence_map.read_facts(target)["key"], key, overwrite):
        # Parts of a run that was killed between its last two steps.
        shutil.rmtree(parts, ignore_errors=True)
        if _is_whole(target):
            return True
        shutil.rmtree(target)
    begun = parts / _KEY
    if not (begun.exists() and _is_kept(parts, lambda: artifact.read_json(begun), key, overwrite)):
        # Left where a removal was interrupted: parts of nobody knows what, and shards that a stock zarr reader would
        # show where this map has none.
        for folder in (parts, target):
            shutil.rmtree(folder, ignore_errors=True)
        artifact.write_json(begun, key)
    return False


def _is_whole(path: Path) -> bool:
    try:
        evidence_map.EvidenceMap.open(path)
    except (MissingArtifactError, DamagedArtifactError) as error:
        _log.warning("%s; it is mapped again", error)
        return False
    return True


def map_part(store: "PatchStore", model: "EvidenceMapper", out: Path, config: EvidenceConfig, number: int) -> Path:
    """Map the patches of one shard of the store, unless that is done; several processes may do so at once.

    Returns:
        The part file.

    Raises:
        ModelError: see `map_evidence`.
    """
    part = _part(out, number)
    if part.exists():
        return part
    sight, rows = look(store, _demand(model.info, config)), store.shards[number]
    found: list[dict[str, Any]] = []
    for start in range(0, len(rows), config.batch_size):
        batch = rows[start : start + config.batch_size]
        seen = [sight.read(row) for row in batch]
        usable = [k for k, (region, _) in enumerate(seen) if _is_usable(region, config)]
        answers = dict(zip(usable, _answer(model, [seen[k][0] for k in usable]), strict=True))
        found += [_row(store, sight, row, seen[k], answers.get(k)) for k, row in enumerate(batch)]
    artifact.write_table(part, artifact.table_of(found, schema.EVIDENCE_PARTS), schema.EVIDENCE_PARTS)
    return part


def finish(store: "PatchStore", info: "EvidenceInfo", out: Path, config: EvidenceConfig) -> Path:
    """Lay the parts together, and remove them.

    Returns:
        The folder `heatmap.zarr`.

    Raises:
        MissingArtifactError: a part is missing.
    """
    sight = look(store, _demand(info, config))
    paths = [_part(out, number) for number in range(len(store.shards))]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise MissingArtifactError(f"{missing[0]} is missing; map the evidence of {store.slide.slide_id} again")
    target = out / HEATMAP
    # Begun by a run that was killed: what it left half-written goes, a shard it wrote is written again, the same.
    artifact.sweep(target)
    entries = []
    for row, band in enumerate(_bands(paths, sight)):
        entries += evidence_map.write_plane(target, row, band)
    columns = _columns(paths)
    evidence_map.write_group(target, _facts(store, info, config, sight, columns), columns, entries)
    shutil.rmtree(out / PARTS)
    return target


def _is_kept(path: Path, read: Callable[[], dict[str, Any]], key: dict[str, Any], overwrite: bool) -> bool:
    """Whether what is there was made as is wanted; anything else is refused, or removed."""
    try:
        found = read()
        changed = sorted(name for name in {*found, *key} if found.get(name) != key.get(name))
        if changed:
            raise StaleArtifactError(
                f"{path} was made with another {', '.join(changed)}; use --overwrite, or delete that folder"
            )
    except ArtifactError as error:
        if not overwrite:
            raise
        _log.info("%s is replaced: %s", path, error)
        shutil.rmtree(path)
        return False
    return True


def _key(store: "PatchStore", info: "EvidenceInfo", config: EvidenceConfig) -> dict[str, Any]:
    patches = hashlib.sha256(np.ascontiguousarray(store.patch_ids, dtype="<i8").tobytes()).hexdigest()[:16]
    sight = look(store, _demand(info, config))
    return {
        "slide": store.attributes["key"]["slide"],
        "slide_id": store.slide.slide_id,
        "grid": {name: int(value) for name, value in asdict(store.grid).items()},
        "patches": patches,
        "shards": len(store.shards),
        "mpp": float(store.mpp),
        "source": sight.source,
        "model": hashlib.sha256(json.dumps(asdict(info), sort_keys=True).encode()).hexdigest()[:16],
        "config": digest(config),
        "schema_version": schema.SCHEMA_VERSION,
    }


def _part(out: Path, number: int) -> Path:
    return out / PARTS / f"part-{number:05d}.parquet"


def _demand(info: "EvidenceInfo", config: EvidenceConfig) -> Demand:
    margin = info.margin_px if config.margin_px is None else config.margin_px
    return Demand(info.mpp, config.mpp_tolerance, margin, info.stride_px, config.reduce)


def _is_usable(region: "RegionPixels", config: EvidenceConfig) -> bool:
    """Whether a window is shown to the model; of a stored patch nobody knows any more which px were unreadable."""
    known = region.lost is not None or not region.unreadable
    return known and region.unreadable <= config.max_unreadable


def _answer(model: "EvidenceMapper", regions: "list[RegionPixels]") -> list[NDArray[np.float32]]:
    if not regions:
        return []
    maps = model(np.stack([region.rgb for region in regions]))
    numbers = maps[np.isfinite(maps)]
    if len(numbers) and (numbers.min() < -_ROUNDING or numbers.max() > 1 + _ROUNDING):
        raise ModelError(
            f"evidence model {model.info.model_id} gives values from {numbers.min():g} to {numbers.max():g}; evidence "
            "lies in [0, 1]"
        )
    return list(maps)


def _row(
    store: "PatchStore",
    sight: Sight,
    row: int,
    seen: "tuple[RegionPixels, PatchFrame]",
    answer: NDArray[np.float32] | None,
) -> dict[str, Any]:
    """Return the row of `EVIDENCE_PARTS` of one patch."""
    region, frame = seen
    block = sight.blocks[row]
    codes = None if answer is None else _block(answer, region.lost, frame, sight, block)
    status = "unreadable" if answer is None else "failed" if codes is None else "done"
    if codes is not None and codes.size and (codes == NOT_LOOKED).all():
        status, codes = "unreadable", None
    return {
        "slide_id": store.slide.slide_id,
        "patch_id": int(store.patch_ids[row]),
        "status": status,
        "no_data": float(region.no_data),
        "unreadable": float(region.unreadable),
        **dict(zip(("x0", "y0", "x1", "y1"), block.tolist(), strict=True)),
        "codes": None if codes is None else codes.astype("<u2").tobytes(),
    }


def _block(
    answer: NDArray[np.float32],
    lost: NDArray[np.bool_] | None,
    frame: PatchFrame,
    sight: Sight,
    block: NDArray[np.int64],
) -> Codes | None:
    """Mean evidence of each px of a block, `NOT_LOOKED` where lost px had a say; None if one is not a number."""
    x0, y0, x1, y1 = block.tolist()
    grid = sight.map_grid.grid
    columns = np.minimum(np.arange(x0, x1 + 1) * sight.map_grid.px, grid.width) - frame.x_px
    rows = np.minimum(np.arange(y0, y1 + 1) * sight.map_grid.px, grid.height) - frame.y_px
    # A window is rounded to whole px of what it is read from; an edge on the slide's own edge can lie a hair beyond it.
    across, down = (np.clip(edges / frame.scale, 0, len(answer)) for edges in (columns, rows))
    # Beyond the block may lie what the border of the window has spoilt.
    top, bottom, left, right = (int(v) for v in (down[0], np.ceil(down[-1]), across[0], np.ceil(across[-1])))
    part = answer[top:bottom, left:right]
    if not np.isfinite(part).all():
        return None
    if not part.size or x0 == x1 or y0 == y1:
        return np.zeros((max(y1 - y0, 0), max(x1 - x0, 0)), np.uint16)
    codes = encode(_means(part, down - top, across - left))
    if lost is not None:
        felt = grown(lost, sight.margin_px)[top:bottom, left:right]
        codes[_means(felt.astype(np.uint8), down - top, across - left) > 0] = NOT_LOOKED
    return codes


def _means(
    part: NDArray[np.floating] | NDArray[np.uint8], down: NDArray[np.float64], across: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Means of a part between edges of rows and of columns, px of the part."""
    means = area_means(part, down[:-1], down[1:])
    return area_means(means.T, across[:-1], across[1:]).T


def _bands(paths: list[Path], sight: Sight) -> Iterator[Codes]:
    """Give the rows of shards of the map, from top to bottom."""
    height, width = sight.map_grid.shape
    spans = [_span(path) for path in paths]
    for top in range(0, height, SHARD):
        band = np.full((min(SHARD, height - top), width), NOT_LOOKED, np.uint16)
        for path, (low, high) in zip(paths, spans, strict=True):
            if low < top + len(band) and high > top:
                _lay(band, top, path)
        yield band


def _span(path: Path) -> tuple[int, int]:
    """First row of the map a part has, and the one behind its last."""
    with artifact.open_table(path, schema.EVIDENCE_PARTS) as file:
        rows = file.read(["y0", "y1"])
    return int(rows["y0"].to_numpy().min()), int(rows["y1"].to_numpy().max())


def _lay(band: Codes, top: int, path: Path) -> None:
    for row in artifact.read_table(path, schema.EVIDENCE_PARTS).to_pylist():
        codes, height, width = row["codes"], row["y1"] - row["y0"], row["x1"] - row["x0"]
        if codes is None or not height * width:
            continue
        block = np.frombuffer(codes, "<u2").reshape(height, width)
        first, last = max(row["y0"], top), min(row["y1"], top + len(band))
        if first < last:
            band[first - top : last - top, row["x0"] : row["x1"]] = block[first - row["y0"] : last - row["y0"]]


def _columns(paths: list[Path]) -> dict[str, NDArray[Any]]:
    """Return `evidence_map.COLUMNS` of all patches, in the order of the store.

    One part after the other: the codes of a slide are a gigabyte.
    """
    found: dict[str, list[Any]] = {name: [] for name in evidence_map.COLUMNS}
    for path in paths:
        table = artifact.read_table(path, schema.EVIDENCE_PARTS)
        for name in ("patch_id", "no_data", "unreadable"):
            found[name] += table[name].to_pylist()
        found["state"] += [STATES.index(name) for name in table["status"].to_pylist()]
        for content in table["codes"].to_pylist():
            codes = np.frombuffer(content or b"", "<u2")
            codes = codes[codes != NOT_LOOKED]
            found["core_max"].append(codes.max() / evidence_map.FULL if len(codes) else np.nan)
            found["core_mean"].append(codes.mean(dtype=np.float64) / evidence_map.FULL if len(codes) else np.nan)
    return {name: np.array(values, evidence_map.COLUMNS[name]) for name, values in found.items()}


def _facts(
    store: "PatchStore", info: "EvidenceInfo", config: EvidenceConfig, sight: Sight, columns: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """Return what the group says about itself."""
    states = {name: int((columns["state"] == k).sum()) for k, name in enumerate(STATES) if name}
    return {
        "slide": slide_facts(store.slide),
        "grid": asdict(store.grid),
        "shape": list(sight.map_grid.shape),
        "px": sight.map_grid.px,
        "origin_px": [0, 0],
        "mpp": sight.map_grid.px * store.slide.resolution(),
        "model_id": info.model_id,
        "region": list(info.region),
        "threshold": info.threshold,
        "margin_px": _demand(info, config).margin_px,
        "window_px": sight.windows.side,
        "source": sight.source,
        "patches": len(store),
        "states": states,
        "config": config.model_dump(mode="json"),
        "key": _key(store, info, config),
    }
