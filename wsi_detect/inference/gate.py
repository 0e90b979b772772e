"""The gate: which patches of a slide a detector is shown, by the evidence there, and a sample of the others."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect.config import Config
from wsi_detect.errors import StaleArtifactError
from wsi_detect.tiling.evidence_grid import MapGrid
from wsi_detect.tiling.evidence_map import STATES
from wsi_detect.tiling.grid import TileGrid

if TYPE_CHECKING:
    from wsi_detect.tiling.evidence_map import EvidenceMap
    from wsi_detect.tiling.patch_store import PatchStore

Area = Literal["patch", "core"]


class GateConfig(Config):
    """Whether a detector is shown all patches.

    Attributes:
        threshold: patches without evidence above it are not shown; None shows every patch. A patch is shown where
            there is a place with no answer: out of sight of the evidence model there may be anything. Beyond the
            outermost patches nobody looked, so those that reach over their core are shown.
        area: of a patch in which evidence is looked for. With `patch` every patch is shown that has a place with
            evidence in view, so a cell there is found and stitched as without the gate; `core` saves more, and a cell
            across a border of cores may lose one of its views.
        audit_share: of the patches below the gate that are shown all the same, drawn at random, at least one of a slide
            unless it is 0: what they hold is an estimate of what the gate costs.
    """

    threshold: float | None = Field(None, ge=0, lt=1)
    area: Area = "patch"
    audit_share: float = Field(0.05, ge=0, le=1)


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """What the gate makes of the patches of a store; arrays have one entry a row.

    Attributes:
        config: as it was asked for.
        peaks: (N,) highest evidence of each, NaN where the evidence model did not look at all of it.
        passed: (N,) bool, above the gate, or not looked at as a whole.
        audited: (N,) bool, below the gate and shown all the same.
        no_data, unreadable: (N,) fractions of what the evidence model was shown.
    """

    config: GateConfig
    peaks: NDArray[np.float32]
    passed: NDArray[np.bool_]
    audited: NDArray[np.bool_]
    no_data: NDArray[np.float32]
    unreadable: NDArray[np.float32]

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Whether the detector is shown each patch, (N,)."""
        return self.passed | self.audited

    @property
    def key(self) -> dict[str, Any]:
        """What detections behind this gate are made from, besides the rest."""
        shown = hashlib.sha256(np.packbits(self.shown).tobytes()).hexdigest()[:16]
        return {"threshold": self.config.threshold, "shown": shown}

    def counts(self) -> dict[str, int]:
        """How many patches there are, how many passed, were audited, and were not shown."""
        passed, audited = int(self.passed.sum()), int(self.audited.sum())
        rest = len(self.passed) - passed - audited
        return {"patches": len(self.passed), "passed": passed, "audited": audited, "not_shown": rest}


def lay_gate(found: "EvidenceMap", store: "PatchStore", config: GateConfig) -> Gate | None:
    """Decide which patches are shown; None if the gate is open to all.

    Args:
        found: the map of the slide.
        store: its patches.
        config: threshold and audit.

    Raises:
        StaleArtifactError: the map is of other patches, or of another slide.
    """
    if config.threshold is None:
        return None
    peaks = patch_peaks(found, store, config.area)
    passed = passes(peaks, config.threshold)
    audited = _drawn(store, ~passed, config.audit_share)
    return Gate(config, peaks, passed, audited, found.columns["no_data"], found.columns["unreadable"])


def passes(peaks: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Which patches a gate lets through: (N,) evidence → (N,) bool. Where not all was looked at it is open."""
    return np.asarray(np.isnan(peaks) | (peaks > threshold))


def patch_peaks(found: "EvidenceMap", store: "PatchStore", area: Area = "patch") -> NDArray[np.float32]:
    """Highest evidence in each patch, or in its core: (N,).

    NaN where nobody looked at a px of it that is on the slide: it was not readable, the model gave no usable answer,
    or it is the neighbour's, and the neighbour has too few cells to be in the store.

    Raises:
        StaleArtifactError: the map is of other patches, or of another slide.
    """
    _check_origin(found, store)
    blocks = MapGrid(store.grid, found.px).blocks()[store.patch_ids].astype(np.float64) * found.px
    boxes = blocks
    if area == "patch":
        views = store.grid.boxes()[store.patch_ids]
        # A px that lies in two cores is its owner's: what a core owns may reach half a px beyond the patch.
        boxes = np.column_stack([np.minimum(views[:, :2], blocks[:, :2]), np.maximum(views[:, 2:], blocks[:, 2:])])
    peaks = found.peaks(boxes, whole=True)
    peaks[found.columns["state"] != STATES.index("done")] = np.nan
    return peaks


def _check_origin(found: "EvidenceMap", store: "PatchStore") -> None:
    """Refuse a map of another tiling: patches of one number lie elsewhere in another grid."""
    same_slide = found.attributes["key"].get("slide") == store.attributes["key"]["slide"]
    same_grid = TileGrid(**found.attributes["grid"]) == store.grid
    if not (same_slide and same_grid and np.array_equal(found.columns["patch_id"], store.patch_ids)):
        what = "other patches" if same_slide else "another slide file"
        raise StaleArtifactError(
            f"{found.path} was made from {what} than {store.path}; map it again, evidence --overwrite"
        )


def _drawn(store: "PatchStore", below: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Draw a share of the patches below the gate, the same ones whoever draws: those of the lowest hash."""
    rows = np.flatnonzero(below)
    names = [f"audit|{store.slide.slide_id}|{int(store.patch_ids[row])}" for row in rows]
    order = sorted(range(len(rows)), key=lambda k: hashlib.sha256(names[k].encode()).digest())
    drawn = np.zeros(len(below), np.bool_)
    drawn[rows[order[: int(np.ceil(share * len(rows)))]]] = True
    return drawn
