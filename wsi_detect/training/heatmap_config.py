"""What the training of an evidence model may vary."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from wsi_detect.config import Config
from wsi_detect.data.use import Use
from wsi_detect.training.config import OptimiserConfig, Precision


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("an odd number, so that the square has a centre")
    return value


OddPx = Annotated[int, Field(ge=1), AfterValidator(_odd)]


class BagConfig(Config):
    """What a step is made of."""

    #: Slides (or fields) a step.
    bags: int = Field(4, ge=1)
    #: Patches drawn of each; 1 where the label is that of the patch or field itself.
    patches: int = Field(4, ge=1)
    #: The logit of a bag is the mean of its highest patches, this many; the decoder takes seeds from these alone.
    top: int = Field(2, ge=1)
    #: Of the bags, from slides with a region.
    positive_share: float = Field(0.5, gt=0, lt=1)
    #: Side of the picture cut from each patch; None takes whole patches.
    crop_px: int | None = Field(None, ge=16)
    augmentation: str = "cytology"
    workers: int = Field(0, ge=0)


class PhaseConfig(Config):
    """One of the two phases."""

    steps: int = Field(500, ge=1)
    optimiser: OptimiserConfig = OptimiserConfig()


class SeedConfig(Config):
    """How pixels are drawn as evidence: `losses.negative_evidence.SeedRule`."""

    seeder: Literal["probability", "low_background", "otsu"] = "probability"
    region: int = Field(1, ge=0)
    background: int = Field(1, ge=0)
    dilation_px: OddPx = 3
    low_share: float = Field(0.2, gt=0, le=1)
    erosion_px: OddPx = 11


class LossConfig(Config):
    """Weights of the terms: `losses.negative_evidence.NegativeEvidenceLoss`."""

    seed_weight: float = Field(1.0, ge=0)
    negative_weight: float = Field(1.0, ge=0)
    size_weight: float = Field(0.0, ge=0)
    seeds_of_negatives: bool = False


class EvidenceFacts(Config):
    """Facts about the model that its data decide; they go into the bundle and its card."""

    name: str = "evidence"
    preparation: str = "unknown"
    data_card: str = "unknown"
    mpp_assumed: bool = False
    threshold: float = Field(0.5, gt=0, lt=1)
    #: Keep the bundle's weights in half precision.
    half: bool = False


class EvidenceTrainingConfig(Config):
    """One training run of two phases."""

    #: What the licence on the data card, if one is given, has to allow.
    use: Use = "research"
    #: Labels of slides that count as region.
    region: tuple[str, ...] = ("1",)
    #: Labels that say nothing of a region, beside the names of the taxonomy; any other is refused as a mistake.
    negative: tuple[str, ...] = ("0", "negative")
    #: A logit for each kind of region instead of one for all.
    per_class: bool = False
    #: Options of `detectors.heatmap.EvidenceModelConfig`.
    model: dict[str, Any] = Field(default_factory=dict)
    bag: BagConfig = BagConfig()
    #: Of the places of an activation map, the highest whose mean is the logit of a patch. 1: weighted global average
    #: pooling, the paper's. Less: multiple-instance learning, one patch a bag of places.
    top_share: float = Field(1.0, gt=0, le=1)
    classifier: PhaseConfig = PhaseConfig()
    decoder: PhaseConfig = PhaseConfig()
    loss: LossConfig = LossConfig()
    seeds: SeedConfig = SeedConfig()
    description: EvidenceFacts = EvidenceFacts()
    checkpoint_minutes: float = Field(5.0, gt=0)
    clip_norm: float = Field(5.0, gt=0)
    ema_decay: float = Field(0.998, ge=0, lt=1)
    precision: Precision = "bf16-mixed"
    accelerator: str = "auto"
    #: Processes would all draw the same bags.
    devices: Literal[1] = 1
    #: Threads of torch on a CPU; None leaves its own choice.
    threads: int | None = Field(None, ge=1)
    seed: int = 0
