"""Slides and expert labels → patch stores, annotations, index, data card: what `train_and_evaluate.py` starts from.

    python pipelines/build_dataset.py --slides slides.csv --labels labels.json --card data_cards/NAME \
        --config configs/NAME.yaml --out data

`slides.csv` has a column `path`; `patient_id` keeps a patient on one side, `split` settles the sides. Labels may be the
folder `wsi-detect annotate` wrote. The same command continues. A slide that cannot be tiled ends it, and says so.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from pydantic import Field

from wsi_detect.annotations import ANNOTATIONS_NAME, ClassMap, import_annotations
from wsi_detect.cli.ending import documented_exit
from wsi_detect.config import Config
from wsi_detect.data.card import CardSlide, class_counts, write_card
from wsi_detect.data.index import build_index
from wsi_detect.data.leaks import Rule, check_slides
from wsi_detect.data.split import check_leak, grouped_split
from wsi_detect.errors import DamagedSlideError
from wsi_detect.run.config import load_job
from wsi_detect.run.slide_list import SlideRow, list_slides
from wsi_detect.run.tile import TileBatch, tile_slides
from wsi_detect.run.tile_plan import check_room
from wsi_detect.run.tile_result import NOT_TILED, TileResult
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.workers import Limits

LIMITS = Limits(stall_s=300, memory_bytes=4 * 10**9)  # what a slide may take before it is given up


class DatasetConfig(Config):
    """What the data set is for."""

    classes: tuple[str, ...]
    #: Shares of the splits, where the manifest does not name them.
    fractions: dict[str, float] = Field(default_factory=lambda: {"train": 0.8, "val": 0.2})
    seed: int = 0
    look_alikes: Rule = "refuse"  # slides of different splits that look alike
    #: By split, what columns must hold for a patch to be in it, as in `train: {focus: [1.5, null]}`.
    keep: dict[str, dict[str, tuple[float | None, float | None]]] = Field(default_factory=dict)


class JobConfig(Config):
    """The sections of the YAML file this job reads."""

    dataset: DatasetConfig
    tiling: TilingConfig = TilingConfig()


def main(slides: Sequence[str], labels: Path, card: Path, config: JobConfig, out: Path, workers: int = 1) -> Path:
    """Build the data set and return the path of its index; labels are COCO, or what `wsi-detect annotate` wrote."""
    rows = list_slides(slides)
    if not (annotations := labels / ANNOTATIONS_NAME).exists():
        ids = {Path(row.path).name: row.slide_id for row in rows}
        annotations = import_annotations(labels, "coco", ClassMap.from_card(card), out, ids)
    split = splits(rows, annotations, config.dataset)
    alike = check_slides({row.slide_id: Path(row.path) for row in rows}, split, config.dataset.look_alikes)
    batch = TileBatch(out.absolute(), config.tiling)
    check_room(rows, batch, workers=workers, limits=LIMITS)
    results = tile_slides(rows, batch, workers=workers, limits=LIMITS)
    missing = [f"{result.slide_id}: {result.reason}" for result in results if result.status == NOT_TILED]
    if missing:
        raise DamagedSlideError(f"{len(missing)} slides cannot be tiled; mend or unlist them\n" + "\n".join(missing))
    for result in (result for result in results if result.reason):
        logging.warning("%s: %s", result.slide_id, result.reason)
    stores = {row.slide_id: PatchStore.open(out / row.slide_id / "patches.zarr") for row in rows}
    index = build_index(stores, annotations, split, out / "dataset", config.dataset.classes, keep=config.dataset.keep)
    facts = [card_slide(row, stores[row.slide_id], result, split) for row, result in zip(rows, results, strict=True)]
    write_card(out / "card", facts, annotations, source=card, tiling=config.tiling, leaks=alike)
    return index


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


def card_slide(row: SlideRow, store: PatchStore, result: TileResult, split: Mapping[str, str]) -> CardSlide:
    """What the card counts of a slide."""
    return CardSlide(
        slide_id=row.slide_id,
        split=split[row.slide_id],
        said=asdict(row),
        patches=len(store),
        unreadable=result.unreadable_patches or 0,
        mpp=store.mpp,
        codec=store.codec,
        stated=store.slide.mpp_source == "file",
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", nargs="+", required=True)
    for option in ("--labels", "--card", "--config", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with documented_exit():
        job = load_job(chosen.config, JobConfig)
        print(main(chosen.slides, chosen.labels, chosen.card, job, chosen.out, chosen.workers))
