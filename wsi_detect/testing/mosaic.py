"""A mosaic: real labelled fields laid on a slide, so that real pixels with known cells pass through the whole path.

A mosaic is NOT a scan. Its fields come from different smears, white glass lies between them, cells at the border of a
field are cut where no scanner would cut them, and its resolution is what the caller says. It shows that the path from
file to report keeps what a detector sees; it says nothing about how well a detector does on slides of a laboratory.
"""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_detect import artifact
from wsi_detect.errors import LabelError
from wsi_detect.geometry import Box
from wsi_detect.slides import open_slide
from wsi_detect.testing.painter import PaintedCell
from wsi_detect.testing.pyramid import write_pyramid

#: Offsets are multiples of it: whole JPEG blocks, and whole strides of any pyramid of a detector up to 64.
STEP_PX = 64
QUALITY = 95

_Coco = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class MosaicField:
    """Where a field lies: its top left corner and its size, slide px."""

    name: str
    x_px: int
    y_px: int
    width_px: int
    height_px: int

    @property
    def box(self) -> Box:
        """The area the field covers, slide px."""
        return Box(self.x_px, self.y_px, self.x_px + self.width_px, self.y_px + self.height_px)


@dataclass(frozen=True, slots=True)
class Mosaic:
    """A mosaic slide and its truth.

    Attributes:
        path: the slide.
        offsets: CSV, one row a field.
        truth: COCO with one image, the slide; boxes in slide px; each annotation names its `field`.
        fields: the rows of `offsets`.
        cells: the labelled cells, slide px, in the order of the labels.
        width: slide px.
        height: slide px.
        mpp: µm per px as the caller stated it.
    """

    path: Path
    offsets: Path
    truth: Path
    fields: tuple[MosaicField, ...]
    cells: tuple[PaintedCell, ...]
    width: int
    height: int
    mpp: float

    def field(self, name: str) -> MosaicField:
        """Return the field of that file name.

        Raises:
            KeyError: the mosaic has no such field.
        """
        return {field.name: field for field in self.fields}[name]


def build_mosaic(
    fields: Sequence[Path],
    coco: Path,
    out: Path,
    *,
    mpp: float,
    columns: int | None = None,
    gap_px: int = STEP_PX,
    limit: int | None = None,
) -> Mosaic:
    """Lay labelled fields on a slide, row by row, and write the slide and its truth.

    Args:
        fields: images, of any size.
        coco: their labels; images that are not among the fields are left out.
        out: the slide, `.svs` or `.tif`; `<stem>.offsets.csv` and `<stem>.truth.json` are written beside it.
        mpp: µm per px of the fields. Say it as it is known: nothing here measures it.
        columns: fields in a row; None makes the mosaic about as wide as high.
        gap_px: white glass between fields and around them, at least this much; a multiple of 64.
        limit: take the first so many fields only.

    Raises:
        ValueError: no fields, or a gap that is not a multiple of 64.
        LabelError: a field has no entry in the labels, or one of another size.
    """
    chosen = list(fields)[:limit]
    if not chosen or gap_px < 0 or gap_px % STEP_PX:
        raise ValueError(f"a mosaic needs fields and a gap in steps of {STEP_PX} px; got {len(chosen)}, {gap_px} px")
    labels = json.loads(coco.read_bytes())
    placed = _place(chosen, columns or math.ceil(math.sqrt(len(chosen))), gap_px)
    _check(placed, labels, coco)
    width = max(field.x_px + field.width_px for field in placed) + gap_px
    height = max(field.y_px + field.height_px for field in placed) + gap_px
    canvas = _Canvas(placed, chosen, width)
    note = "mosaic of labelled fields, not a scan"
    write_pyramid(out, canvas.rows, width=width, height=height, mpp=mpp, quality=QUALITY, note=note)
    offsets, truth = out.with_suffix(".offsets.csv"), out.with_suffix(".truth.json")
    _write_offsets(offsets, placed)
    content = _truth(placed, labels, out.name, (width, height))
    artifact.write_json(truth, content)
    names = {entry["id"]: entry["name"] for entry in labels["categories"]}
    cells = tuple(PaintedCell(names[a["category_id"]], _xyxy(a["bbox"])) for a in content["annotations"])
    return Mosaic(out, offsets, truth, placed, cells, width, height, mpp)


