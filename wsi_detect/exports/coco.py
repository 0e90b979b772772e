"""COCO detection JSON: the slide is the one image, boxes are x, y, width, height in slide px (level 0)."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from wsi_detect.artifact import atomic
from wsi_detect.exports import columns
from wsi_detect.exports.text import grouped, joined, named, numbers, raw
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import cell_class

_DECIMALS = 3


def write(cells: CellMap, path: Path) -> Path:
    """Write the cells as COCO annotations with `score` and `cell_id`, coordinates to a thousandth of a pixel.

    `file_name` of the image is the slide id: no file name of a slide leaves the house. Category ids follow the
    detector's classes, from 1, then classes it did not declare, by name. `area` is that of the box; a cell with an
    outline has it as its `segmentation`, without holes.
    """
    extra = sorted(set(cells.counts()) - set(cells.classes))
    ids = {name: k for k, name in enumerate((*cells.classes, *extra), start=1)}
    slide = cells.slide
    image: dict[str, object] = {
        "id": 1,
        "file_name": slide.slide_id,
        "width": slide.width_px,
        "height": slide.height_px,
    }
    if slide.mpp is not None:
        image["mpp"] = slide.mpp
    categories = [{"id": k, "name": name, "supercategory": cell_class(name).family} for name, k in ids.items()]
    head = (
        f'{{"info":{json.dumps({"description": f"cells found by {cells.model_id}"})},\n'
        f'"images":{json.dumps([image])},\n"categories":{json.dumps(categories)},\n"annotations":['
    )
    with atomic(path) as partial, partial.open("wb") as stream:
        stream.write(head.encode())
        first = 1
        for batch in columns.chunks(cells):
            stream.write(b"\n" if first == 1 else b",\n")
            stream.write(raw(_annotations(batch, first, {name: str(k) for name, k in ids.items()}), ",\n"))
            first += len(batch)
        stream.write(b"\n]}\n")
    return path


def _annotations(batch: pa.RecordBatch, first: int, ids: dict[str, str]) -> pa.Array:
    box = columns.boxes(batch)
    width, height = (box[:, 2:] - box[:, :2]).T
    x, y, w, h = (numbers(side, _DECIMALS) for side in (box[:, 0], box[:, 1], width, height))
    return joined(
        '{"id":',
        pa.array(np.arange(first, first + len(batch))).cast(pa.string()),
        ',"image_id":1,"category_id":',
        named(batch["label"], ids),
        *(',"bbox":[', x, ",", y, ",", w, ",", h, '],"area":', numbers(width * height, _DECIMALS)),
        ',"iscrowd":0,"segmentation":',
        _segmentations(batch),
        ',"score":',
        numbers(batch["score"].to_numpy(), 6),
        ',"cell_id":"',
        batch["cell_id"],
        '"}',
    )


def _segmentations(batch: pa.RecordBatch) -> pa.Array | str:
    if batch["geometry"].null_count == len(batch):
        return "[]"
    points, offsets, of_outline = columns.rings(batch)
    rings = grouped(numbers(points.ravel(), _DECIMALS), offsets * 2, ",")
    return pc.if_else(pa.array(of_outline), joined("[[", rings, "]]"), "[]")
