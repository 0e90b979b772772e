"""Marks of a felt pen: large, strong, flat, and of a colour that no dye of the preparation has."""

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from wsi_detect.config import Config
from wsi_detect.tiling.blocks import Blocks, Mask, grow, shrink

#: Colours are fractions of the clean ground's, in 255ths.
_FULL = 255
#: Black ink: no colour above the first, none far from the others; a clump of cells keeps some blue or red.
_BLACK, _GREY = 70, 30
#: Red ink lets through this much red at least, this much green at most; eosin and blood never both.
_RED, _RED_GREEN = 150, 52
#: A block with a spot this much darker than the ink may hide a nucleus.
_SPOT = 0.6


class InkConfig(Config):
    """What counts as a pen mark. Whatever is in doubt is kept.

    Attributes:
        width_um: strokes narrower than this stay, µm; those of felt pens are 500 to 2,000 wide, clumps of cells that
            are dark and even throughout are smaller.
        light: green and blue ink let through no more than this fraction of the red light; faint ink, through which
            cells can be seen, lets through more.
        hue: how far the colours of an ink must be apart, fraction of the ground. Nuclei and the blue-green of EA
            reach half of it.
        texture: how much green may vary within 50 µm, fraction of its value; ink over cells varies more.
        max_share: if marks would take more of the slide than this, they are cells after all.
    """

    width_um: float = Field(default=200.0, gt=0)
    light: float = Field(default=0.45, gt=0, lt=1)
    hue: float = Field(default=0.2, gt=0, lt=1)
    texture: float = Field(default=0.35, gt=0, lt=1)
    max_share: float = Field(default=0.25, gt=0, le=1)


def find_ink(
    rgb: NDArray[np.uint8], blocks: Blocks, ground: tuple[float, float, float], config: InkConfig
) -> Mask | None:
    """Find pen marks on a thumbnail.

    Args:
        rgb: (h, w, 3) the thumbnail.
        blocks: of that thumbnail.
        ground: colour of the clean glass.
        config: thresholds.

    Returns:
        The blocks to leave out, or None where there is no mark.
    """
    half, least = blocks.number(config.width_um) // 2, blocks.number(config.width_um) ** 2
    centre = rgb[blocks.side // 2 :: blocks.side, blocks.side // 2 :: blocks.side]
    coloured = np.zeros(blocks.low.shape, dtype=np.bool_)
    # The last blocks may have no centre; they are what their neighbours are, or not ink.
    coloured[: centre.shape[0], : centre.shape[1]] = _ink_coloured(centre, ground, config)
    if np.count_nonzero(coloured) < least:
        return None
    even = coloured & blocks.flat(0.05 * ground[1], config.texture)
    core = grow(shrink(even, half), half)
    if not core.any() or core.mean() > config.max_share:
        return None
    # The rim of a stroke is neither flat nor quite of its colour, but a spot in it may be a cell.
    spots = blocks.low < _SPOT * float(np.median(blocks.low[core]))
    return np.asarray(grow(core, 2) & ~spots)


def _ink_coloured(rgb: NDArray[np.uint8], ground: tuple[float, float, float], config: InkConfig) -> Mask:
    scaled = [
        np.minimum(rgb[..., k] * np.float32(_FULL / max(ground[k], 1.0)), _FULL).astype(np.int16) for k in range(3)
    ]
    red, green, blue = scaled
    light, hue = round(config.light * _FULL), round(config.hue * _FULL)
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    black = (most <= _BLACK) & (most - least <= _GREY)
    as_blue = (red <= light) & (blue - green >= hue) & (2 * (blue - red) >= 3 * hue)
    as_green = (red <= light) & (green - red >= hue) & (5 * (green - blue) >= 3 * hue)
    # Blood and keratin take more blue than green, red ink does not.
    as_red = (red >= _RED) & (green <= _RED_GREEN) & (red - blue >= 2 * hue) & (blue >= green - 8)
    return np.asarray(black | as_blue | as_green | as_red)