def read_offsets(path: Path) -> tuple[MosaicField, ...]:
    """Read the offset table of a mosaic."""
    with path.open(newline="") as stream:
        return tuple(
            MosaicField(row["name"], *(int(row[field.name]) for field in fields(MosaicField)[1:]))
            for row in csv.DictReader(stream)
        )


def field_pixels(mosaic: Mosaic, name: str) -> NDArray[np.uint8]:
    """Return the pixels (H, W, 3) of a field as they are decoded from the mosaic, after its JPEG."""
    field = mosaic.field(name)
    with open_slide(mosaic.path) as slide:
        pixels, _ = slide.read_region(field.x_px, field.y_px, 0, field.width_px, field.height_px)
    return pixels


class _Canvas:
    """Gives bands of the mosaic; only the fields of the current band are held decoded."""

    def __init__(self, placed: tuple[MosaicField, ...], paths: Sequence[Path], width: int) -> None:
        self.paths = dict(zip(placed, paths, strict=True))
        self.width = width
        self.open: dict[MosaicField, NDArray[np.uint8]] = {}

    def rows(self, y0: int, y1: int) -> NDArray[np.uint8]:
        band = np.full((y1 - y0, self.width, 3), 255, np.uint8)
        wanted = [field for field in self.paths if field.y_px < y1 and field.y_px + field.height_px > y0]
        self.open = {field: self.open[field] if field in self.open else self._decode(field) for field in wanted}
        for field, pixels in self.open.items():
            top, bottom = max(field.y_px, y0), min(field.y_px + field.height_px, y1)
            part = pixels[top - field.y_px : bottom - field.y_px]
            band[top - y0 : bottom - y0, field.x_px : field.x_px + field.width_px] = part
        return band

    def _decode(self, field: MosaicField) -> NDArray[np.uint8]:
        with Image.open(self.paths[field]) as image:
            return np.asarray(image.convert("RGB"))


def _place(paths: Sequence[Path], columns: int, gap_px: int) -> tuple[MosaicField, ...]:
    sizes = []
    for path in paths:
        with Image.open(path) as image:
            sizes.append(image.size)
    across = _up(max(width for width, _ in sizes)) + gap_px
    down = _up(max(height for _, height in sizes)) + gap_px
    return tuple(
        MosaicField(path.name, gap_px + k % columns * across, gap_px + k // columns * down, width, height)
        for k, (path, (width, height)) in enumerate(zip(paths, sizes, strict=True))
    )


def _up(length: int) -> int:
    return -(-length // STEP_PX) * STEP_PX


def _check(placed: tuple[MosaicField, ...], labels: _Coco, coco: Path) -> None:
    known = {entry["file_name"]: (entry["width"], entry["height"]) for entry in labels["images"]}
    for field in placed:
        found = known.get(field.name)
        if found != (field.width_px, field.height_px):
            raise LabelError(f"{field.name} is {field.width_px} x {field.height_px} px, {coco.name} has {found}")


def _truth(placed: tuple[MosaicField, ...], labels: _Coco, name: str, size: tuple[int, int]) -> _Coco:
    where = {field.name: field for field in placed}
    of_image = {entry["id"]: where[entry["file_name"]] for entry in labels["images"] if entry["file_name"] in where}
    annotations: list[dict[str, Any]] = []
    for source in labels["annotations"]:
        field = of_image.get(source["image_id"])
        if field is None:
            continue
        x, y, width, height = source["bbox"]
        moved: dict[str, Any] = {
            "bbox": [x + field.x_px, y + field.y_px, width, height],
            "image_id": 1,
            "field": field.name,
        }
        kept: dict[str, Any] = {key: source[key] for key in ("id", "category_id", "area", "iscrowd") if key in source}
        annotations.append({**kept, **moved})
    image = {"id": 1, "file_name": name, "width": size[0], "height": size[1]}
    return {"images": [image], "categories": labels["categories"], "annotations": annotations}


def _xyxy(bbox: list[float]) -> Box:
    x, y, width, height = bbox
    return Box(x, y, x + width, y + height)


def _write_offsets(path: Path, placed: tuple[MosaicField, ...]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([field.name for field in fields(MosaicField)])
        writer.writerows(astuple(field) for field in placed)
