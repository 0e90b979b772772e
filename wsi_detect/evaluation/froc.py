"""Sensitivity at false positives per field, slide or mm²: what a screener who looks at the marks would miss.

FROC after Bunch et al. 1978; the score after CAMELYON16 (Ehteshami Bejnordi et al. 2017): the mean sensitivity at given
numbers of false positives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_detect.evaluation.fields import FieldTruth
from wsi_detect.evaluation.matching import Pool

#: False positives per unit at which CAMELYON16 reads the sensitivity.
CAMELYON16 = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
UNITS = ("field", "slide", "mm2")


@dataclass(frozen=True, slots=True, eq=False)
class Froc:
    """The curve, from the highest score down; a threshold takes all detections of its score or none.

    Attributes:
        thresholds: (T,) scores, descending.
        false_positives: (T,) per unit with all detections of at least that score.
        sensitivity: (T,) share of the cells found with them.
    """

    thresholds: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    sensitivity: NDArray[np.float64]

    def score(self, at: Sequence[float] = CAMELYON16) -> float:
        """Mean sensitivity at these numbers of false positives, between the points of the curve along straight lines.

        Left of the first point nothing is found, right of the last one it stays what it was.
        """
        x, y = np.append(0.0, self.false_positives), np.append(0.0, self.sensitivity)
        return float(np.interp(at, x, y).mean())


def extents(truths: Sequence[FieldTruth], unit: str) -> NDArray[np.float64] | None:
    """How many units each image is: (F,); None where somebody does not know.

    Args:
        truths: one an image.
        unit: `field`; `slide`, of which its images are equal parts; `mm2`, the area inside the ROI of an image.

    Raises:
        ValueError: there is no such unit.
    """
    if unit == "field":
        return _parts([truth.field_id or truth.image_id for truth in truths])
    if unit == "slide":
        slides = [truth.slide_id for truth in truths if truth.slide_id is not None]
        return _parts(slides) if len(slides) == len(truths) else None
    if unit != "mm2":
        raise ValueError(f"false positives are counted per {', '.join(UNITS)}, not per {unit!r}")
    areas = [_area_mm2(truth) for truth in truths]
    known = [area for area in areas if area]
    return np.array(known) if len(known) == len(truths) else None


def froc(pool: Pool, extent: NDArray[np.floating]) -> Froc | None:
    """Return the curve; None without a cell to find.

    Args:
        pool: matched detections.
        extent: (F,) units each image is, see `extents`.
    """
    if not pool.n_cells:
        return None
    last = np.flatnonzero(np.append(pool.scores[1:] != pool.scores[:-1], True)[: len(pool.scores)])
    wrong, right = np.cumsum(~pool.hits)[last], np.cumsum(pool.hits)[last]
    return Froc(pool.scores[last], wrong / extent.sum(), right / pool.n_cells)


def recall_at(
    pool: Pool,
    false_positives: float,
    weights: NDArray[np.floating] | None = None,
    extent: NDArray[np.floating] | None = None,
) -> float | None:
    """Highest recall with at most so many false positives per unit, over all score thresholds.

    A threshold takes all detections of its score or none, so ties cannot be split in one's favour. Duplicates of a
    found cell are false positives. Nothing is interpolated.

    Args:
        pool: matched detections.
        false_positives: allowed per unit on average.
        weights: (F,) how often each image counts; None counts each once.
        extent: (F,) units each image is; None takes each image for one.

    Returns:
        The recall in [0, 1], None without a cell to find.
    """
    weights = np.ones(len(pool.cells)) if weights is None else np.asarray(weights, np.float64)
    cells = float(pool.cells @ weights)
    if not cells:
        return None
    if not len(pool.scores):
        return 0.0
    count = weights[pool.image]
    last = np.append(pool.scores[1:] != pool.scores[:-1], True)
    units = weights.sum() if extent is None else float(extent @ weights)
    return (
        highest(np.cumsum(count * pool.hits)[last], np.cumsum(count * ~pool.hits)[last], false_positives * units)
        / cells
    )


def highest(right: NDArray[np.floating], wrong: NDArray[np.floating], allowed: float) -> float:
    """Most cells found with at most so many false positives in all; both (T,), from the highest threshold down."""
    place = int(np.searchsorted(wrong, allowed + 1e-9, side="right"))
    return float(right[place - 1]) if place else 0.0


def _parts(names: Sequence[str]) -> NDArray[np.float64]:
    _, number, count = np.unique(np.asarray(names, dtype=object), return_inverse=True, return_counts=True)
    return np.asarray(1.0 / count[number], np.float64)


def _area_mm2(truth: FieldTruth) -> float | None:
    if not truth.mpp:
        return None
    image = shapely.box(0, 0, truth.width, truth.height)
    pixels = image.area if truth.roi is None else shapely.intersection(truth.roi, image).area
    return float(pixels) * truth.mpp**2 / 1e6
