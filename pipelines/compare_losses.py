"""Losses, samplers and detectors held against each other by cross-validation on labelled fields.

    python pipelines/compare_losses.py --images FIELDS --coco train.json --card data_cards/cric-cervix-pap \
        --config configs/compare_losses.yaml --work work/compare --results docs/results/compare_losses \
        [--only GRID …] [--limit-minutes 90] [--report docs/long-tail.md]

The same command continues: a run whose record is there, made with these very settings, is not repeated, and one that
was stopped goes on from its checkpoint or begins anew. Started twice, two processes share the runs. `--limit-minutes`
stops between runs. With `--report` nothing is trained and no field is needed: tables and plot of what is finished go
between the marks of the document, and rows that are not complete say so. `--only` takes names of grids, or parts of
names of runs.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from wsi_detect.cli.ending import documented_exit
from wsi_detect.config import load
from wsi_detect.errors import MissingArtifactError
from wsi_detect.evaluation.evaluate import WholeImage
from wsi_detect.evaluation.fields import FieldDetector
from wsi_detect.inference.torch import load as load_detector
from wsi_detect.report.method_plot import plot_methods
from wsi_detect.report.method_tables import blocks, state, tables, write_between_marks
from wsi_detect.training.cross_validation import Bench, check_runs, prepare, settle
from wsi_detect.training.grid import ComparisonJob, planned
from wsi_detect.training.records import Results, finished

_log = logging.getLogger(__name__)


def begin(images: Path, coco: Path, card: Path, job: ComparisonJob, work: Path, results: Path) -> Bench:
    """Put the fields into folds and find the folder of this declaration."""
    fields = prepare(images, coco, card, job, work)

    def detector_of(bundle: Path) -> FieldDetector:
        return WholeImage(load_detector(bundle, threads=job.training.threads, any_specimen=True))

    return Bench(job, fields, Results.enter(results, fields.facts(job)), detector_of)


def main(bench: Bench, only: Sequence[str] = (), limit_minutes: float | None = None) -> int:
    """Do the runs that are not recorded yet, and return how many are still open."""
    runs = planned(bench.job.cross_validation, only)
    check_runs(bench.job, runs)
    begun = time.monotonic()
    for number, run in enumerate(runs, start=1):
        if limit_minutes is not None and time.monotonic() - begun >= 60 * limit_minutes:
            _log.info("compare: stopped after %g minutes, before run %d of %d", limit_minutes, number, len(runs))
            break
        if not settle(bench, run):
            _log.info("%s: another process is at it", run.name)
    left = [run for run in runs if bench.results.current(bench.job, run) is None]
    _log.info("compare: %d of %d runs are recorded in %s", len(runs) - len(left), len(runs), bench.results.folder)
    return len(left)


def report(
    job: ComparisonJob, results: Results, document: Path, only: Sequence[str] = (), folds: Sequence[int] = ()
) -> list[Path]:
    """Write tables and plots of what is finished into a document and into `img` beside it."""
    rows = finished(results, job, only, folds)
    print(state(rows))
    found = blocks(rows, job, results.groups)
    lost = write_between_marks(document, tables(found, job, folds))
    if lost:
        raise MissingArtifactError(f"{document} has no place <!-- {lost[0]} --> … <!-- end --> for a table")
    pictures = []
    for block in found:
        picture = plot_methods(block, job, document.parent / "img" / block.picture)
        pictures += [] if picture is None else [picture]
    return pictures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("--images", "--coco", "--card", "--config", "--work", "--results"):
        parser.add_argument(option, type=Path, required=option in ("--config", "--results"))
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--limit-minutes", type=float)
    parser.add_argument("--report", type=Path, metavar="DOCUMENT")
    parser.add_argument("--folds", nargs="*", type=int, default=[], help="report these alone, before all are finished")
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with documented_exit():
        job = load(chosen.config, ComparisonJob, chosen.set)
        if chosen.report:
            for picture in report(job, Results.find(chosen.results, job), chosen.report, chosen.only, chosen.folds):
                print(picture)
            sys.exit(0)
        given = chosen.images, chosen.coco, chosen.card, chosen.work
        if None in given:
            parser.error("--images, --coco, --card and --work are needed to train; only --report does without them")
        bench = begin(*given[:3], job, given[3], chosen.results)
        sys.exit(3 if main(bench, chosen.only, chosen.limit_minutes) else 0)
