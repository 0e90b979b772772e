"""Bright field or not: stained cells on a light ground, against fluorescence and other dark grounds."""

import numpy as np

from wsi_detect.slides.reader import SlideReader
from wsi_detect.slides.resample import Overview, overview

_OVERVIEW_PX = 512
#: Grey value the median of a slide in transmitted light exceeds; fluorescence shows a few bright spots on black.
_DARK = 80.0
#: Clean glass is light in all three colours. A slide with this share of it is bright field whatever fills the rest:
#: some scanners fill what they left out with black and call it data.
_LIGHT = 160
_LIGHT_SHARE = 0.2


def is_bright_field(reader: SlideReader) -> bool:
    """Whether the slide looks like transmitted light; one without any data counts as bright field."""
    return looks_bright(overview(reader, _OVERVIEW_PX))


def looks_bright(view: Overview) -> bool:
    """Whether an overview looks like transmitted light: its median is not dark, or much of it is light glass."""
    pixels = view.rgb[view.has_data]
    if not len(pixels):
        return True
    light = float((pixels.min(axis=1) >= _LIGHT).mean())
    return light >= _LIGHT_SHARE or float(np.median(pixels.mean(axis=1))) >= _DARK
