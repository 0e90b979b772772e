"""Labelled fields → patch stores, index → a trained detector. How the bundled model was made.

    python pipelines/train_on_fields.py --images FIELDS --coco train.json --card data_cards/cric-cervix-pap \
        --config configs/fcos_cric.yaml --out work/cric [--fold 0/5]

The same command continues a run that was stopped. With `--fold k/n` the fields of fold k are watched instead of
trained on: that is how settings and length are chosen without touching the split kept for the card. With
`--shuffle-classes` every cell gets the class of another one: what a model learns then is the floor for one that was
told the truth.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from wsi_detect import artifact
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.annotations.importer import import_annotations
from wsi_detect.annotations.rules import ImportRules
from wsi_detect.cli.ending import documented_exit
from wsi_detect.config import Config, load
from wsi_detect.data.cards import take_card
from wsi_detect.data.index import build_index
from wsi_detect.data.split import grouped_folds
from wsi_detect.errors import LabelError
from wsi_detect.slides import open_slide
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide
from wsi_detect.training.config import TrainingConfig
from wsi_detect.training.grid import FieldsConfig
from wsi_detect.training.trainer import train_detector


class JobConfig(Config):
    """The sections of the YAML file."""

    fields: FieldsConfig
    tiling: TilingConfig = TilingConfig()
    training: TrainingConfig = TrainingConfig()


def main(images: Path, coco: Path, card: Path, config: JobConfig, out: Path, fold: str | None, run: str) -> Path:
    """Build the data set, train, and return the bundle's folder."""
    content = json.loads(coco.read_text())
    if not content["images"]:
        raise LabelError(f"{coco} names no image")
    names = [entry["file_name"] for entry in content["images"]]
    slide_ids = {name: artifact.slide_id(images / name) for name in names}
    stores = {}
    for name, slide_id in slide_ids.items():
        with open_slide(images / name, mpp=config.fields.mpp, mpp_source="manifest", slide_id=slide_id) as slide:
            stores[slide_id] = tile_slide(slide, out / slide_id, config.tiling)
    # One cell of the collection is there twice.
    rules = ImportRules(faulty="repair")
    annotations = import_annotations(coco, "coco", ClassMap.from_card(card), out / "dataset", slide_ids, rules)
    take_card(card, annotations)
    run = run if fold is None else f"{run}-fold{fold.replace('/', 'of')}"
    split = splits(content, slide_ids, config.fields, fold)
    index = build_index(stores, annotations, split, out / "dataset" / run, config.fields.classes)
    return train_detector(index, out / "runs" / run, config.training)


def shuffled(coco: Path, out: Path, seed: int) -> Path:
    """Write a copy of a COCO file in which the classes are dealt out anew among all cells."""
    content = json.loads(coco.read_text())
    classes = [entry["category_id"] for entry in content["annotations"]]
    order = np.random.default_rng(seed).permutation(len(classes))
    for entry, k in zip(content["annotations"], order, strict=True):
        entry["category_id"] = classes[k]
    target = out / "shuffled.json"
    artifact.write_json(target, content)
    return target


def splits(
    content: dict[str, Any], slide_ids: dict[str, str], config: FieldsConfig, fold: str | None
) -> dict[str, str]:
    """Split of each field: all `train`, or fold k of n `val`."""
    if fold is None:
        return dict.fromkeys(slide_ids.values(), "train")
    watched, count = (int(part) for part in fold.split("/"))
    row = {entry["id"]: k for k, entry in enumerate(content["images"])}
    column = {entry["id"]: k for k, entry in enumerate(sorted(content["categories"], key=lambda entry: entry["id"]))}
    labels = np.zeros((len(row), len(column)), dtype=np.int64)
    for annotation in content["annotations"]:
        labels[row[annotation["image_id"]], column[annotation["category_id"]]] += 1
    ids = [slide_ids[entry["file_name"]] for entry in content["images"]]
    folds = grouped_folds(ids, labels, count, config.fold_seed)
    return {name: "val" if part == watched else "train" for name, part in zip(ids, folds, strict=True)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--images", "--coco", "--card", "--config", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--fold")
    parser.add_argument("--name", default="all", help="Of the run, in OUT/runs.")
    parser.add_argument("--shuffle-classes", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with documented_exit():
        job = load(chosen.config, JobConfig, chosen.set)
        truth = shuffled(chosen.coco, chosen.out, job.training.seed) if chosen.shuffle_classes else chosen.coco
        print(main(chosen.images, truth, chosen.card, job, chosen.out, chosen.fold, chosen.name))
