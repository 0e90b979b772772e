"""Maps held against boxes: what is measured, the truth made of the boxes, the ceiling and the floor.

Boxes say where a cell is, not which px are its. Truth is the ellipse inscribed in the box of every cell that counts.
The ceiling knows the centre of every such cell and nothing of its extent; the floor is noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_detect.evaluation.pixel_ap import pixel_figures

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class EvidenceFigures:
    """What the maps of some fields are worth; percent, None where the truth leaves a figure undefined.

    Attributes:
        pxap: PxAP over the px of all fields.
        pxap_region: PxAP over the px of fields with a region.
        best_dice: over all fields, at the best threshold.
        pointing: fields with a region whose highest px lies in the box of a cell that counts.
        negative_mean: mean evidence of fields without a region.
        prevalence: px of the region among those of all fields, which is the PxAP of chance.
        prevalence_region: the same among those of fields with a region.
    """

    pxap: float | None
    pxap_region: float | None
    best_dice: float | None
    pointing: float | None
    negative_mean: float | None
    prevalence: float | None
    prevalence_region: float | None


def evidence_figures(maps: Sequence[Map], boxes: Sequence[NDArray[np.float64]]) -> EvidenceFigures:
    """Measure maps.

    Args:
        maps: (H, W) in [0, 1], one a field.
        boxes: (N, 4) xyxy, px of the map, of the cells that count; none for a field without a region.

    Raises:
        ValueError: a map leaves [0, 1].
        NonFiniteError: a map holds NaN.
    """
    masks = [ellipses(found, shown.shape) for shown, found in zip(maps, boxes, strict=True)]
    region = [k for k, found in enumerate(boxes) if len(found)]
    everything = pixel_figures(zip(maps, masks, strict=True))
    held = pixel_figures((maps[k], masks[k]) for k in region)
    points = [pointing(maps[k], boxes[k]) for k in region]
    calm = [float(shown.mean()) for shown, found in zip(maps, boxes, strict=True) if not len(found)]
    return EvidenceFigures(
        pxap=everything.pxap,
        pxap_region=held.pxap,
        best_dice=everything.best_dice,
        pointing=100 * float(np.mean(points)) if points else None,
        negative_mean=100 * float(np.mean(calm)) if calm else None,
        prevalence=everything.prevalence,
        prevalence_region=held.prevalence,
    )


def ellipses(boxes: NDArray[np.float64], shape: tuple[int, ...]) -> Mask:
    """Px (H, W) whose centre lies in the ellipse inscribed in one of the boxes (N, 4) xyxy."""
    mask = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes.tolist():
        rows, columns, part = _window((x0, y0, x1, y1), shape)
        dy = (rows + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
        dx = (columns + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
        mask[part] |= dx[None] ** 2 + dy[:, None] ** 2 <= 1
    return mask


def pointing(shown: Map, boxes: NDArray[np.float64]) -> float:
    """Pointing game (Zhang et al., IJCV 2018): 1 if the highest px lies in a box, 0 if not; of several, their share.

    Args:
        shown: (H, W).
        boxes: (N, 4) xyxy, px of the map, at least one.
    """
    inside = np.zeros(shown.shape, bool)
    for box in boxes.tolist():
        rows, columns, part = _window(tuple(box), shown.shape)
        inside[part] |= ((rows + 0.5 >= box[1]) & (rows + 0.5 <= box[3]))[:, None] & (
            (columns + 0.5 >= box[0]) & (columns + 0.5 <= box[2])
        )
    return float(inside[shown == shown.max()].mean())


def oracle_map(boxes: NDArray[np.float64], shape: tuple[int, ...], diameter_px: float) -> Map:
    """What could be mapped by one who knows each centre: 1 there, falling evenly to 0 at the distance `diameter_px`."""
    shown = np.zeros(shape, np.float32)
    y, x = np.arange(shape[0])[:, None] + 0.5, np.arange(shape[1])[None] + 0.5
    for x0, y0, x1, y1 in boxes.tolist():
        away = np.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2)
        np.maximum(shown, 1 - away / diameter_px, out=shown, casting="same_kind")
    return shown


def _window(
    box: tuple[float, ...], shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64], tuple[slice, slice]]:
    """Rows and columns of the px that a box touches."""
    low = max(int(box[1]), 0), max(int(box[0]), 0)
    high = min(int(np.ceil(box[3])), shape[0]), min(int(np.ceil(box[2])), shape[1])
    part = slice(low[0], max(high[0], low[0])), slice(low[1], max(high[1], low[1]))
    return np.arange(part[0].start, part[0].stop), np.arange(part[1].start, part[1].stop), part
