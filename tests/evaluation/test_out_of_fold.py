"""Out-of-fold detections: figures by hand, the record read back as it was, and methods compared on the same fields."""

import json

import numpy as np
import pytest

from wsi_detect.errors import DamagedArtifactError, LabelError
from wsi_detect.evaluation.average_precision import average_precision
from wsi_detect.evaluation.compare import ComparisonConfig
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import make_pools
from wsi_detect.evaluation.froc import recall_at
from wsi_detect.evaluation.methods import compare_methods
from wsi_detect.evaluation.out_of_fold import (
    MACRO,
    Endpoints,
    OutOfFold,
    endpoint_figures,
    found_cells,
    join,
    out_of_fold,
)

CLASSES = ("NILM", "LSIL", "HSIL")
ENDPOINTS = Endpoints(groups={"abnormal-two": ("LSIL", "HSIL")}, rare_fields=2)


def box(k):
    return [100.0 * k, 0.0, 100.0 * k + 50, 50.0]


def truth(name, labels):
    return FieldTruth(name, 1000, 100, np.array([box(k) for k in range(len(labels))]).reshape(-1, 4), labels)


def found(name, entries):
    """Entries are (place, score, label)."""
    boxes = np.array([box(k) for k, _, _ in entries]).reshape(-1, 4)
    return FieldPrediction(name, boxes, np.array([s for _, s, _ in entries]), [label for _, _, label in entries])


TRUTHS = [truth("a", ["NILM", "LSIL"]), truth("b", ["HSIL", "NILM"]), truth("c", ["NILM"])]
#: NILM: right, wrong, right and one missed. LSIL: found below a false one. HSIL: called LSIL.
FOUND = [
    found("a", [(0, 0.9, "NILM"), (1, 0.4, "LSIL"), (5, 0.7, "NILM")]),
    found("b", [(0, 0.5, "LSIL"), (1, 0.6, "NILM")]),
]


def kept(predictions=FOUND, truths=TRUTHS, endpoints=ENDPOINTS):
    return out_of_fold(predictions, truths, CLASSES, endpoints)


def test_figures_by_hand():
    figures = endpoint_figures(kept().pools(), CLASSES, ENDPOINTS)
    # NILM: precision 1 up to recall 1/3 (34 of the 101 points), 2/3 up to recall 2/3 (33 points), then 0.
    nilm = (34 * 1 + 33 * 2 / 3) / 101
    assert figures["ap50/NILM"] == pytest.approx(nilm)
    assert figures["ap50/LSIL"] == pytest.approx(0.5)
    assert figures["ap50/HSIL"] == 0
    assert figures[MACRO] == pytest.approx((nilm + 0.5) / 3)
    # As one class the HSIL called LSIL is right.
    assert figures["ap50/abnormal-two"] == pytest.approx(1.0)
    assert figures["recall@1fppi/any_abnormal"] == 1.0


def test_a_replicate_without_a_class_has_no_macro_figure():
    pools = kept().pools()
    without_b = endpoint_figures(pools, CLASSES, ENDPOINTS, np.array([2.0, 0.0, 1.0]))
    assert without_b[MACRO] is None
    assert without_b["ap50/HSIL"] is None
    # Field a twice, c once: three NILM cells, two found by the two best, then two false ones.
    assert without_b["ap50/NILM"] == pytest.approx(67 / 101)


def test_a_record_is_read_back_as_it_was_and_small():
    first = kept()
    text = json.dumps(first.to_json(), sort_keys=True)
    again = OutOfFold.from_json(json.loads(text))
    assert again.to_json() == first.to_json()
    # NILM: right, wrong; LSIL: right to all three questions, wrong as LSIL and right as a group and as abnormal.
    assert first.to_json()["found"]["NILM"] == ["9000c 7000b", "6000c", ""]
    assert first.to_json()["asked"]["LSIL"] == ["LSIL", "abnormal-two", "any_abnormal"]
    assert first.to_json()["found"]["LSIL"] == ["4000A", "5000z", ""]
    assert first.to_json()["cells"]["NILM"] == "1 1 1"
    assert endpoint_figures(again.pools(), CLASSES, ENDPOINTS) == endpoint_figures(first.pools(), CLASSES, ENDPOINTS)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda c: c.pop("cells"),
        lambda c: c["fields"].pop(),
        lambda c: c["cells"].pop("NILM"),
        lambda c: c["found"].update(NILM=["x", "", ""]),
        lambda c: c["found"].update(NILM=3),
    ],
)
def test_a_damaged_record_is_refused(break_it):
    content = json.loads(json.dumps(kept().to_json()))
    break_it(content)
    with pytest.raises(DamagedArtifactError):
        OutOfFold.from_json(content)


