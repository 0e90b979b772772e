"""Colour changes as one affine matrix, so that brightness, contrast, saturation, hue and stain cost one pass together.

The same factors as a usual colour jitter (torchvision, albumentations), with three differences. Values are cut to 0–255
once at the end, not after every change. Hue turns by the same angle, but keeps the luma of a colour where HSV keeps its
brightest channel. And the order of the changes means nothing, since without the cutting in between they commute.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import MissingExtraError

#: Weights of red, green and blue in luma (ITU-R BT.601), as in OpenCV's grey.
LUMA = np.array([0.299, 0.587, 0.114])
#: To luma and the plane of the colour circle; its angle is HSV's hue to within 1.2 degrees.
_TO_OPPONENT = np.array([LUMA, [1, -0.5, -0.5], [0, math.sqrt(0.75), -math.sqrt(0.75)]])
_FROM_OPPONENT = np.linalg.inv(_TO_OPPONENT)
_WHITE = 255.0


@dataclass(frozen=True, slots=True)
class ColourRange:
    """How far colours are changed.

    Attributes:
        brightness: largest relative change of all values.
        contrast: largest relative change of the distance from the picture's mean grey.
        saturation: largest relative change of the distance from each pixel's own grey.
        hue: largest turn, as a share of the circle.
        stain: largest relative change of what red, green and blue each lack to white, every channel for itself: more or
            less dye, in the first order of Beer and Lambert's law. Clean glass stays clean.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    stain: float = 0.0


@dataclass(frozen=True, slots=True)
class ColourChange:
    """One draw from a `ColourRange`: factors, 1 where nothing changes; hue as a share of the circle, 0 likewise."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    stain: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def matrix(self, mean: NDArray[np.floating]) -> NDArray[np.float64]:
        """Compose the changes: (3, 4), the last column an offset in grey levels.

        Args:
            mean: (3,) mean colour of the picture; contrast leaves its grey where it is.
        """
        gains = np.array(self.stain)
        offset = _WHITE * (1 - gains)
        grey = LUMA @ (gains * mean + offset)
        chroma = self.brightness * self.contrast * _chroma(self.saturation, self.hue)
        pivot = self.brightness * (1 - self.contrast) * grey
        return np.column_stack([chroma * gains, chroma @ offset + pivot])


def opencv() -> Any:
    """Import OpenCV, which comes with the training extra.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("augmentation", "train") from error
    return cv2


def draw(span: ColourRange, rng: np.random.Generator) -> ColourChange:
    """Draw a change; each factor evenly over its range."""
    brightness, contrast, saturation, *stain = 1 + rng.uniform(-1, 1, 6) * (
        [span.brightness, span.contrast, span.saturation] + 3 * [span.stain]
    )
    hue = float(rng.uniform(-span.hue, span.hue))
    return ColourChange(float(brightness), float(contrast), float(saturation), hue, (stain[0], stain[1], stain[2]))


def recoloured(image: NDArray[np.uint8], change: ColourChange) -> NDArray[np.uint8]:
    """Apply a change to a picture (H, W, 3) uint8; a new one, right to one grey level.

    Raises:
        MissingExtraError: OpenCV is not installed.
    """
    cv2 = opencv()
    mean = np.array(cv2.mean(image)[:3])
    return np.asarray(cv2.transform(image, change.matrix(mean)), dtype=np.uint8)


def _chroma(saturation: float, hue: float) -> NDArray[np.float64]:
    """Scale and turn the two colour axes; every grey stays (rows sum to 1), and so does luma."""
    if hue == 0:
        # Without the way there and back, so that no change is exactly none.
        return saturation * np.eye(3) + (1 - saturation) * LUMA[None].repeat(3, axis=0)
    angle = 2 * math.pi * hue
    c, s = saturation * math.cos(angle), saturation * math.sin(angle)
    return np.asarray(_FROM_OPPONENT @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ _TO_OPPONENT)
