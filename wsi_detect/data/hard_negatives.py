"""Hard negatives: patches of negative slides in which an evidence model sees most, back to the sampler.

A slide that is negative by its report has no abnormal cell, so whatever evidence it shows is a false alarm. The worst
of its patches are listed for people to look at, and a share of the background draws of training goes to them.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from wsi_detect import artifact, schema
from wsi_detect.data.index import PatchIndex
from wsi_detect.data.repeats import Counts, Weights
from wsi_detect.errors import ConfigError, LabelError, StaleArtifactError
from wsi_detect.taxonomy import CLASSES
from wsi_detect.tiling.evidence_grid import MapGrid
from wsi_detect.tiling.evidence_map import FULL, NOT_LOOKED, EvidenceMap
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.patch_store import read_attributes

TABLE = "hard_negatives.parquet"
#: The same for people.
LIST = "hard_negatives.csv"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HardNegatives:
    """Which patches are meant.

    Attributes:
        most: patches of all slides together.
        most_per_slide: of one slide, so that a single bad stain does not fill the list.
        above: evidence a patch must reach somewhere; None is the threshold of the map.
    """

    most: int = 1000
    most_per_slide: int = 50
    above: float | None = None


def find_hard_negatives(
    index: PatchIndex,
    maps: Mapping[str, Path],
    negative: Collection[str],
    rule: HardNegatives | None = None,
    *,
    split: str = "train",
) -> pa.Table:
    """Rank the patches of negative slides by the evidence in their cores.

    The rank goes by the highest evidence, among equals by the share of px above the threshold. Patches are of one
    split, so that nothing of a slide a model is judged on reaches its training. Patches with a labelled cell are left
    out: they are drawn as it is.

    Args:
        index: of the data set.
        maps: slide → its `heatmap.zarr`, made from the patches of the index.
        negative: slides whose label says that there is nothing abnormal.
        rule: how many, and above what.
        split: whose patches.

    Returns:
        Rows of `schema.HARD_NEGATIVES`, the worst first.

    Raises:
        LabelError: a slide called negative has labelled abnormal cells, no slide of the split is negative, or none
            that is has a map.
        ArtifactError: a map is missing or damaged, of another slide, or of other patches than the index.
    """
    rule = rule or HardNegatives()
    rows = index.rows(split)
    mine = sorted({index.slide_ids[row] for row in rows} & set(negative))
    if not mine:
        raise LabelError(f"no slide of split {split!r} is called negative; there is nothing to find hard negatives in")
    _check_negative(index, mine)
    if not set(mine) & set(maps):
        raise LabelError(f"none of the {len(mine)} negative slides of split {split!r} has a map; map them first")
    missing = [slide for slide in mine if slide not in maps]
    if missing:
        _log.warning("hard negatives: %d negative slides have no map: %s", len(missing), ", ".join(missing[:10]))
    empty = rows[~index.counts[rows].any(axis=1)]
    wanted = {slide: {int(index.patch_ids[row]) for row in empty if index.slide_ids[row] == slide} for slide in mine}
    found = [
        entry
        for slide in mine
        if slide in maps
        for entry in _of_slide(_map_of(slide, maps[slide], index), wanted[slide], rule)
    ]
    found.sort(key=_order)
    del found[rule.most :]
    _log.info("hard negatives: %d patches of %d negative slides", len(found), len(mine) - len(missing))
    return artifact.table_of([{**entry, "rank": k + 1} for k, entry in enumerate(found)], schema.HARD_NEGATIVES)


def write_hard_negatives(table: pa.Table, out: Path) -> Path:
    """Write the table for the sampler, and beside it the same as CSV for whoever looks at the patches.

    Returns:
        The table.
    """
    artifact.write_table(out / TABLE, table, schema.HARD_NEGATIVES)
    with artifact.atomic(out / LIST) as partial:
        pa.csv.write_csv(table, partial)
    return out / TABLE


def read_hard_rows(path: Path, index: PatchIndex, split: str = "train") -> NDArray[np.int64]:
    """Return which patches of a split, counted within the split, are hard negatives: (H,), the worst first.

    Raises:
        ArtifactError: the table is missing or damaged.
        LabelError: none of its patches is in the split, or one that is has a labelled cell.
    """
    table = artifact.read_table(path, schema.HARD_NEGATIVES)
    rows = index.rows(split)
    places = {(index.slide_ids[row], int(index.patch_ids[row])): k for k, row in enumerate(rows)}
    names = zip(table["slide_id"].to_pylist(), table["patch_id"].to_pylist(), strict=True)
    found = list(dict.fromkeys(places[name] for name in names if name in places))
    if not found:
        raise LabelError(f"{path}: none of its {table.num_rows} patches is in split {split!r} of this index")
    counts = index.counts[rows]
    filled = [k for k in found if counts[k].any()]
    if filled:
        row = rows[filled[0]]
        raise LabelError(
            f"{path}: patch {index.patch_ids[row]} of slide {index.slide_ids[row]} has labelled cells by this index; "
            "it is no hard negative, find them again"
        )
    return np.array(found, np.int64)


def with_hard_negatives(weights: Weights, counts: Counts, hard: NDArray[np.int64], share: float) -> Weights:
    """Give hard negatives a share of the draws that go to patches without any cell.

    Patches with cells keep their weights, whatever the sampler; an epoch stays a pure function of weights, seed and
    epoch, so a run that stopped goes on as it would have.

    Args:
        weights: (P,) of a sampler.
        counts: (P, K) cells of each class in each patch.
        hard: (H,) rows that are hard negatives.
        share: of the background draws, in [0, 1]; divided evenly among them.

    Raises:
        ConfigError: the share is out of range, or the sampler draws no background.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"hard_share lies in [0, 1], got {share}")
    changed = np.array(weights, np.float64)
    empty = np.asarray(counts).sum(axis=1) == 0
    quota = float(changed[empty].sum())
    if not quota > 0:
        raise ConfigError(
            "hard negatives are drawn from the share of the background; set loader.background_share above 0"
        )
    changed[empty] *= 1 - share
    changed[hard] += share * quota / len(hard)
    return changed