def test_folds_join_to_what_all_fields_together_give():
    parts = [kept(FOUND[1:], TRUTHS[1:2]), kept([], TRUTHS[2:]), kept(FOUND[:1], TRUTHS[:1])]
    assert join(parts).to_json() == kept().to_json()


@pytest.mark.parametrize(
    "parts",
    [[], [kept(), kept()], [kept(FOUND[:1], TRUTHS[:1]), kept([], TRUTHS[2:], Endpoints())]],
    ids=["nothing", "a field twice", "other questions"],
)
def test_folds_that_do_not_go_together(parts):
    with pytest.raises(LabelError, match="do not go together"):
        join(parts)


def test_only_the_best_detections_of_a_field_count():
    two = Endpoints(groups=ENDPOINTS.groups, detections_per_field=2)
    assert kept(endpoints=two).to_json()["found"]["LSIL"] == ["", "5000z", ""]


def test_cells_found_at_a_number_of_false_positives():
    pool = kept().pools()["NILM"]
    assert [found_cells(pool, n) for n in (0.0, 0.34, 4.0)] == [1, 2, 2]


def test_a_class_the_detector_cannot_name():
    with pytest.raises(LabelError, match="SCC"):
        out_of_fold([], [truth("a", ["SCC"])], CLASSES, ENDPOINTS)


@pytest.mark.parametrize(
    "groups", [{"NILM": ("LSIL",)}, {"x": ("LSIL",), "y": ("LSIL",)}, {"x": ("nothing",)}, {"any_abnormal": ("LSIL",)}]
)
def test_groups_that_mean_nothing(groups):
    with pytest.raises(ValueError, match="groups"):
        Endpoints(groups=groups)


def test_other_material_and_boxes_that_fit_more_closely():
    """A red cell found exactly and one found at IoU 0.6; a white one found at 0.6 alone: no class can be abnormal."""
    close = Endpoints(close_iou=0.75)
    truths = [truth("a", ["RBC", "RBC", "WBC"])]
    loose = np.array([[50, 0, 100, 50], [100, 0, 130, 50], [200, 0, 230, 50]], np.float64)
    loose[0] = box(0)
    predictions = [FieldPrediction("a", loose, np.array([0.9, 0.8, 0.7]), ["RBC", "RBC", "WBC"])]
    record = out_of_fold(predictions, truths, ("RBC", "WBC"), close)
    assert record.to_json()["asked"] == {"RBC": ["RBC", "RBC@0.75"], "WBC": ["WBC", "WBC@0.75"]}
    # Right to both; right at 0.5 and wrong at 0.75: 2 + 3 * 2 and 2 + 3 * 1.
    assert record.to_json()["found"] == {"RBC": ["9000i 8000f"], "WBC": ["7000f"]}
    figures = endpoint_figures(record.pools(), ("RBC", "WBC"), close)
    assert figures.pop("macro_ap75") == pytest.approx((51 / 101 + 0) / 2)
    assert figures == {MACRO: 1.0, "ap50/RBC": 1.0, "ap50/WBC": 1.0}
    assert endpoint_figures(record.pools(), ("RBC", "WBC"), Endpoints()) == figures


def test_a_class_takes_part_in_three_questions_at_most():
    with pytest.raises(ValueError, match="close_iou"):
        Endpoints(groups={"x": ("LSIL",)}, close_iou=0.75)


# Methods against a baseline: twelve fields, each with a cell of every class.
MANY = [truth(f"f{k:02d}", list(CLASSES)) for k in range(12)]
GROUPS = {one.image_id: k for k, one in enumerate(MANY)}
CONFIG = ComparisonConfig(replicates=400)


def method(share, seed=0):
    """Find every class, but HSIL only in a share of the fields."""
    rng = np.random.default_rng(seed)
    predictions = []
    for k, one in enumerate(MANY):
        entries = [(place, float(rng.uniform(0.5, 1)), name) for place, name in enumerate(CLASSES)]
        predictions.append(found(one.image_id, entries if k < share * len(MANY) else entries[:2]))
    return out_of_fold(predictions, MANY, CLASSES, ENDPOINTS)


def compare(methods, **changes):
    config = CONFIG.model_copy(update=changes)
    return {one.name: one for one in compare_methods(methods, "base", CLASSES, ENDPOINTS, GROUPS, config)}


