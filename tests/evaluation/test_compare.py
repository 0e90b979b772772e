"""Two runs on the same images: by hand, against plain arithmetic on the drawn images, and what is refused."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect import artifact
from wsi_detect.errors import ConfigError, LabelError
from wsi_detect.evaluation.average_precision import ap50
from wsi_detect.evaluation.bootstrap import draws
from wsi_detect.evaluation.compare import (
    Comparison,
    ComparisonConfig,
    Difference,
    compare_runs,
    fewest_replicates,
    holm,
)
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.same_truth import check_same_truth
from wsi_detect.schema import COMPARISON

CLASSES = ("NILM", "LSIL", "HSIL")
COST = "cost/all/image"
#: The figures of most tests; twelve of them are defined.
FEW = ("ap50/*", "recall@*/any_abnormal/field", "hit@*", "cost/*")
QUICK = ComparisonConfig(replicates=80, figures=FEW)


def truth(name: str, labels: list[str], **facts) -> FieldTruth:
    """Cells of 40 px side by side, 100 px apart."""
    x = np.arange(len(labels)) * 100.0
    boxes = np.column_stack([x, np.zeros(len(labels)), x + 40, np.full(len(labels), 40.0)])
    return FieldTruth(name, 2000, 100, boxes, labels, **facts)


def seen(field: FieldTruth, chance: float, seed: int) -> FieldPrediction:
    """Each cell is seen with some chance, under its name; scores are random."""
    random = np.random.default_rng(seed)
    rows = np.flatnonzero(random.random(len(field.labels)) < chance)
    return FieldPrediction(
        field.image_id, field.boxes[rows], random.uniform(0.5, 1, len(rows)), [field.labels[row] for row in rows]
    )


def run(truths, predictions, about=None, **options) -> EvaluationRun:
    config = EvaluationConfig(**{"min_score": 0.5, "hits_at": (1, 10), **options})
    return EvaluationRun(list(truths), list(predictions), CLASSES, config, about or {})


FIELDS = [truth(f"f{k}", [CLASSES[(k + j) % 3] for j in range(12)], slide_id=f"s{k // 3}") for k in range(24)]
WEAK = run(FIELDS, [seen(field, 0.5, k) for k, field in enumerate(FIELDS)], {"model_id": "weak"})
STRONG = run(FIELDS, [seen(field, 0.9, k + 99) for k, field in enumerate(FIELDS)], {"model_id": "strong"})


@cache
def compared(replicates: int, *, back: bool = False) -> Comparison:
    runs = (STRONG, WEAK) if back else (WEAK, STRONG)
    return compare_runs(*runs, ComparisonConfig(replicates=replicates, figures=FEW))


def by_figure(comparison: Comparison) -> dict[str, Difference]:
    return {entry.figure: entry for entry in comparison.differences}


def test_a_better_run_is_better():
    # Twelve figures: with 479 replicates Holm's share of a sure difference is 12 · 2 / 480.
    found = compared(479)
    assert (found.images, found.unit, found.groups) == (24, "slide", 8)
    rows = by_figure(found)
    assert list(rows) == [
        *(f"ap50/{name}" for name in ("HSIL", "LSIL", "NILM", "mean", "agnostic")),
        "recall@1/any_abnormal/field",
        "recall@4/any_abnormal/field",
        COST,
        "hit@1/any_abnormal/slide",
        "hit@10/any_abnormal/slide",
        "hit@1/gravest/slide",
        "hit@10/gravest/slide",
    ]
    for name in ("ap50/HSIL", "ap50/mean", "recall@1/any_abnormal/field", COST):
        row = rows[name]
        assert row.difference == pytest.approx(row.second - row.first)
        assert row.ci_low < row.difference < row.ci_high
        assert (row.ci_low > 0) if name != COST else (row.ci_high < 0)
        assert row.better(0.95) == "B"
        assert row.share == pytest.approx(2 / 480)
        assert 0 < row.detectable < abs(row.difference)
    back = by_figure(compared(479, back=True))
    assert (back[COST].better(0.95), back["ap50/mean"].better(0.95)) == ("A", "A")


def test_the_other_way_round_is_the_same_with_the_sign_changed():
    forth, back = by_figure(compared(479)), by_figure(compared(479, back=True))
    for name, row in forth.items():
        other = back[name]
        assert (row.first, row.second, row.share) == (other.second, other.first, other.share)
        assert (row.ci_low, row.ci_high) == (pytest.approx(-other.ci_high), pytest.approx(-other.ci_low))


def test_a_run_against_itself_shows_nothing():
    for row in compare_runs(WEAK, WEAK, QUICK).differences:
        assert (row.difference, row.ci_low, row.ci_high, row.share, row.holm) == (0, 0, 0, 1, 1)
        assert (row.detectable, row.better(0.95)) == (None, None)


def test_replicates_are_those_of_plain_arithmetic():
    """AP of the images drawn, by the whole path, for both runs on the same draws."""
    config = ComparisonConfig(replicates=5, seed=3, figures=("ap50/*",))
    row = by_figure(compare_runs(WEAK, STRONG, config))["ap50/agnostic"]
    slides = [field.slide_id for field in FIELDS]
    differences = []
    for weights in draws(slides, 5, 3):
        values = []
        for one in (WEAK, STRONG):
            copies = [(k, c) for k, often in enumerate(weights) for c in range(int(often))]
            fields = [replace(FIELDS[k], image_id=f"{k}.{c}") for k, c in copies]
            found = [replace(one.predictions[k], image_id=f"{k}.{c}") for k, c in copies]
            values.append(ap50(found, fields, CLASSES)["agnostic"])
        differences.append(values[1] - values[0])
    low, high = np.quantile(differences, [0.025, 0.975])
    # All predictions are right here, so that copies of one score cannot change the precision.
    assert (row.ci_low, row.ci_high) == (pytest.approx(low, abs=0.011), pytest.approx(high, abs=0.011))
    assert row.detectable == pytest.approx((1.959964 + 0.841621) * np.std(differences, ddof=1), rel=0.05)


def test_by_hand():
    """Two fields of one LSIL each. A finds the first, B both: one of two against two of two."""
    fields = [truth("a", ["LSIL"]), truth("b", ["LSIL"])]
    none = FieldPrediction("b", np.zeros((0, 4)), np.zeros(0), [])
    found = [FieldPrediction(field.image_id, field.boxes, np.array([0.9]), ["LSIL"]) for field in fields]
    config = ComparisonConfig(replicates=600, power=0.5)
    rows = by_figure(compare_runs(run(fields, [found[0], none]), run(fields, found), config))
    row = rows["hit@1/any_abnormal/field"]
    # Of four draws one has b twice (difference 1), two have both (1/2), one has a twice (0).
    assert (row.first, row.second, row.difference, row.ci_low, row.ci_high) == (0.5, 1.0, 0.5, 0.0, 1.0)
    assert row.share == pytest.approx(2 * 0.25, abs=0.08)
    # With power 1/2 it is 1.96 standard errors; the variance is 1/8.
    assert row.detectable == pytest.approx(1.959964 * np.sqrt(1 / 8), rel=0.06)
    # A missed LSIL costs 2 steps of 5; one in two images.
    assert (rows[COST].first, rows[COST].second, rows[COST].difference) == (5.0, 0.0, -5.0)
    # NILM and HSIL are nowhere in the truth.
    for name in ("ap50/NILM", "ap50/HSIL"):
        assert rows[name] == Difference(name, None, None, None, None, None, None, None, None, 600)


def test_undefined_replicates_are_counted():
    fields = [truth("a", ["HSIL", "NILM"]), truth("b", ["NILM"])]
    runs = [run(fields, [seen(field, 1.0, seed) for field in fields]) for seed in (0, 1)]
    rows = by_figure(compare_runs(*runs, ComparisonConfig(replicates=200, figures=FEW)))
    assert rows["ap50/HSIL"].undefined / 200 == pytest.approx(0.25, abs=0.1)
    assert rows["ap50/NILM"].undefined == 0


def test_each_run_has_its_own_threshold():
    field = truth("a", ["HSIL"])
    dim = [FieldPrediction("a", field.boxes, np.array([0.3]), ["HSIL"])]
    strict, lenient = run([field], dim), run([field], dim, min_score=0.25)
    rows = by_figure(compare_runs(strict, lenient, ComparisonConfig(replicates=1)))
    assert (rows[COST].first, rows[COST].second) == (16.0, 0.0)


def test_slides_are_compared_at_the_points_chosen_for_them():
    """Two positive slides and a negative one; A's threshold misses the second, B's does not but takes the negative."""
    fields = [truth(name, [label], slide_id=name) for name, label in (("s", "HSIL"), ("t", "HSIL"), ("u", "NILM"))]
    found = [
        FieldPrediction(field.image_id, field.boxes, np.array([score]), ["HSIL"])
        for field, score in zip(fields, (0.9, 0.5, 0.4), strict=True)
    ]
    about = [
        {"data": "test", "chosen": {"split": "val", "threshold": threshold, "temperatures": {}}}
        for threshold in (0.7, 0.3)
    ]
    runs = [run(fields, found, entry) for entry in about]
    rows = by_figure(compare_runs(*runs, ComparisonConfig(replicates=50)))
    pairs = {name: (row.first, row.second) for name, row in rows.items()}
    assert pairs["sensitivity/any_abnormal/slide"] == (0.5, 1.0)
    assert pairs["specificity/any_abnormal/slide"] == (1.0, 0.0)
    assert pairs["auc/any_abnormal/slide"] == (1.0, 1.0)
    # Where one of the two has no operating point, there is nothing to compare.
    rows = by_figure(compare_runs(runs[0], run(fields, found), ComparisonConfig(replicates=50)))
    assert not any(name.startswith(("sensitivity", "specificity")) for name in rows)


def test_only_what_lies_in_the_region_counts():
    field = truth("a", ["HSIL", "HSIL"], roi=shapely.box(0, 0, 60, 60))
    runs = [run([field], [found]) for found in (seen(field, 0.0, 0), seen(field, 1.0, 0))]
    rows = by_figure(compare_runs(*runs, ComparisonConfig(replicates=1)))
    assert (rows[COST].first, rows[COST].second) == (16.0, 0.0)


def test_figures_are_chosen_by_pattern():
    config = ComparisonConfig(replicates=2, figures=("ece/HSIL", "recall@*/HSIL/slide"))
    rows = by_figure(compare_runs(WEAK, STRONG, config))
    assert list(rows) == ["recall@1/HSIL/slide", "recall@10/HSIL/slide", "recall@100/HSIL/slide", "ece/HSIL"]
    with pytest.raises(ConfigError, match=r"no figure is called ap51/\*; there are ap50/HSIL"):
        compare_runs(WEAK, STRONG, ComparisonConfig(figures=("ap51/*",)))


def test_too_few_replicates_can_make_nothing_sure():
    """A difference nobody can doubt, in every replicate; of twelve figures it needs 479."""
    assert [fewest_replicates(number, 0.95) for number in (12, 1, 0)] == [479, 39, 1]
    for replicates, better in ((478, None), (479, "B")):
        assert by_figure(compared(replicates))["ap50/mean"].better(0.95) == better


@pytest.mark.parametrize("fields", [[], [truth("a", ["HSIL"], patient_id="p"), truth("b", ["HSIL"], patient_id="p")]])
def test_fewer_than_two_groups_say_nothing_about_sureness(fields):
    found = compare_runs(run(fields, []), run(fields, [seen(field, 1.0, 0) for field in fields]), QUICK)
    assert (found.unit, found.groups) == ("patient", min(len(fields), 1))
    for row in found.differences:
        assert (row.ci_low, row.share, row.holm, row.detectable, row.undefined) == (None, None, None, None, 0)
    row = by_figure(found)["ap50/HSIL"]
    assert row.difference == (1.0 if fields else None)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([], []),
        ([0.2], [0.2]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Holm's own kind of table
        ([0.5, 0.9, 0.4], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
    ],
)
def test_holm_by_hand(shares, expected):
    assert holm(shares) == pytest.approx(expected)


@given(st.lists(st.floats(0.001, 1), max_size=15))
@settings(max_examples=60, deadline=None)
def test_holm_keeps_the_order_and_lies_between_nothing_and_bonferroni(shares):
    adjusted = holm(shares)
    for share, value in zip(shares, adjusted, strict=True):
        assert share - 1e-12 <= value <= min(1.0, share * len(shares)) + 1e-12
    order = np.argsort(shares, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def other(change) -> list[FieldTruth]:
    field = replace(FIELDS[0], ignore=np.array([[0.0, 0, 9, 9]]), roi=shapely.box(0, 0, 9, 9))
    return [change(field), *FIELDS[1:]]


SAME = other(lambda field: field)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (FIELDS[:-1], "image f23: in run A only"),
        ([*FIELDS, truth("z", [])], "image z: in run B only"),
        (other(lambda f: replace(f, width=1000)), "image f0: width is 2000 in run A, 1000 in run B"),
        (other(lambda f: replace(f, patient_id="p")), "image f0: patient_id is None in run A, p in run B"),
        (other(lambda f: replace(f, mpp=0.5)), "image f0: mpp is None in run A, 0.5 in run B"),
        (other(lambda f: replace(f, roi=None)), "image f0: its labels are complete in one region"),
        (other(lambda f: replace(f, roi=shapely.box(0, 0, 9, 8))), "image f0: its labels are complete in one region"),
        (other(lambda f: truth("f0", f.labels[1:], slide_id="s0", roi=f.roi)), "12 times a cell in run A, 11 in run B"),
        (
            other(lambda f: replace(f, labels=["HSIL", *f.labels[1:]])),
            r"a cell is NILM \[0, 0, 40, 40\] in run A, HSIL \[0, 0, 40, 40\] in run B",
        ),
        (other(lambda f: replace(f, boxes=f.boxes + 1)), r"NILM \[0, 0, 40, 40\] in run A, NILM \[1, 1, 41, 41\]"),
        (other(lambda f: replace(f, ignore=f.ignore[:0])), "1 times a area to ignore in run A, 0 in run B"),
    ],
)
def test_other_truths_are_refused_and_the_first_difference_named(changed, message):
    base = SAME if changed[0] is not FIELDS[0] else FIELDS
    with pytest.raises(LabelError, match=message):
        check_same_truth(base, changed)


def test_the_order_of_images_and_cells_does_not_matter():
    turned = [
        replace(field, boxes=field.boxes[::-1], labels=field.labels[::-1], roi=field.roi and field.roi.reverse())
        for field in reversed(SAME)
    ]
    check_same_truth(SAME, turned)
    second = run([replace(field, boxes=field.boxes[::-1], labels=field.labels[::-1]) for field in FIELDS[::-1]],
                 STRONG.predictions[::-1])  # fmt: skip
    assert compare_runs(WEAK, second, QUICK).differences == compared(80).differences


def test_units_that_are_not_known_are_refused():
    with pytest.raises(LabelError, match="its patient is not known"):
        compare_runs(WEAK, STRONG, ComparisonConfig(unit="patient"))
    assert compare_runs(WEAK, STRONG, ComparisonConfig(unit="field", replicates=2)).groups == 24


def test_it_is_written_and_read_back(tmp_path):
    found = compared(80)
    path = found.write(tmp_path / "out")
    content = json.loads(path.read_text())
    assert content["about"] == {"A": {"model_id": "weak"}, "B": {"model_id": "strong"}}
    assert (content["unit"], content["groups"], content["config"]["replicates"]) == ("slide", 8, 80)
    rows = artifact.read_table(tmp_path / "out" / "comparison.parquet", COMPARISON).to_pylist()
    for row, entry, written in zip(rows, found.differences, content["differences"], strict=True):
        assert {name: row[name] for name in written} == written
        assert Difference(**written) == entry
        assert (row["replicates"], row["groups"]) == (80, 8)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    found.write(tmp_path / "out")
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_figures_nobody_has_are_written_as_null(tmp_path):
    path = compare_runs(run([], []), run([], []), QUICK).write(tmp_path)
    assert {entry["difference"] for entry in json.loads(path.read_text())["differences"]} == {None}
