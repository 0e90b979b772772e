"""COCO detection JSON: the slide is the one image, boxes are x, y, width, height in slide px (level 0)."""

import json
from pathlib import Path

from wsi_detect.artifact import atomic
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.taxonomy import cell_class


def write(cells: CellMap, path: Path) -> Path:
    """Write the cells as COCO annotations with `score` and `cell_id`.

    `file_name` of the image is the slide id: no file name of a slide leaves the house. Category ids follow the
    detector's classes, from 1, then classes it did not declare, by name.
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
    with atomic(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(f'{{"info":{json.dumps({"description": f"cells found by {cells.model_id}"})},\n')
        stream.write(f'"images":{json.dumps([image])},\n"categories":{json.dumps(categories)},\n"annotations":[')
        for k, row in enumerate(cells.rows(), start=1):
            x0, y0 = row["x0_px"], row["y0_px"]
            width, height = row["x1_px"] - x0, row["y1_px"] - y0
            entry = {
                "id": k,
                "image_id": 1,
                "category_id": ids[row["label"]],
                "bbox": [x0, y0, width, height],
                "area": width * height,
                "iscrowd": 0,
                "segmentation": [],
                "score": round(row["score"], 6),
                "cell_id": row["cell_id"],
            }
            stream.write(("," if k > 1 else "") + "\n" + json.dumps(entry, allow_nan=False))
        stream.write("\n]}\n")
    return path
