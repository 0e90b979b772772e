"""Recall of abnormal cells and false positives a field at each score, out of fold: what a score threshold costs.

    python scripts/operating_points.py --records docs/results/compare_losses_gpu/*/fcos_long-ce-*.json

The records are those of one row and seed, a fold each, as `pipelines/compare_losses.py` writes them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from wsi_detect import artifact
from wsi_detect.evaluation.figures import ABNORMAL
from wsi_detect.evaluation.out_of_fold import OutOfFold

WRONG, RIGHT = 1, 2
STEPS = 10_000
SCORES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)


def main(records: Sequence[Path]) -> None:
    """Print a table."""
    folds = [OutOfFold.from_json(artifact.read_json(path)["found"]) for path in records]
    fields = sum(len(fold.fields) for fold in folds)
    cells = sum(int(fold.cells[ABNORMAL].sum()) for fold in folds)
    marks = [
        (score / STEPS, outcome // 3 ** questions.index(ABNORMAL) % 3)
        for fold in folds
        for name, questions in fold.asked.items()
        if ABNORMAL in questions
        for found in fold.found[name]
        for score, outcome in found.tolist()
    ]
    print(f"{fields} fields, {cells} abnormal cells\nscore  recall  false positives a field")
    for least in SCORES:
        kept = [outcome for score, outcome in marks if score >= least]
        print(f"{least:5.2f}  {kept.count(RIGHT) / cells:6.3f}  {kept.count(WRONG) / fields:6.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", nargs="+", type=Path, required=True)
    main(parser.parse_args().records)