def _check_negative(index: PatchIndex, slides: Collection[str]) -> None:
    # What is no name of the taxonomy is abnormal for all that is known.
    abnormal = np.array([name not in CLASSES or CLASSES[name].abnormal for name in index.classes])
    grave = np.flatnonzero(index.counts[:, abnormal].any(axis=1))
    filled = sorted({index.slide_ids[row] for row in grave} & set(slides))
    if filled:
        raise LabelError(
            f"{len(filled)} slides called negative have labelled abnormal cells, first {filled[0]}; mend their slide "
            "labels, or leave them out"
        )


def _map_of(slide: str, path: Path, index: PatchIndex) -> EvidenceMap:
    """The map of a slide, if it was made from the patches of the index: their numbers mean nothing otherwise."""
    found = EvidenceMap.open(path)
    if found.slide.slide_id != slide:
        raise StaleArtifactError(f"{path} is the map of slide {found.slide.slide_id}, not of {slide}")
    if TileGrid(**found.attributes["grid"]) != TileGrid(**read_attributes(index.stores[slide])["grid"]):
        raise StaleArtifactError(f"{path} is of other patches than the index ({index.stores[slide]}); map these")
    return found


def _of_slide(found: EvidenceMap, wanted: Collection[int], rule: HardNegatives) -> list[dict[str, Any]]:
    """Rows of one slide, its worst first, without their rank."""
    above = found.threshold if rule.above is None else rule.above
    grid = MapGrid(TileGrid(**found.attributes["grid"]), found.px)
    blocks = grid.blocks()
    # NaN is of patches nobody could look at: no false alarm is known there.
    highest = found.columns["core_max"]
    rows = [k for k in np.flatnonzero(highest > above).tolist() if int(found.columns["patch_id"][k]) in wanted]
    entries = []
    for k in rows:
        patch = int(found.columns["patch_id"][k])
        x0, y0, x1, y1 = blocks[patch].tolist()
        codes = found.codes((y0, y1), (x0, x1))
        looked = codes != NOT_LOOKED
        y, x = np.unravel_index(int(np.where(looked, codes, 0).argmax()), codes.shape)
        side = np.array([[x0 + x, y0 + y, x0 + x + 1, y0 + y + 1]], np.int64)
        entries.append(
            {
                "slide_id": found.slide.slide_id,
                "patch_id": patch,
                "evidence": float(highest[k]),
                "share_above": float((looked & (codes > above * FULL)).mean()),
                **dict(zip(schema.BOX_COLUMNS, grid.extents(side)[0].tolist(), strict=True)),
            }
        )
    return sorted(entries, key=_order)[: rule.most_per_slide]


def _order(entry: Mapping[str, Any]) -> tuple[float, float, str, int]:
    return -entry["evidence"], -entry["share_above"], entry["slide_id"], entry["patch_id"]
