"""A data set → a trained detector → the cells of the slides kept aside → how they compare with the expert's.

    python pipelines/train_and_evaluate.py --data data --config configs/NAME.yaml --out runs/NAME [--split val]

`data` is what `build_dataset.py` wrote. The same command continues where it was stopped.
"""

import argparse
import json
import logging
from pathlib import Path

from wsi_detect import artifact, schema
from wsi_detect.cli.ending import documented_exit
from wsi_detect.data.index import read_index
from wsi_detect.errors import ConfigError
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.slides import evaluate_cells
from wsi_detect.run import Batch, RunConfig, run_batch
from wsi_detect.run.config import load_job
from wsi_detect.run.slide_list import read_slides
from wsi_detect.training.config import TrainingConfig
from wsi_detect.training.trainer import train_detector


class JobConfig(RunConfig):
    """The sections of the YAML file this job reads: those of a run, and these."""

    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def main(data: Path, config: JobConfig, out: Path, split: str = "val", workers: int = 1) -> Path:
    """Train, screen the slides of a split, and return the path of the table of figures."""
    index = data / "dataset" / "index.parquet"
    bundle = train_detector(index, out, config.training)
    content = read_index(index)
    kept = {slide for slide, name in zip(content.slide_ids, content.splits, strict=True) if name == split}
    rows = [row for row in read_slides(data / "slides.parquet") if row.slide_id in kept]
    if not rows:
        raise ConfigError(f"the data set has no slide in the split {split!r}")
    run = RunConfig(**{name: getattr(config, name) for name in RunConfig.model_fields})
    statuses = run_batch(rows, Batch(out / "screened", bundle, run), workers=workers)
    cells = [out / "screened" / status["slide_id"] / "cells.parquet" for status in statuses]
    metrics = evaluate_cells(cells, labels_of(data, kept, out), out, config.evaluation)
    for entry in artifact.read_table(metrics, schema.METRICS).to_pylist():
        print(json.dumps(entry))
    return metrics


def labels_of(data: Path, slides: set[str], out: Path) -> Path:
    """Write the annotations of some slides: those of the others would count as cells that were missed."""
    table = artifact.read_table(data / "annotations.parquet", schema.ANNOTATIONS)
    chosen = table.take([row for row, slide in enumerate(table["slide_id"].to_pylist()) if slide in slides])
    artifact.write_table(out / "annotations.parquet", chosen, schema.ANNOTATIONS)
    return out / "annotations.parquet"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--data", "--config", "--out"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with documented_exit():
        print(main(chosen.data, load_job(chosen.config, JobConfig), chosen.out, chosen.split, chosen.workers))
