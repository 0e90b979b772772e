"""What became of a slide that was to be tiled, and the exit code of many."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from wsi_detect.run.summary import exit_code_of
from wsi_detect.tiling.patch_store import PatchStore

TILED = "TILED"
PARTLY = "PARTLY TILED"
NOT_TILED = "NOT TILED"


@dataclass(frozen=True, slots=True)
class TileResult:
    """What became of a slide.

    Attributes:
        slide_id: of the slide.
        status: TILED, PARTLY TILED (some pixels cannot be read) or NOT TILED.
        reason: why it is not TILED.
        patches: in the store.
        patch_px: side of a patch.
        mpp: µm per px of the patches.
        codec: of the store; what "auto" came to.
        codec_reason: why.
        bytes: of the store's shards.
        unreadable_patches: with pixels that cannot be decoded; None for an index-only store, where nobody looked.
        unreadable_fraction: of the area of all patches; None likewise.
        no_data_fraction: of that area, where the scanner left a hole; None likewise.
        made: patches made in this run.
        seconds: this run took for them.
    """

    slide_id: str
    status: str
    reason: str | None = None
    patches: int = 0
    patch_px: int = 0
    mpp: float | None = None
    codec: str = ""
    codec_reason: str = ""
    bytes: int = 0
    unreadable_patches: int | None = None
    unreadable_fraction: float | None = None
    no_data_fraction: float | None = None
    made: int = 0
    seconds: float = 0.0

    @property
    def megapixels_per_s(self) -> float | None:
        """Megapixels of patches made per second; None if none were made."""
        return self.made * self.patch_px**2 / 1e6 / self.seconds if self.made and self.seconds else None


#: Of the table on disk; what depends on the machine stays out of it.
COLUMNS = tuple(field.name for field in fields(TileResult) if field.name not in ("made", "seconds"))


def exit_code(results: Sequence[TileResult], *, allow_bad: bool = False) -> int:
    """0 when every slide is TILED, 4 when every one is NOT TILED, 3 in between.

    Args:
        results: of all slides.
        allow_bad: take PARTLY TILED for TILED.
    """
    good = {TILED, PARTLY} if allow_bad else {TILED}
    return exit_code_of((result.status for result in results), good=good, bad=NOT_TILED)


def summary_of(store: PatchStore, made: int = 0, seconds: float = 0.0) -> TileResult:
    """Say what is in a finished store, of which so much was made now."""
    rows = len(store)
    looked = not store.index_only
    unreadable = store.columns["unreadable"].astype(np.float64) if looked else np.zeros(0)
    bad = int((unreadable > 0).sum())
    reason = None
    if bad:
        reason = f"{bad} of {rows} patches have unreadable pixels, {100 * unreadable.mean():.3g} % of their area"
    return TileResult(
        slide_id=store.slide.slide_id,
        status=PARTLY if bad else TILED,
        reason=reason,
        patches=rows,
        patch_px=store.patch_px,
        mpp=store.mpp,
        codec=store.codec,
        codec_reason=str(store.attributes.get("codec_reason", "")),
        bytes=sum(int(entry["size"]) for entry in store.attributes["shards"]),
        unreadable_patches=bad if looked else None,
        unreadable_fraction=round(float(unreadable.mean()), 9) if looked and rows else None,
        no_data_fraction=round(float(store.columns["no_data"].mean()), 9) if looked and rows else None,
        made=made,
        seconds=seconds,
    )
