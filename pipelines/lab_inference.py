"""A laboratory's inbox: every slide that arrives is screened, then moved to `done` or `failed`; one audit line a slide.

    python pipelines/lab_inference.py --inbox INBOX --out WORK --config configs/lab_inference.yaml [--once]

Results are in WORK/<slide_id>/, the audit trail in WORK/audit.jsonl. File names can hold a patient's name, so the trail
has slide ids only, unless `--audit-names` is given. Stop it at any time: the next start finishes the slides it was at.
"""

import argparse
import json
import logging
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wsi_detect.cli.ending import documented_exit
from wsi_detect.config import Config, digest
from wsi_detect.detectors.info import default_bundle, read_info
from wsi_detect.run import Batch, RunConfig, RunOptions, SlideRow, list_slides, run_batch
from wsi_detect.run.config import load_job
from wsi_detect.run.slide_list import SLIDE_SUFFIXES
from wsi_detect.run.status import NOT_SCREENED


class LabConfig(Config):
    """What holds for every slide of the laboratory, and how the inbox is watched."""

    preparation: str | None = None
    mpp: float | None = None
    settle_s: float = 60
    poll_s: float = 10
    workers: int = 1


class JobConfig(RunConfig):
    """The sections of the YAML file this job reads: those of a run, and `lab`."""

    lab: LabConfig = LabConfig()


def main(inbox: Path, out: Path, config: JobConfig, model: Path | None = None, names: bool = False) -> int:
    """Screen what lies in the inbox now, and return how many slides that were."""
    rows = list_slides(ready) if (ready := settled(inbox, config.lab.settle_s)) else []
    if not rows:
        return 0
    run = RunConfig(**{name: getattr(config, name) for name in RunConfig.model_fields})
    options = RunOptions(mpp=config.lab.mpp, preparation=config.lab.preparation)
    batch = Batch(out.absolute(), model or default_bundle(), run, options)
    by_id = {row.slide_id: row for row in rows}
    facts = {"model": read_info(batch.bundle).model_id, "config": digest(run)}

    def finish(status: dict[str, Any]) -> None:
        row = by_id[status["slide_id"]]
        audit(out / "audit.jsonl", status, facts, Path(row.path).name if names else None)
        put_away(row, inbox / ("failed" if status["status"] == NOT_SCREENED else "done"))

    run_batch(rows, batch, workers=config.lab.workers, on_done=finish)
    return len(rows)


def settled(inbox: Path, seconds: float) -> list[Path]:
    """Slides that have not changed for so long: whoever copies them has finished."""
    files = sorted(path for path in inbox.iterdir() if path.suffix.lower() in SLIDE_SUFFIXES and path.is_file())
    return [path for path in files if time.time() - path.stat().st_mtime >= seconds]


def audit(path: Path, status: dict[str, Any], facts: dict[str, str], name: str | None) -> None:
    """Append one line, and see it on the disk before the slide is moved."""
    kept = {key: status.get(key) for key in ("slide_id", "status", "reason", "cells", "version")}
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **kept, **facts}
    if name is not None:
        line["name"] = name
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line, allow_nan=False) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def put_away(row: SlideRow, folder: Path) -> None:
    """Move a slide, and the folder MRXS keeps its pixels in; a name that is taken gets the slide's id."""
    folder.mkdir(exist_ok=True)
    source = Path(row.path)
    stem = source.stem if not (folder / source.name).exists() else f"{source.stem}.{row.slide_id}"
    companion = source.with_suffix("")
    if source.suffix.lower() == ".mrxs" and companion.is_dir():
        shutil.move(companion, folder / stem)
    shutil.move(source, folder / f"{stem}{source.suffix}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inbox", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--once", action="store_true", help="look once and leave")
    parser.add_argument("--audit-names", action="store_true", help="write file names into the audit trail")
    chosen = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with documented_exit():
        job = load_job(chosen.config, JobConfig)
        while main(chosen.inbox, chosen.out, job, chosen.model, chosen.audit_names) >= 0 and not chosen.once:
            time.sleep(job.lab.poll_s)
