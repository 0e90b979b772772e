"""Evidence maps from field labels alone, NEGEV and its peers, by cross-validation; boxes are for measuring alone.

    python pipelines/compare_heatmaps.py --images FIELDS --coco train.json --card data_cards/cric-cervix-pap \
        --config configs/compare_heatmaps.yaml --work work/maps --results docs/results/compare_heatmaps \
        [--limit-minutes 90] [--report docs/evidence-maps.md]

The same command continues: a run whose record is there, made with these very settings, is not repeated, and one that
was stopped goes on. Started several times, after one with `--limit-minutes 0` has cut the fields into patches,
processes share the runs. With `--report` nothing is trained: the tables of what is finished go between the marks
`<!-- maps-TASK -->` and `<!-- end -->` of the document.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from wsi_detect.cli.ending import documented_exit
from wsi_detect.errors import MissingArtifactError
from wsi_detect.report.map_tables import map_table
from wsi_detect.report.method_tables import write_between_marks
from wsi_detect.run.config import load_job
from wsi_detect.training.cross_validation import in_folds, tiled
from wsi_detect.training.map_comparison import (
    MapBench,
    MapComparisonJob,
    map_facts,
    map_record,
    map_runs,
    settings,
    settle_map,
)
from wsi_detect.training.records import Results

_log = logging.getLogger(__name__)


def begin(images: Path, coco: Path, card: Path, job: MapComparisonJob, work: Path, results: Path) -> MapBench:
    """Put the fields into folds and find the folder of this declaration."""
    fields = in_folds(images, coco, card, job.fields, work, folds=job.map_comparison.folds, unit=None)
    return MapBench(job, fields, Results.enter(results, map_facts(fields, job)))


def main(bench: MapBench, limit_minutes: float | None = None) -> int:
    """Do the runs that are not recorded yet, and return how many are still open."""
    runs = map_runs(bench.job.map_comparison)
    for run in runs:
        for changes in bench.job.map_comparison.variants.values():
            settings(bench.job, run, changes)  # a wrong option shall not be found after hours
    tiled(bench.fields, bench.job.tiling)
    begun = time.monotonic()
    for number, run in enumerate(runs, start=1):
        if limit_minutes is not None and time.monotonic() - begun >= 60 * limit_minutes:
            _log.info("maps: stopped after %g minutes, before run %d of %d", limit_minutes, number, len(runs))
            break
        if not settle_map(bench, run):
            _log.info("%s: another process is at it", run.name)
    left = sum(map_record(bench.results, bench.job, run) is None for run in runs)
    _log.info("maps: %d of %d runs are recorded in %s", len(runs) - left, len(runs), bench.results.folder)
    return left


def report(bench: MapBench, document: Path) -> None:
    """Write the tables of what is finished into a document."""
    texts = {}
    runs = map_runs(bench.job.map_comparison)
    counts = map_facts(bench.fields, bench.job)["negative_fields"]
    for name, task in bench.job.map_comparison.tasks.items():
        mine = [run for run in runs if run.task == name]
        records = [record for run in mine if (record := map_record(bench.results, bench.job, run))]
        declared = bench.job.map_comparison.folds, len(bench.job.map_comparison.seeds)
        texts[f"maps-{name}"] = map_table(task.title, records, declared, counts[name], len(bench.fields.ids))
    lost = write_between_marks(document, texts)
    if lost:
        raise MissingArtifactError(f"{document} has no place <!-- {lost[0]} --> … <!-- end --> for a table")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--images", "--coco", "--card", "--config", "--work", "--results"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--limit-minutes", type=float)
    parser.add_argument("--report", type=Path, metavar="DOCUMENT")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with documented_exit():
        job = load_job(chosen.config, MapComparisonJob, chosen.set)
        bench = begin(chosen.images, chosen.coco, chosen.card, job, chosen.work, chosen.results)
        left = 0 if chosen.report else main(bench, chosen.limit_minutes)
        if chosen.report:
            report(bench, chosen.report)
        sys.exit(3 if left else 0)
