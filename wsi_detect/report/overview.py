"""The slide as a whole with its cells on it, mild ones drawn first so that none hides a grave one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsi_detect.report.gallery import Crop
from wsi_detect.report.picture import ScaleBar, jpeg_uri, scale_bar
from wsi_detect.slides.reader import SlideReader
from wsi_detect.slides.resample import thumbnail
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import cell_class, gravity, is_abnormal
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.patch_store import read_attributes

MAX_PX = 1800
#: Height of a number on the overview, as a share of the picture's longer side.
PIN_SIZE = 0.0125
#: A cell smaller than this on the overview is drawn as a dot, since nobody would see its box.
_SMALLEST_BOX = 9.0
_FINER = 2
_QUALITY = 84


@dataclass(frozen=True, slots=True)
class Pin:
    """The number of a gallery cell beside its mark: left end of its base line, picture px."""

    number: int
    label: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Overview:
    """A drawn slide, ready for a page.

    Attributes:
        uri: the picture with the cells.
        width: of the picture, px.
        height: of the picture, px.
        downsample: slide px per px.
        bar: None where nobody knows the resolution.
        gaps: areas that were not examined, xywh in picture px.
        gated: areas a gate kept from the detector, likewise.
        pins: numbers of the gallery's cells, where there is room for them.
    """

    uri: str
    width: int
    height: int
    downsample: float
    bar: ScaleBar | None
    gaps: list[tuple[float, float, float, float]]
    gated: list[tuple[float, float, float, float]]
    pins: list[Pin]


def draw_overview(
    slide: SlideReader,
    cells: CellMap,
    gaps: NDArray[np.float64],
    crops: Sequence[Crop],
    gated: NDArray[np.float64] | None = None,
) -> Overview:
    """Draw a slide with its cells.

    Args:
        slide: for the pixels; only its pyramid is read, never a label picture.
        cells: what to draw; the lower the score, the fainter.
        gaps: (N, 4) areas that were not examined, slide px.
        crops: of the gallery, whose numbers are put beside the cells.
        gated: (M, 4) areas a gate kept from the detector, slide px.
    """
    rgb, downsample = thumbnail(slide, MAX_PX)
    height, width = rgb.shape[:2]
    drawn = _draw_cells(rgb, cells, downsample)
    bar = scale_bar(width, slide.info.mpp * downsample) if slide.info.mpp else None
    hidden = np.zeros((0, 4)) if gated is None else gated
    areas, veiled = (
        [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in (boxes / downsample).round(2).tolist()]
        for boxes in (gaps, hidden)
    )
    pins = place_pins(crops, downsample, width, height)
    return Overview(jpeg_uri(drawn, _QUALITY), width, height, downsample, bar, areas, veiled, pins)


def place_pins(crops: Sequence[Crop], downsample: float, width: int, height: int) -> list[Pin]:
    """Put the number of each crop of an abnormal cell beside the cell, unless it would cover one placed before.

    Args:
        crops: in the order of the gallery: the gravest get the room.
        downsample: slide px per picture px.
        width: of the picture, px.
        height: of the picture, px.
    """
    size = PIN_SIZE * max(width, height)
    pins: list[Pin] = []
    for crop in crops:
        if not is_abnormal(crop.label):
            continue
        x = min((crop.x_px + crop.box[2] / 2) / downsample + 0.25 * size, width - 1.6 * size)
        y = max((crop.y_px - crop.box[3] / 2) / downsample, size)
        if all(abs(pin.x - x) > 1.5 * size or abs(pin.y - y) > size for pin in pins):
            pins.append(Pin(crop.number, crop.label, x, y))
    return pins


def unexamined(store: Path, patches: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Return the areas owned by patches that were not examined: (N, 4) slide px; none if the store is gone.

    Args:
        store: the slide's `patches.zarr`, which knows the grid.
        patches: rows of `schema.PATCHES`.
    """
    return _areas(store, [row["patch_id"] for row in patches if row["status"] not in ("done", "gated")])


def gated(store: Path, patches: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """Return the areas owned by patches that a gate kept from the detector; arguments as for `unexamined`."""
    return _areas(store, [row["patch_id"] for row in patches if row["status"] == "gated"])


def _areas(store: Path, missed: Sequence[int]) -> NDArray[np.float64]:
    if not missed or not store.exists():
        return np.zeros((0, 4))
    return TileGrid(**read_attributes(store)["grid"]).cores()[list(missed)]


def _draw_cells(rgb: NDArray[np.uint8], cells: CellMap, downsample: float) -> NDArray[np.uint8]:
    """Draw on a finer layer and reduce it, which smooths the edges."""
    height, width = rgb.shape[:2]
    layer = Image.new("RGBA", (width * _FINER, height * _FINER), (255, 255, 255, 0))
    pen = ImageDraw.Draw(layer)
    labels, scores = cells.table["label"].to_pylist(), cells.table["score"].to_numpy()
    boxes = cells.boxes() / downsample * _FINER
    for row in sorted(range(len(labels)), key=lambda row: (gravity(labels[row]), scores[row])):
        _draw_cell(pen, boxes[row], labels[row], float(scores[row]))
    ground = Image.fromarray(rgb).convert("RGBA")
    ground.alpha_composite(layer.resize((width, height), Image.Resampling.BOX))
    return np.asarray(ground.convert("RGB"))


def _draw_cell(pen: ImageDraw.ImageDraw, box: NDArray[np.float64], label: str, score: float) -> None:
    kind = cell_class(label)
    ink = (*kind.colour, round(90 + 165 * min(max(score, 0.0), 1.0)))
    x0, y0, x1, y1 = box.tolist()
    if max(x1 - x0, y1 - y0) >= _SMALLEST_BOX * _FINER:
        if kind.abnormal:
            # A light rim keeps the box visible on dark clumps.
            rim = _FINER
            pen.rectangle((x0 - rim, y0 - rim, x1 + rim, y1 + rim), outline=(255, 255, 255, 170), width=4 * _FINER)
        pen.rectangle((x0, y0, x1, y1), outline=ink, width=(2 if kind.abnormal else 1) * _FINER)
        return
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    if kind.abnormal:
        _disc(pen, x, y, 5.8, (255, 255, 255, 230))
    _disc(pen, x, y, 4.4 if kind.abnormal else 1.6, ink)


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, ink: tuple[int, ...]) -> None:
    r = radius * _FINER
    pen.ellipse((x - r, y - r, x + r, y + r), fill=ink)