def test_a_better_method_is_seen_and_seeds_are_averaged():
    rows = compare({"base": {0: method(0.5), 1: method(0.25)}, "good": {0: method(1.0), 1: method(1.0)}})
    # Without false detections the AP of HSIL is the share of recall points reached: 51 and 26 of 101.
    base = [(2 + 51 / 101) / 3, (2 + 26 / 101) / 3]
    assert rows["base"].figures[MACRO] == pytest.approx(np.mean(base))
    assert [values[MACRO] for values in rows["base"].by_seed.values()] == pytest.approx(base)
    gap = rows["good"].differences[MACRO]
    assert gap.difference == pytest.approx(1 - np.mean(base))
    assert gap.ci_low > 0
    assert gap.holm == gap.share < 0.05
    assert 0 < gap.detectable < gap.difference
    assert not rows["base"].differences


def test_differences_use_the_seeds_both_have_and_holm_runs_over_methods():
    rows = compare(
        {"base": {0: method(0.5), 1: method(0.25)}, "good": {1: method(1.0)}, "same": {0: method(0.5)}, "none": {}}
    )
    assert set(rows) == {"base", "good", "same"}
    assert rows["good"].shared == (1,)
    assert rows["good"].differences[MACRO].first == pytest.approx((2 + 26 / 101) / 3)
    assert rows["good"].differences[MACRO].holm == pytest.approx(2 * rows["good"].differences[MACRO].share)
    # No difference in any replicate: nothing to detect, and nothing is sure.
    equal = rows["same"].differences[MACRO]
    assert (equal.difference, equal.share, equal.holm, equal.detectable) == (0, 1, 1, None)


def test_undefined_replicates_are_counted():
    lone = [truth(f"f{k:02d}", ["NILM", "LSIL", "HSIL"] if k == 0 else ["NILM", "LSIL"]) for k in range(12)]
    rows = compare({"base": {0: out_of_fold([], lone, CLASSES, ENDPOINTS)}}, replicates=1000)
    # The one field with HSIL is missing from (11/12)^12 = 35 % of the draws.
    assert rows["base"].intervals[MACRO].undefined / 1000 == pytest.approx(0.352, abs=0.05)


def test_without_a_baseline_there_is_nothing_to_hold_against():
    rows = compare({"base": {}, "good": {0: method(1.0)}})
    assert rows["good"].figures[MACRO] == pytest.approx(1.0)
    assert not rows["good"].differences
    assert not compare({})


def test_methods_read_on_other_cells_are_not_compared():
    fewer = out_of_fold([], MANY[:-1], CLASSES, ENDPOINTS)
    with pytest.raises(LabelError, match="same fields"):
        compare({"base": {0: method(1.0)}, "good": {0: fewer}})


def test_an_area_to_ignore_and_a_second_label_of_a_cell_are_no_part_of_a_question():
    crowd = FieldTruth("a", 1000, 100, np.array([box(0)]), ["HSIL"], np.array([box(3)]))
    labels = found("a", [(0, 0.9, "HSIL"), (0, 0.6, "LSIL"), (3, 0.5, "LSIL"), (4, 0.4, "NILM")])
    record = kept([labels], [crowd]).to_json()["found"]
    # LSIL at 0.6: wrong as LSIL (1), but HSIL at the same place scored higher in the group and among the abnormal.
    assert record == {"NILM": ["4000b"], "LSIL": ["6000b 5000a"], "HSIL": ["9000A"]}


@pytest.mark.parametrize("seed", range(4))
def test_pools_are_those_of_the_metrics(seed):
    """Random scores and places, equal scores in several fields, doubles: the record says what `make_pools` says."""
    rng = np.random.default_rng(seed)
    predictions, truths = [], []
    for name in "abcd":
        places = rng.choice(12, 5, replace=False)
        boxes = np.array([box(k) for k in places])
        truths.append(FieldTruth(name, 2000, 100, boxes[:4], list(rng.choice(CLASSES, 4)), boxes[4:]))
        scores = rng.permutation(20) / 20 + 0.05
        entries = [(k, s, rng.choice(CLASSES)) for k, s in zip(rng.choice(12, 20), scores, strict=True)]
        predictions.append(found(name, entries))
    pools = kept(predictions, truths).pools()
    expected = make_pools(predictions, truths, CLASSES, ENDPOINTS.merge_iou)
    for name, pool in {**expected.classes, "any_abnormal": expected.abnormal}.items():
        assert average_precision(pools[name]) == average_precision(pool)
        assert recall_at(pools[name], 1.0) == recall_at(pool, 1.0)
