"""A batch of slides → cell maps, exports and reports: what `wsi-detect run` does, as a program to start from.

    python pipelines/screen_batch.py slides/ --config configs/screen_batch.yaml --out work [--workers 4]

Ends with the exit codes of the command: 0, 3 when a slide was not fully screened, 4 when none was.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from wsi_detect.cli.ending import documented_exit
from wsi_detect.detectors.info import default_bundle
from wsi_detect.run import Batch, RunConfig, exit_code, list_slides, run_batch
from wsi_detect.run.config import load_job
from wsi_detect.run.gate_report import gate_lines


def main(
    slides: Sequence[str],
    config: RunConfig,
    out: Path,
    model: Path | None = None,
    workers: int = 1,
    evidence_model: Path | None = None,
) -> int:
    """Screen slides, print a line for each, and return the exit code."""
    batch = Batch(out.absolute(), model or default_bundle(), config, evidence_bundle=evidence_model)
    statuses = run_batch(list_slides(slides), batch, workers=workers)
    for status in statuses:
        print(status["slide_id"], status["status"], status["cells"], status["reason"] or "", sep="\t")
    print(*gate_lines(statuses), sep="\n", end="")
    return exit_code(statuses)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--evidence-model", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with documented_exit():
        job = load_job(chosen.config, RunConfig)
        sys.exit(main(chosen.slides, job, chosen.out, chosen.model, chosen.workers, chosen.evidence_model))
