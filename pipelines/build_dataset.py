"""Slides and expert labels → patch stores, annotations, index: what `train_and_evaluate.py` starts from.

    python pipelines/build_dataset.py --slides slides.csv --labels labels.json --card data_cards/NAME \
        --config configs/NAME.yaml --out data

`slides.csv` has a column `path`; `patient_id` keeps a patient on one side, `split` settles the sides. The same command
continues where it was stopped.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from wsi_detect import artifact, schema
from wsi_detect.annotations.class_map import ClassMap
from wsi_detect.annotations.importer import import_annotations
from wsi_detect.config import Config
from wsi_detect.data.index import build_index
from wsi_detect.data.split import check_leak, grouped_split
from wsi_detect.errors import WsiDetectError
from wsi_detect.run.config import load_job
from wsi_detect.run.slide_list import SlideRow, list_slides, write_slides
from wsi_detect.slides import open_slide
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide


class DatasetConfig(Config):
    """What the data set is for."""

    classes: tuple[str, ...]
    #: Shares of the splits, where the manifest does not name them.
    fractions: dict[str, float] = Field(default_factory=lambda: {"train": 0.8, "val": 0.2})
    seed: int = 0


class JobConfig(Config):
    """The sections of the YAML file this job reads."""

    dataset: DatasetConfig
    tiling: TilingConfig = TilingConfig()


def main(slides: Sequence[str], labels: Path, card: Path, config: JobConfig, out: Path, workers: int = 1) -> Path:
    """Build the data set and return the path of its index; labels are COCO, in px of the slides."""
    rows = list_slides(slides)
    stores = {}
    for row in rows:
        with open_slide(Path(row.path), mpp=row.mpp, mpp_source="manifest", slide_id=row.slide_id) as slide:
            stores[row.slide_id] = tile_slide(slide, out / row.slide_id, config.tiling, workers=workers)
    slide_ids = {Path(row.path).name: row.slide_id for row in rows}
    annotations = import_annotations(labels, "coco", ClassMap.from_card(card), out, slide_ids)
    split = splits(rows, annotations, config.dataset)
    write_slides(out / "slides.parquet", rows)
    print_counts(annotations, split)
    return build_index(stores, annotations, split, out / "dataset", config.dataset.classes)


def splits(rows: Sequence[SlideRow], annotations: Path, config: DatasetConfig) -> dict[str, str]:
    """Split of each slide: the manifest's where it names all, else drawn so that patients stay together."""
    patients = [row.patient_id or row.slide_id for row in rows]
    named = [row.split for row in rows if row.split]
    if len(named) < len(rows):
        counts = class_counts(annotations)
        table = np.array([[counts[row.slide_id, name] for name in config.classes] for row in rows], np.int64)
        named = grouped_split(patients, table, config.fractions, config.seed)
    check_leak(patients, named)
    return {row.slide_id: name for row, name in zip(rows, named, strict=True)}


def class_counts(annotations: Path) -> Counter[tuple[str, str]]:
    """Cells by slide and class."""
    table = artifact.read_table(annotations, schema.ANNOTATIONS)
    return Counter(zip(table["slide_id"].to_pylist(), table["label"].to_pylist(), strict=True))


def print_counts(annotations: Path, split: dict[str, str]) -> None:
    """Print cells by class and split, as the table of a data card."""
    counts: Counter[tuple[str, str]] = Counter()
    for (slide_id, label), number in class_counts(annotations).items():
        counts[label, split[slide_id]] += number
    names = sorted(set(split.values()))
    print("| class | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(names))
    for label in sorted({label for label, _ in counts}):
        print(f"| {label} | " + " | ".join(str(counts[label, name]) for name in names) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", nargs="+", required=True)
    for option in ("--labels", "--card", "--config", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        job = load_job(chosen.config, JobConfig)
        print(main(chosen.slides, chosen.labels, chosen.card, job, chosen.out, chosen.workers))
    except WsiDetectError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
