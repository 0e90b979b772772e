"""The most telling cells of a slide: the gravest classes first, within a class the highest score first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsi_detect.report.picture import ScaleBar, jpeg_uri, scale_bar
from wsi_detect.slides.reader import SlideReader
from wsi_detect.slides.resample import read_at_mpp
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import gravest_first, is_abnormal

#: Cells shown of one class: of an abnormal one, of another.
ABNORMAL_CELLS = 12
OTHER_CELLS = 6
#: Field of view of a crop, µm: a cell with its surroundings.
_VIEW_UM = (36.0, 80.0)
#: Field of view where nobody knows the resolution, slide px.
_VIEW_PX = 160
_LARGEST_PX = 512
_QUALITY = 92


@dataclass(frozen=True, slots=True)
class Crop:
    """One cell as it is on the slide, level 0.

    Attributes:
        number: in the gallery and on the overview, from 1.
        label: its class.
        score: of that class.
        second: next best class and its score, if the model gave scores for all classes.
        x_px: centre, slide px.
        y_px: centre, slide px.
        uri: the picture; None without a slide file.
        side: of the picture, px.
        box: xywh in px of the picture.
        bar: None where nobody knows the resolution.
    """

    number: int
    label: str
    score: float
    second: tuple[str, float] | None
    x_px: float
    y_px: float
    uri: str | None
    side: int
    box: tuple[float, float, float, float]
    bar: ScaleBar | None


@dataclass(frozen=True, slots=True)
class Shelf:
    """The crops of one class, and how many cells of it there are."""

    label: str
    cells: int
    crops: list[Crop]


def make_gallery(cells: CellMap, slide: SlideReader | None, largest_cell_um: float | None) -> list[Shelf]:
    """Choose the most telling cells and cut them out.

    Every class has its own quota, so that a common class cannot crowd out a rare one. All crops show the same field of
    view, so that sizes can be compared; a larger cell gets a larger one.

    Args:
        cells: of the slide.
        slide: for the pixels; None gives crops without pictures.
        largest_cell_um: side of the model's largest box, µm; a crop is twice as wide.

    Returns:
        One shelf a class, gravest first.
    """
    rows = cells.table.to_pylist()
    view = _view_px(cells.slide.mpp, largest_cell_um)
    number, shelves = 0, []
    for label in gravest_first({row["label"] for row in rows}):
        of_class = sorted((row for row in rows if row["label"] == label), key=lambda r: (-r["score"], r["cell_id"]))
        crops = []
        for row in of_class[: ABNORMAL_CELLS if is_abnormal(label) else OTHER_CELLS]:
            number += 1
            crops.append(_crop(number, row, cells, slide, view))
        shelves.append(Shelf(label, len(of_class), crops))
    return shelves


def _view_px(mpp: float | None, largest_cell_um: float | None) -> int:
    if not mpp:
        return _VIEW_PX
    low, high = _VIEW_UM
    return max(16, round(min(max(2 * (largest_cell_um or low), low), high) / mpp))


def _crop(number: int, row: Mapping[str, Any], cells: CellMap, slide: SlideReader | None, view: int) -> Crop:
    x0, y0, x1, y1 = (float(row[name]) for name in ("x0_px", "y0_px", "x1_px", "y1_px"))
    side = min(max(view, round(1.25 * max(x1 - x0, y1 - y0))), _LARGEST_PX)
    left, top = round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2)
    picture = None if slide is None else jpeg_uri(read_at_mpp(slide, left, top, side, side).rgb, _QUALITY)
    mpp = cells.slide.mpp
    return Crop(
        number=number,
        label=row["label"],
        score=float(row["score"]),
        second=_second(row, cells.classes),
        x_px=(x0 + x1) / 2,
        y_px=(y0 + y1) / 2,
        uri=picture,
        side=side,
        box=(x0 - left, y0 - top, x1 - x0, y1 - y0),
        bar=scale_bar(side, mpp, 0.3) if mpp else None,
    )


def _second(row: Mapping[str, Any], classes: tuple[str, ...]) -> tuple[str, float] | None:
    scores = row["class_scores"]
    if scores is None or len(scores) != len(classes):
        return None
    others = [(float(score), name) for score, name in zip(scores, classes, strict=True) if name != row["label"]]
    if not others:
        return None
    score, name = max(others)
    return name, score
