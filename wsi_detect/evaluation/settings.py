"""How to evaluate: the section `evaluation` of a configuration."""

from typing import Annotated

from pydantic import Field, model_validator

from wsi_detect.config import Config
from wsi_detect.evaluation.confusion import OVER, UNDER
from wsi_detect.evaluation.froc import CAMELYON16
from wsi_detect.evaluation.groups import Unit
from wsi_detect.evaluation.slide_level import SlideRule

Rates = tuple[Annotated[float, Field(ge=0)], ...]


class EvaluationConfig(Config):
    """How to evaluate.

    Attributes:
        merge_iou: boxes of different classes that overlap so much mean one cell, where the class does not matter.
        max_detections: of an image and a class that count, those that score highest; None for all.
        false_positives: per field, at which recall is read.
        false_positives_per_slide: the same per slide, where slides are known.
        false_positives_per_mm2: the same per mm² inside the ROIs, where the resolution is known.
        froc_points: false positives per unit over which the FROC score is averaged.
        size_ranges_um: name → smallest and largest side of a cell, µm, for AP by size.
        training_counts: class → its training images or cells, for rare, common and frequent classes.
        rare_up_to: most training examples of a rare class.
        common_up_to: most of a common one.
        min_score: detections below it are not shown; for confusion, its cost, and grades.
        under: cost of calling a cell one step of gravity too mild.
        over: cost of one step too grave.
        hits_at: crops of the gallery that are looked at.
        slide_rule: how a slide (or a field, where slides are not known) is scored.
        sensitivity: that the operating point must reach on the split it is chosen on.
        resample: what the bootstrap draws; None takes the largest unit known of every image.
        replicates: of the bootstrap; 0 for no intervals.
        confidence: of the intervals.
        seed: of the bootstrap.
        rescale: images and boxes are resized by this factor before the detector sees them.
    """

    merge_iou: float = Field(default=0.5, gt=0, le=1)
    max_detections: int | None = Field(default=None, ge=1)
    false_positives: Rates = (1.0, 4.0)
    false_positives_per_slide: Rates = (1.0, 10.0, 100.0)
    false_positives_per_mm2: Rates = (1.0, 10.0)
    froc_points: Rates = CAMELYON16
    size_ranges_um: dict[str, tuple[float, float]] = Field(default_factory=dict)
    training_counts: dict[str, int] = Field(default_factory=dict)
    rare_up_to: int = Field(default=10, ge=0)
    common_up_to: int = Field(default=100, ge=0)
    min_score: float = Field(default=0.25, ge=0, le=1)
    under: float = Field(default=UNDER, ge=0)
    over: float = Field(default=OVER, ge=0)
    hits_at: tuple[Annotated[int, Field(ge=1)], ...] = (1, 5, 12)
    slide_rule: SlideRule = SlideRule()
    sensitivity: float = Field(default=0.95, gt=0, le=1)
    resample: Unit | None = None
    replicates: int = Field(default=1000, ge=0)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    seed: int = 0
    rescale: float = Field(default=1.0, gt=0.05, lt=20)

    @model_validator(mode="after")
    def _in_order(self) -> "EvaluationConfig":
        if self.rare_up_to > self.common_up_to:
            raise ValueError("rare_up_to must not exceed common_up_to")
        if not self.over <= self.under:
            raise ValueError("over must not exceed under: to miss a lesion costs at least what a false alarm does")
        if not self.froc_points:
            raise ValueError("froc_points must name at least one number of false positives")
        wrong = [name for name, (low, high) in self.size_ranges_um.items() if not 0 <= low < high]
        if wrong:
            raise ValueError(f"size range {wrong[0]!r} must go from a smaller to a larger side, in µm")
        return self
