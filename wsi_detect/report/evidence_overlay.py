"""The map of evidence over the slide in pale grey: one ramp from pale yellow to dark brown, outlined in blue.

The ramp (ColorBrewer's YlOrBr) grows darker all along and is read by its lightness alone, and blue against orange is a
difference every kind of colour blindness keeps; colour on the picture means evidence and nothing else.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_detect.errors import StaleArtifactError
from wsi_detect.report.picture import ScaleBar, jpeg_uri, scale_bar
from wsi_detect.slides.reader import SlideReader
from wsi_detect.slides.resample import thumbnail
from wsi_detect.tiling.evidence_map import CHUNK, FULL, NOT_LOOKED, STATES, Codes, EvidenceMap

MAX_PX = 1800
_QUALITY = 86
#: Evidence, its colour, and how much of the slide it covers.
_RAMP = (
    (0.0, (254, 236, 170), 0.0),
    (0.1, (254, 227, 145), 0.3),
    (0.3, (254, 196, 79), 0.7),
    (0.5, (254, 153, 41), 0.8),
    (0.75, (204, 76, 2), 0.85),
    (1.0, (102, 37, 6), 0.9),
)
_LINE = (20, 60, 150)
_UNMAPPED = (223, 227, 232)
#: How much of the slide's own contrast is left under the map.
_CONTRAST = 0.55


@dataclass(frozen=True, slots=True)
class EvidencePicture:
    """A drawn map, ready for a page.

    Attributes:
        uri: the picture.
        width: of the picture, px.
        height: of the picture, px.
        bar: None where nobody knows the resolution.
        ramp: evidence and the colour it has on white, for the legend.
        line: colour of the outlines.
    """

    uri: str
    width: int
    height: int
    bar: ScaleBar | None
    ramp: list[tuple[float, str]]
    line: str


def draw_evidence(slide: SlideReader, found: EvidenceMap, threshold: float) -> EvidencePicture:
    """Draw a map over its slide.

    Args:
        slide: for the pixels; only its pyramid is read.
        found: the map.
        threshold: what is above it is outlined.

    Raises:
        StaleArtifactError: the map is of a slide of another size.
    """
    if (slide.info.width_px, slide.info.height_px) != (found.slide.width_px, found.slide.height_px):
        raise StaleArtifactError(f"{found.path} was made from a slide of another size; map the evidence again")
    rgb, downsample = thumbnail(slide, MAX_PX)
    codes = pooled(found, rgb.shape[0], rgb.shape[1], downsample)
    drawn = paint(rgb, codes, threshold)
    height, width = drawn.shape[:2]
    bar = scale_bar(width, slide.info.mpp * downsample) if slide.info.mpp else None
    shades = [(stop, _hex(_on_white(colour, cover))) for stop, colour, cover in _RAMP]
    return EvidencePicture(jpeg_uri(drawn, _QUALITY), width, height, bar, shades, _hex(_LINE))


def evidence_figures(found: EvidenceMap, threshold: float) -> dict[str, Any]:
    """Return what the page says about a map.

    Args:
        found: the map.
        threshold: what is above it is counted.
    """
    mapped = above = 0
    for top in range(0, found.shape[0], CHUNK):
        codes = found.codes((top, min(top + CHUNK, found.shape[0])), (0, found.shape[1]))
        looked = codes[codes != NOT_LOOKED]
        mapped, above = mapped + len(looked), above + int((looked > threshold * FULL).sum())
    mm2 = (found.px * found.slide.resolution() / 1000) ** 2
    states = found.columns["state"]
    return {
        "model_id": found.attributes["model_id"],
        "region": found.attributes["region"],
        "threshold": threshold,
        "px_um": found.mpp,
        "mapped_mm2": mapped * mm2,
        "above_mm2": above * mm2,
        "patches": len(states),
        "lost": int((states != STATES.index("done")).sum()),
    }


def pooled(found: EvidenceMap, height: int, width: int, downsample: float) -> Codes:
    """Highest code under each px of a picture of the slide: (height, width); `NOT_LOOKED` where there is none.

    Args:
        found: the map.
        height: of the picture, px.
        width: of the picture, px.
        downsample: slide px per px of the picture.
    """
    rows, columns = (
        np.minimum(np.floor(np.arange(count) * downsample / found.px + 1e-6).astype(np.int64), limit - 1)
        for count, limit in zip((height, width), found.shape, strict=True)
    )
    out = np.full((height, width), NOT_LOOKED, np.uint16)
    for start in range(0, height, CHUNK):
        mine = rows[start : start + CHUNK]
        after = found.shape[0] if start + CHUNK >= height else max(int(rows[start + CHUNK]), int(mine[-1]) + 1)
        codes = found.codes((int(mine[0]), after), (0, found.shape[1]))
        # Codes shifted by one, so that a px nobody looked at is less than any evidence.
        shifted = codes + np.uint16(1)
        most = np.maximum.reduceat(np.maximum.reduceat(shifted, mine - mine[0], axis=0), columns, axis=1)
        out[start : start + CHUNK] = most - np.uint16(1)
    return out


def paint(rgb: NDArray[np.uint8], codes: Codes, threshold: float) -> NDArray[np.uint8]:
    """Lay evidence over a picture: (H, W, 3) and codes (H, W) → (H, W, 3)."""
    grey = np.asarray(Image.fromarray(rgb).convert("L"), dtype=np.float64)
    ground = 255 - _CONTRAST * (255 - grey)
    looked = codes != NOT_LOOKED
    evidence = np.where(looked, codes, 0) / FULL
    stops = [stop for stop, _, _ in _RAMP]
    cover = np.interp(evidence, stops, [share for _, _, share in _RAMP])
    planes = []
    for k in range(3):
        colour = np.interp(evidence, stops, [shade[k] for _, shade, _ in _RAMP])
        mixed = ground * (1 - cover) + colour * cover
        planes.append(np.where(looked, mixed, 0.4 * ground + 0.6 * _UNMAPPED[k]))
    drawn: NDArray[np.uint8] = np.rint(np.stack(planes, axis=-1)).astype(np.uint8)
    drawn[_rim(looked & (codes > threshold * FULL))] = _LINE
    return drawn


def _rim(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Px outside a mask that touch it with a side: an outline that hides nothing of what it surrounds."""
    wide = np.pad(mask, 1)
    touched = wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return np.asarray(touched & ~mask)


def _on_white(colour: tuple[int, int, int], cover: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 * (1 - cover) + part * cover) for part in colour)
    return red, green, blue


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
