"""Measure the evaluation beside others: time and memory by number of detections, on the truth of painted fields.

    python scripts/bench_evaluation.py --json build/bench/evaluation.json

Every case runs in a process of its own, on one core. All compute the same: AP of each class at ten IoU and for COCO's
four ranges of size, no detection left out; equal results are held against each other. "everything" is ours with all
other figures of `evaluate` and 1,000 replicates. What a program needs in memory before it begins (our arrays, its
dicts) is not counted as time. A peer that would take longer than `--limit` seconds, by what it took for fewer, is
left out from there on, and what it would take is extended in proportion to the fields: none looks across fields.
"""

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from subprocess import TimeoutExpired
from typing import Any

import numpy as np
from bench_common import emit, in_child, judge, machine, parser, peak_mb, table

from wsi_detect.evaluation.average_precision import coco_ap, size_ranges, to_coco
from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.matching import ask
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.runs import evaluate_run
from wsi_detect.testing.painter import boxes_of, lay_cells

CLASSES = ("NILM", "ASC-US", "LSIL", "ASC-H", "HSIL", "SCC")
SHARES = (0.7, 0.1, 0.1, 0.04, 0.04, 0.02)
CELLS, DETECTIONS, SIDE = 400, 2000, 2048
FIELDS = (1, 5, 50, 500)
_AREAS = [[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]]

Fields = tuple[list[FieldPrediction], list[FieldTruth]]


