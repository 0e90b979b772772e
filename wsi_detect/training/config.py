"""What a training run may vary."""

from typing import Any, Literal

from pydantic import Field

from wsi_detect.config import Config
from wsi_detect.data.use import Use


class OptimiserConfig(Config):
    """AdamW under a one-cycle schedule."""

    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    #: Share of the steps in which the learning rate rises.
    warmup: float = Field(0.1, gt=0, lt=1)


class LoaderConfig(Config):
    """Which patches are drawn, and what is done to them."""

    sampler: str = "class_aware"
    #: Options of the sampler's own, such as `threshold` of repeat_factor.
    sampler_options: dict[str, Any] = Field(default_factory=dict)
    #: Share of draws that go to patches without any cell.
    background_share: float = Field(0.05, ge=0, lt=1)
    #: Table of `wsi-detect hard-negatives`: patches of negative slides that look abnormal.
    hard_negatives: str | None = None
    #: Share of the background draws that go to them.
    hard_share: float = Field(0.5, ge=0, le=1)
    augmentation: str = "cytology"
    crop_px: int | None = Field(None, ge=64)
    #: Probability that a crop is laid over a cell rather than anywhere.
    aim: float = Field(0.5, ge=0, le=1)
    batch_size: int = Field(8, ge=1)
    workers: int = Field(0, ge=0)


class DescriptionConfig(Config):
    """Facts about the model that its data decide; they go into the bundle and its card."""

    name: str = "detector"
    preparation: str = "unknown"
    #: Name of the data card; `unknown` takes that of the card beside the annotations.
    data_card: str = "unknown"
    mpp_assumed: bool = False
    #: Side of the largest box, µm; None takes it from the annotations.
    largest_cell_um: float | None = Field(None, gt=0)
    score_threshold: float = Field(0.05, gt=0, lt=1)
    #: Keep the bundle's weights in half precision.
    half: bool = False


class TrainingConfig(Config):
    """One training run."""

    #: What the detector is for; the licence on the data set's card must allow it. See `data/use.py`.
    use: Use = "research"
    detector: str = "fcos"
    options: dict[str, Any] = Field(default_factory=dict)
    optimiser: OptimiserConfig = OptimiserConfig()
    loader: LoaderConfig = LoaderConfig()
    description: DescriptionConfig = DescriptionConfig()
    #: Bundle whose weights to begin with, of the same detector and classes; None begins with random ones.
    start_from: str | None = None
    steps: int = Field(1000, ge=1)
    validate_every: int = Field(250, ge=1)
    checkpoint_minutes: float = Field(5.0, gt=0)
    clip_norm: float = Field(5.0, gt=0)
    ema_decay: float = Field(0.998, ge=0, lt=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "bf16-mixed"
    accelerator: str = "auto"
    devices: int | Literal["auto"] = "auto"
    #: Threads of torch on a CPU; None leaves its own choice.
    threads: int | None = Field(None, ge=1)
    seed: int = 0
