"""What a bundle of an evidence model says about itself, readable without torch.

The interface of an evidence model, whatever runs it: an object with `info`, an `EvidenceInfo`, that is called with
patches (B, H, W, 3) uint8 and gives evidence (B, H, W) float32 in [0, 1], one value a patch px: how much speaks for a
region there. `detectors.evidence_bundle.load_evidence(folder)` gives the network and its facts.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.detectors.info import CONFIG, EVIDENCE, KIND
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, ModelError


@dataclass(frozen=True, slots=True)
class EvidenceInfo:
    """Facts that travel with the weights in `config.json`.

    Attributes:
        model_id: name and hash of the weights.
        columns: names of the classifier's logits, every one a kind of region.
        region: what counts as the region, in words of the slide labels or of the taxonomy.
        patch_px: side of the patches it was trained for, patch px.
        mpp: µm per patch px it was trained at.
        mpp_assumed: the training data do not state their resolution; `mpp` is a plausible value.
        preparation: of the training slides, in the words of the slide manifest.
        margin_px: patch px; a value this far or farther from every border of its patch does not feel the border. Holds
            for patches whose sides are multiples of `stride_px`.
        stride_px: patch px; patches whose corners differ by multiples of it have the same evidence where they overlap,
            beyond the margin.
        threshold: evidence above it is called region.
        model: options of `detectors.heatmap.build_evidence_model`.
        data_card: which data it was trained on.
        training: how it was made (configuration, digest, steps), for the record.
    """

    model_id: str
    columns: tuple[str, ...]
    region: tuple[str, ...]
    patch_px: int
    mpp: float
    mpp_assumed: bool
    preparation: str
    margin_px: int
    stride_px: int
    threshold: float
    model: dict[str, Any]
    data_card: str
    training: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values, for `config.json`; they say that this is no detector."""
        return {KIND: EVIDENCE, **asdict(self)}


class EvidenceMapper(Protocol):
    """A model bundle ready to run."""

    @property
    def info(self) -> EvidenceInfo:
        """Region, patch size, resolution and origin of the model."""
        ...

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Patches (B, H, W, 3) uint8 RGB → evidence (B, H, W) in [0, 1]; no patch influences another."""
        ...


def read_evidence_info(folder: Path) -> EvidenceInfo:
    """Read the `config.json` of an evidence bundle.

    Raises:
        MissingArtifactError: no such file.
        ModelError: it is the bundle of a detector.
        DamagedArtifactError: a key is missing or unknown.
    """
    if not (folder / CONFIG).is_file():
        raise MissingArtifactError(f"{folder} is not a model bundle: {CONFIG} is missing")
    values = artifact.read_json(folder / CONFIG)
    if values.pop(KIND, None) != EVIDENCE:
        raise ModelError(
            f"{folder} is the bundle of a detector; an evidence model (docs/evidence-maps.md) is wanted here"
        )
    try:
        return EvidenceInfo(**{**values, "columns": tuple(values["columns"]), "region": tuple(values["region"])})
    except (TypeError, KeyError) as error:
        raise DamagedArtifactError(f"{folder / CONFIG}: {error}; the bundle was written by another version") from error
