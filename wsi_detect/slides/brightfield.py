"""Bright field or not: stained cells on a light ground, against fluorescence and other dark grounds."""

import numpy as np

from wsi_detect.slides.reader import SlideReader
from wsi_detect.slides.resample import thumbnail

#: Stained smears, even crowded ones, transmit most of the light; fluorescence shows a few bright spots on black.
_DARK = 80.0


def is_bright_field(reader: SlideReader) -> bool:
    """Whether the slide looks like transmitted light: the median pixel with data is not dark.

    Areas without data come out white; a slide that is white all over counts as bright field.
    """
    rgb, _ = thumbnail(reader, 512)
    drawn = rgb.reshape(-1, 3)
    drawn = drawn[(drawn < 255).any(axis=1)]
    return not len(drawn) or float(np.median(drawn.mean(axis=1))) >= _DARK
