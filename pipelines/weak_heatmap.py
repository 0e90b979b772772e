"""Slides and a label for each → patches → an evidence model → evidence maps, contours, a table. No box is needed.

    python pipelines/weak_heatmap.py SLIDES… --config configs/weak_heatmap.yaml --out OUT [--labels CSV] [--card CARD]

SLIDES are files, folders, or a manifest whose column `slide_label` serves where there is no `--labels`. Slides without
a label, and those whose `split` is another than train, are mapped and not trained on. The same command continues.
"""

import argparse
import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_detect import artifact
from wsi_detect.cli.ending import documented_exit
from wsi_detect.config import Config
from wsi_detect.data.bags import LabelledSlide
from wsi_detect.data.slide_labels import label_targets, read_slide_labels
from wsi_detect.errors import LabelError
from wsi_detect.exports.evidence_contours import ContourConfig, write_contours
from wsi_detect.inference import EVIDENCE_RUNTIMES
from wsi_detect.inference.evidence import EvidenceConfig, map_evidence
from wsi_detect.run import list_slides
from wsi_detect.run.config import load_job
from wsi_detect.run.slide_list import SlideRow
from wsi_detect.slides import open_slide
from wsi_detect.tiling.evidence_map import EvidenceMap
from wsi_detect.tiling.evidence_summary import summarise
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide
from wsi_detect.training.heatmap_config import EvidenceTrainingConfig
from wsi_detect.training.heatmap_trainer import label_rule, train_evidence


class JobConfig(Config):
    """The sections of the YAML file this job reads."""

    tiling: TilingConfig = TilingConfig()
    evidence_training: EvidenceTrainingConfig = EvidenceTrainingConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    contours: ContourConfig = ContourConfig()


def main(slides: Sequence[str], labels: Path | None, config: JobConfig, out: Path, card: Path | None = None) -> Path:
    """Tile, train and map, and return the path of the table."""
    rows = list_slides(slides)
    targets = known(rows, labels, config.evidence_training)
    stores = {}
    for row in rows:
        with open_slide(Path(row.path), mpp=row.mpp, mpp_source="manifest", slide_id=row.slide_id) as slide:
            stores[row.slide_id] = tile_slide(slide, out / row.slide_id, config.tiling).path
    trained = [row.slide_id for row in rows if row.slide_id in targets and row.split in (None, "train")]
    given = [LabelledSlide(name, stores[name], targets[name]) for name in trained]
    bundle = train_evidence(given, out / "model", config.evidence_training, card)
    mapper = EVIDENCE_RUNTIMES["torch"](bundle, threads=config.evidence.threads)
    table = []
    for row in rows:
        folder = out / row.slide_id
        with open_slide(Path(row.path), mpp=row.mpp, mpp_source="manifest", slide_id=row.slide_id) as slide:
            store = PatchStore.open(stores[row.slide_id], slide)
            found = EvidenceMap.open(map_evidence(store, mapper, folder, config.evidence))
        write_contours(found, folder / "evidence.geojson", config.contours)
        label = "" if row.slide_id not in targets else int(targets[row.slide_id].any())
        said = {"slide_id": row.slide_id, "positive": label, "trained": int(row.slide_id in trained)}
        table.append(said | asdict(summarise(found)))
    return write_table(table, out / "evidence.csv")


def known(
    rows: Sequence[SlideRow], labels: Path | None, config: EvidenceTrainingConfig
) -> dict[str, NDArray[np.bool_]]:
    """Which kinds of region each slide of known label has."""
    rule = label_rule(config)
    if labels is None:
        named = ((row.slide_id, row.slide_label) for row in rows if row.slide_label)
        return {name: label_targets(label, rule, f"manifest, slide {name}") for name, label in named}
    found = read_slide_labels(labels, rule)
    lost = sorted(set(found) - {row.slide_id for row in rows})
    if lost:
        raise LabelError(
            f"{labels} names slide {lost[0]}, which is not among the slides; ids are the manifest's slide_id"
        )
    return found


def write_table(table: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write rows as a CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in table)
    artifact.write_bytes(path, text.getvalue().encode())
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+")
    for option in ("--labels", "--card"):
        parser.add_argument(option, type=Path)
    for option in ("--config", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with documented_exit():
        config = load_job(chosen.config, JobConfig, chosen.set)
        print(main(chosen.slides, chosen.labels, config, chosen.out, chosen.card))
