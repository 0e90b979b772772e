"""Labelled fields as a manifest of slides: what a report would say of each, and no box.

    python scripts/fields_manifest.py --coco train.json --images FIELDS --mpp 0.27 --out fields.csv [--split train]

`slide_label` holds the classes of the field's cells, with semicolons between.
"""

import argparse
import csv
from pathlib import Path

from wsi_detect import artifact
from wsi_detect.evaluation.fields import read_fields
from wsi_detect.taxonomy import gravest_first

COLUMNS = ("slide_id", "path", "slide_label", "split", "mpp")


def main(coco: Path, images: Path, mpp: float, split: str, out: Path) -> int:
    """Write the manifest and return how many fields it has."""
    truths = read_fields(coco)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for truth in truths:
            path = (images / truth.image_id).resolve()
            label = ";".join(gravest_first(set(truth.labels)))
            row = (artifact.slide_id(path), path, label, split, mpp)
            writer.writerow(dict(zip(COLUMNS, row, strict=True)))
    return len(truths)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--coco", "--images", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--split", default="train")
    chosen = parser.parse_args()
    print(f"{main(chosen.coco, chosen.images, chosen.mpp, chosen.split, chosen.out)} fields: {chosen.out}")
