"""Equality with pycocotools and with MONAI on random fields: ties, crowds, empty images, sizes, limits."""

import contextlib
import io
import warnings

import numpy as np
import pytest

from wsi_detect.evaluation.average_precision import COCO_AREAS, coco_ap, size_ranges, to_coco
from wsi_detect.evaluation.columns import lay_out
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.froc import extents, froc
from wsi_detect.evaluation.matching import ask

CLASSES = ("NILM", "LSIL", "HSIL", "SCC")


def random_field(random, image: int) -> tuple[FieldPrediction, FieldTruth]:
    """Coordinates in quarters of a px, so that equal overlaps and overlaps of exactly 0.5 do occur."""

    def quarters(values):
        return np.round(np.asarray(values) * 4) / 4

    number = 0 if image % 5 == 0 else 25
    corner = random.uniform(0, 300, (number, 2))
    cells = quarters(np.hstack([corner, corner + random.choice([10, 24, 40, 120], (number, 1))]))
    labels = random.choice(CLASSES[:3], number, p=[0.6, 0.3, 0.1]).tolist()
    rows = random.integers(0, number, 40) if number else np.zeros(0, int)
    noise = quarters(random.uniform(0, 300, (12, 2)))
    guess = quarters(np.vstack([cells[rows] + random.integers(-4, 5, (len(rows), 4)), np.hstack([noise, noise + 30])]))
    guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
    names = [labels[row] if random.random() < 0.7 else str(random.choice(CLASSES)) for row in rows]
    names += random.choice(CLASSES, 12).tolist()
    scores = random.uniform(0, 1, len(guess)).round(1)
    crowd = noise[:3] if image % 2 else noise[:0]
    return (
        FieldPrediction(f"{image}", guess, scores, names),
        FieldTruth(f"{image}", 420, 420, cells, labels, np.hstack([crowd - 10, crowd + 45])),
    )


def random_fields(seed: int, images: int = 12) -> tuple[list[FieldPrediction], list[FieldTruth]]:
    random = np.random.default_rng(seed)
    fields = [random_field(random, image) for image in range(images)]
    return [field[0] for field in fields], [field[1] for field in fields]


def pycocotools_precision(predictions, truths, limit: int) -> np.ndarray:
    """Return (thresholds, classes, ranges), -1 where there is no cell."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    content, results = to_coco(predictions, truths, {name: {name} for name in CLASSES})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"info": {}, **content}
        coco.createIndex()
        job = COCOeval(coco, coco.loadRes(results), "bbox")
        job.params.maxDets = [limit]
        job.params.areaRng = [[0, 1e10], *map(list, COCO_AREAS.values())]
        job.params.areaRngLbl = ["all", *COCO_AREAS]
        job.evaluate()
        job.accumulate()
    return np.asarray(job.eval["precision"])[:, :, :, :, 0].mean(axis=1)


@pytest.mark.parametrize("limit", [1000, 5])
@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_pycocotools(seed, limit):
    predictions, truths = random_fields(seed)
    oracle = pycocotools_precision(predictions, truths, limit)
    columns = lay_out(predictions, truths)
    question = ask(columns, {name: {name} for name in CLASSES}, limit=limit)
    ranges = size_ranges(columns, truths, {})
    assert list(ranges) == [f"coco {name}" for name in COCO_AREAS]
    defined = 0
    for number, within in enumerate([None, *ranges.values()]):
        ours = coco_ap(question, within)
        for k, name in enumerate(CLASSES):
            theirs = oracle[:, k, number]
            if (theirs < 0).any():
                assert (theirs < 0).all()
                assert ours[name] is None
            else:
                defined += 1
                assert ours[name] == pytest.approx(theirs.mean(), abs=1e-9)
    assert defined >= 8
    assert 0 < oracle[:, 0, 0].mean() < 1


def test_froc_is_that_of_monai():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.metrics import compute_froc_curve_data, compute_froc_score

    rates = (0.5, 1.0, 2.0, 4.0)
    for seed in range(6):
        predictions, truths = random_fields(seed)
        columns = lay_out(predictions, truths)
        for pool in ask(columns, {"LSIL": {"LSIL"}, "abnormal": {"HSIL", "SCC"}}).pools().values():
            curve = froc(pool, extents(truths, "field"))
            wrong, right = pool.scores[~pool.hits], pool.scores[pool.hits]
            theirs = compute_froc_curve_data(wrong, right, pool.n_cells, len(truths))
            # Theirs goes from the lowest threshold up, leaves the lowest out and ends at nothing.
            assert np.allclose(curve.false_positives[:-1], theirs[0][:-1][::-1], atol=1e-12)
            assert np.allclose(curve.sensitivity[:-1], theirs[1][:-1][::-1], atol=1e-12)
            reached = [rate for rate in rates if rate <= theirs[0][0]]
            assert reached
            assert curve.score(reached) == pytest.approx(compute_froc_score(*theirs, tuple(reached)), abs=1e-12)
