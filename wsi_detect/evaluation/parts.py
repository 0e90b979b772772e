"""What a figure is called, and what it is computed from; shared by all modules that give figures with intervals."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.columns import Columns
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.settings import EvaluationConfig

Floats = NDArray[np.float64]


class Key(NamedTuple):
    """What names a figure: the columns of `schema.METRICS` of these names."""

    metric: str
    label: str
    threshold: float | None = None
    subset: str | None = None
    unit: str | None = None

    @property
    def text(self) -> str:
        """One name, for the bootstrap."""
        return "|".join(map(str, self))


Values = dict[Key, float | None]


class Part(NamedTuple):
    """Figures that are resampled together.

    Attributes:
        values: takes (F,) how often each image counts.
        number: of what each figure is about, in the data as they are: cells, images, detections.
    """

    values: Callable[[Floats], Values]
    number: Callable[[Key], int]


class Scene(NamedTuple):
    """What figures are computed from; only what lies inside ROIs.

    Attributes:
        predictions: one a truth.
        truths: one an image.
        classes: names to report, gravest first.
        config: how to evaluate.
        columns: predictions and truths in columns; labels merged at `config.merge_iou`.
    """

    predictions: Sequence[FieldPrediction]
    truths: Sequence[FieldTruth]
    classes: Sequence[str]
    config: EvaluationConfig
    columns: Columns