def painted(fields: int) -> Fields:
    """Truth of painted fields, and what a middling detector might say: jittered, renamed, doubled, and noise."""
    random = np.random.default_rng(7)
    predictions, truths = [], []
    for field in range(fields):
        boxes = boxes_of(lay_cells(SIDE, SIDE, n_cells=CELLS, seed=field))
        labels = random.choice(CLASSES, len(boxes), p=SHARES)
        rows = random.integers(0, len(boxes), DETECTIONS * 7 // 10)
        near = boxes[rows] + random.normal(0, 3, (len(rows), 4))
        corner = random.uniform(0, SIDE, (DETECTIONS - len(rows), 2))
        found = np.vstack([near, np.hstack([corner, corner + random.uniform(20, 90, corner.shape)])])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        names = np.concatenate([labels[rows], random.choice(CLASSES, len(corner))])
        names = np.where(random.random(DETECTIONS) < 0.3, random.choice(CLASSES, DETECTIONS), names)
        scores = random.beta(2, 5, DETECTIONS).round(4)
        predictions.append(FieldPrediction(str(field), found, scores, names.tolist()))
        truths.append(FieldTruth(str(field), SIDE, SIDE, boxes, labels.tolist(), mpp=0.25))
    return predictions, truths


def ours(fields: Fields) -> Callable[[], float]:
    """AP of each class, ten IoU, four ranges."""

    def work() -> float:
        columns = lay_out(*fields)
        question = ask(columns, {name: {name} for name in CLASSES})
        found = [coco_ap(question, within) for within in (None, *size_ranges(columns, fields[1], {}).values())]
        return float(np.mean([value for value in found[0].values() if value is not None]))

    return work


def everything(fields: Fields) -> Callable[[], float]:
    """All that `evaluate` computes, with 1,000 replicates."""

    def work() -> float:
        run = evaluate_run(EvaluationRun(fields[1], fields[0], CLASSES, EvaluationConfig()))
        return next(float(r["value"]) for r in run.metrics if r["metric"] == "ap" and r["label"] == "mean")

    return work


def pycocotools(fields: Fields) -> Callable[[], float]:
    """The reference implementation."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return _peer(fields, COCO, lambda truth, found: COCOeval(truth, found, "bbox"))


def faster_coco_eval(fields: Fields) -> Callable[[], float]:
    """The same in C++."""
    from faster_coco_eval import COCO, COCOeval_faster

    return _peer(fields, COCO, lambda truth, found: COCOeval_faster(truth, found, "bbox"))


def _peer(fields: Fields, kind: Any, job_of: Callable[[Any, Any], Any]) -> Callable[[], float]:
    content, results = to_coco(*fields, {name: {name} for name in CLASSES})

    def work() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = kind()
            truth.dataset = {"info": {}, **content}
            truth.createIndex()
            job = job_of(truth, truth.loadRes(results))
            job.params.maxDets = [DETECTIONS]
            job.params.areaRng, job.params.areaRngLbl = _AREAS, ["all", "small", "medium", "large"]
            job.evaluate()
            job.accumulate()
        precision = np.asarray(job.eval["precision"])[:, :, :, 0, 0]
        return float(precision.mean())

    return work


CASES = {
    "ours": ours,
    "ours, everything": everything,
    "faster-coco-eval": faster_coco_eval,
    "pycocotools": pycocotools,
}


def measure(name: str, fields: int) -> dict[str, float]:
    """Measure one case in this process: seconds, peak memory in MB of the whole process, mean AP, detections."""
    CASES[name](painted(1))()
    scene = painted(fields)
    work = CASES[name](scene)
    start, wall = time.process_time(), time.perf_counter()
    result = work()
    return {
        "cpu": time.process_time() - start,
        "wall": time.perf_counter() - wall,
        "mb": peak_mb(),
        "ap": result,
        "detections": sum(len(found.scores) for found in scene[0]),
    }


def timings(sizes: tuple[int, ...], limit_s: float) -> dict[str, float]:
    """Measure every case for every size: `<figure>/<fields>/<case>` → number."""
    found: dict[str, float] = {}
    for name in CASES:
        before: tuple[int, float] | None = None
        for fields in sizes:
            expected = before[1] * fields / before[0] if before else 0.0
            if expected > limit_s and not name.startswith("ours"):
                found[f"extended/{fields}/{name}"] = expected
                print(f"{name}, {fields} fields: left out, {expected:,.0f} s by proportion")
                continue
            try:
                figures = in_child(
                    "bench_evaluation.py",
                    "--case",
                    name,
                    str(fields),
                    environment={"OMP_NUM_THREADS": "1"},
                    timeout_s=10 * limit_s + 300,
                )
            except (RuntimeError, TimeoutExpired) as error:
                print(f"{name}, {fields} fields: left out ({str(error).splitlines()[-1][:200]})")
                break
            before = fields, figures["cpu"]
            print(
                f"{name}, {fields} fields: {figures['cpu']:.3g} s, {figures['mb']:.0f} MB, mean AP {figures['ap']:.6f}"
            )
            found |= {f"{figure}/{fields}/{name}": value for figure, value in figures.items()}
    return found


def goals(figures: dict[str, float], fields: int) -> list[str]:
    """Hold the figures against what was asked: a minute, 4 GB, the same result."""
    lines = []
    for name in ("ours", "ours, everything"):
        if f"cpu/{fields}/{name}" in figures:
            lines.append(judge(f"60 s / {name}", 60 / figures[f"cpu/{fields}/{name}"], 1, 1))
            lines.append(judge(f"4,096 MB / {name}", 4096 / figures[f"mb/{fields}/{name}"], 1, 1))
    for peer in ("pycocotools", "faster-coco-eval"):
        theirs = figures.get(f"cpu/{fields}/{peer}", figures.get(f"extended/{fields}/{peer}"))
        if theirs and f"cpu/{fields}/ours" in figures:
            lines.append(f"{peer} / ours, time: {theirs / figures[f'cpu/{fields}/ours']:,.1f}")
        for size in sorted({int(key.split("/")[1]) for key in figures}):
            if f"ap/{size}/{peer}" in figures and f"ap/{size}/ours" in figures:
                off = abs(figures[f"ap/{size}/{peer}"] - figures[f"ap/{size}/ours"])
                lines.append(f"{peer}, {size} fields: mean AP differs from ours by {off:.1e}")
    return lines


def main() -> None:
    """Print table and goals; `--json` keeps the figures."""
    if sys.argv[1:2] == ["--case"]:
        print(json.dumps(measure(sys.argv[2], int(sys.argv[3]))))
        return
    options = parser(__doc__)
    options.add_argument("--limit", type=float, default=120, help="seconds a peer may take")
    given = options.parse_args()
    sizes = FIELDS[:2] if given.quick else FIELDS
    figures = timings(sizes, 30 if given.quick else given.limit)
    emit(figures, given.json)
    print(f"\n{machine()}\n")
    rows = []
    for name in CASES:
        row: dict[str, object] = {"program": name}
        for fields in sizes:
            done, extended = figures.get(f"cpu/{fields}/{name}"), figures.get(f"extended/{fields}/{name}")
            text = f"{done:.2f} s, {figures[f'mb/{fields}/{name}']:.0f} MB" if done is not None else "–"
            row[f"{fields * DETECTIONS:,}"] = text if extended is None else f"({extended:,.0f} s)"
        rows.append(row)
    print(table(rows))
    print("\n".join(["", *goals(figures, sizes[-1])]))


if __name__ == "__main__":
    main()
