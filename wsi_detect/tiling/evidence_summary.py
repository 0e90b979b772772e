"""A slide's evidence map in a line of a table."""

from dataclasses import dataclass

import numpy as np

from wsi_detect.tiling.evidence_map import FULL, NOT_LOOKED, SHARD, EvidenceMap


@dataclass(frozen=True, slots=True)
class EvidenceSummary:
    """What a map comes to; None where nobody looked at any px.

    Attributes:
        looked_mm2: area looked at, mm².
        mean: evidence over that area.
        highest: greatest evidence.
        region_share: of that area, how much is above the threshold.
    """

    looked_mm2: float
    mean: float | None
    highest: float | None
    region_share: float | None


def summarise(found: EvidenceMap, threshold: float | None = None) -> EvidenceSummary:
    """Read a map band by band.

    Args:
        found: the map.
        threshold: None for the model's own.
    """
    level = (found.threshold if threshold is None else threshold) * FULL
    looked = above = highest = 0
    total = 0.0
    height, width = found.shape
    for top in range(0, height, SHARD):
        codes = found.codes((top, min(top + SHARD, height)), (0, width))
        seen = codes[codes != NOT_LOOKED]
        looked += seen.size
        above += int((seen > level).sum())
        total += float(seen.sum(dtype=np.float64))
        highest = max(highest, int(seen.max(initial=0)))
    area = looked * (found.mpp / 1000) ** 2
    if not looked:
        return EvidenceSummary(area, None, None, None)
    return EvidenceSummary(area, total / FULL / looked, highest / FULL, above / looked)
