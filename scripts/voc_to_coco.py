"""Pascal VOC labels of pictures as the one COCO file that pipelines read.

    python scripts/voc_to_coco.py --labels Annotations --images JPEGImages --names train.txt \
        --card data_cards/bccd-blood --out train.json [--suffix .jpg]

`--names` lists the pictures without their ending, a line each. Labels get their names by the card. What is broken is
mended or left out, as `wsi-detect annotate` does on request, and the log says which rows.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from wsi_detect import artifact
from wsi_detect.annotations import voc
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.annotations.facts import SlideFacts, SourceFacts
from wsi_detect.annotations.rules import ImportRules
from wsi_detect.annotations.sources import read_source
from wsi_detect.data.cards import class_map_of
from wsi_detect.errors import LabelError, WsiDetectError


def coco_of(labels: Path, images: Path, names: list[str], class_map: ClassMap, suffix: str) -> dict[str, Any]:
    """Return the content of the COCO file."""
    numbers = {name: k for k, name in enumerate(class_map.classes, start=1)}
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": k, "name": name} for name, k in numbers.items()],
    }
    for number, name in enumerate(names, start=1):
        file = f"{name}{suffix}"
        width, height = _size(images / file)
        content["images"].append({"id": number, "file_name": file, "width": width, "height": height})
        facts = SourceFacts({file: SlideFacts(file, (width, height))}, slide=file)
        found = read_source(labels / f"{name}.xml", voc, class_map, facts, ImportRules(faulty="repair"))
        for cell in found.cells:
            bbox = [cell.box.x0, cell.box.y0, cell.box.width, cell.box.height]
            category = numbers[class_map.to_taxonomy(cell.source_label) or ""]
            entry = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": category, "bbox": bbox}
            content["annotations"].append({**entry, "area": bbox[2] * bbox[3], "iscrowd": 0})
    return content


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise LabelError(f"{path} cannot be read as a picture: {error}") from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--labels", "--images", "--names", "--card", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--suffix", default=".jpg")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        listed = given.names.read_text().split()
        made = coco_of(given.labels, given.images, listed, class_map_of(given.card), given.suffix)
        artifact.write_json(given.out, made)
    except WsiDetectError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"{len(made['images'])} pictures, {len(made['annotations'])} boxes: {given.out}")
