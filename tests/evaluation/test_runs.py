"""From predictions to all figures: n/a, undefined replicates, what is drawn, what is chosen elsewhere."""

from dataclasses import replace

import numpy as np
import pytest

from wsi_detect.errors import ConfigError, LabelError
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.runs import evaluate_run, flat
from wsi_detect.evaluation.slides import SlideFacts, facts_of

A, B, FAR = [0, 0, 20, 20], [40, 0, 60, 20], [80, 80, 95, 95]


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


def field(name: str, cells, found, **facts) -> tuple[FieldPrediction, FieldTruth]:
    """Cells as (label, box), detections as (label, box, score)."""
    truth = FieldTruth(name, 100, 100, boxes(*(c[1] for c in cells)), [c[0] for c in cells], **facts)
    scores = np.array([f[2] for f in found], float)
    return FieldPrediction(name, boxes(*(f[1] for f in found)), scores, [f[0] for f in found]), truth


FIELDS = [
    field("a", [("HSIL", A), ("NILM", B)], [("HSIL", A, 0.9), ("NILM", B, 0.8), ("LSIL", FAR, 0.3)]),
    field("b", [("NILM", A)], [("NILM", A, 0.7)]),
    field("c", [], []),
    field("d", [("LSIL", A)], [("NILM", A, 0.6), ("LSIL", A, 0.1)]),
]


def run(fields=FIELDS, **config) -> EvaluationRun:
    made = EvaluationRun(
        [truth for _, truth in fields],
        [found for found, _ in fields],
        ("NILM", "LSIL", "HSIL", "SCC"),
        EvaluationConfig(**{"replicates": 200, **config}),
        {"data": "val"},
    )
    return evaluate_run(made)


def rows_of(found: EvaluationRun) -> dict:
    names = ("metric", "label", "threshold", "subset", "unit")
    return {tuple(row[name] for name in names): row for row in found.metrics}


def test_figures_by_hand():
    rows = rows_of(run(replicates=0))
    value = {key: row["value"] for key, row in rows.items()}
    assert value["ap50", "HSIL", 0.5, None, None] == 1.0
    # LSIL: the false alarm (0.3) comes before the cell (0.1): precision one half throughout.
    assert value["ap50", "LSIL", 0.5, None, None] == pytest.approx(0.5)
    assert value["ap50", "mean", 0.5, None, None] == pytest.approx((1 + 0.5 + 1) / 3)
    assert value["ap50", "SCC", 0.5, None, None] is None
    assert value["ap", "SCC", None, None, None] is None
    assert value["recall", "any_abnormal", 1.0, None, "field"] == 1.0
    assert ("recall", "any_abnormal", 1.0, None, "slide") not in value
    # From 0.25: LSIL (gravity 5) called NILM costs 2 x 5, the false LSIL 5; four fields.
    assert value["cost", "all", 0.25, None, "image"] == pytest.approx(15 / 4)
    # Fields with an abnormal cell score 0.9 and 0.1, the others 0 and 0.
    assert value["auc", "any_abnormal", None, None, "field"] == 1.0
    assert value["hit", "any_abnormal", 1.0, None, "field"] == 1.0
    assert all(row["ci_low"] is row["replicates"] is row["undefined"] is None for row in rows.values())


def test_a_figure_without_a_cell_is_none_and_undefined_draws_are_counted():
    found = run()
    rows = rows_of(found)
    hsil = rows["ap50", "HSIL", 0.5, None, None]
    # HSIL is in one field of four: a draw misses it with probability (3/4)^4 = 0.316.
    assert (hsil["replicates"], hsil["groups"], hsil["n"]) == (200, 4, 1)
    assert hsil["undefined"] == pytest.approx(63, abs=20)
    assert (hsil["ci_low"], hsil["ci_high"]) == (1.0, 1.0)
    scc = rows["ap50", "SCC", 0.5, None, None]
    assert (scc["value"], scc["ci_low"], scc["undefined"], scc["n"]) == (None, None, 200, 0)
    assert not [
        row for row in found.metrics if row["value"] is not None and row["value"] < 0 and row["metric"] != "kappa"
    ]
    assert found.about["resampled"] == "field"
    assert (flat(found)["ap50/SCC"], flat(found)["ci_undefined/ap50/SCC"]) == (None, 200)


def test_the_largest_unit_known_is_drawn():
    facts = [{"patient_id": "p", "slide_id": name} for name in "abc"] + [{"patient_id": "q", "slide_id": "d"}]
    fields = [(found, replace(truth, **fact)) for (found, truth), fact in zip(FIELDS, facts, strict=True)]
    found = run(fields)
    assert found.about["resampled"] == "patient"
    rows = rows_of(found)
    # Patient p has the only HSIL: a draw of two misses it with probability 1/4.
    assert rows["ap50", "HSIL", 0.5, None, None]["undefined"] == pytest.approx(50, abs=20)
    assert rows["ap50", "HSIL", 0.5, None, None]["groups"] == 2
    assert rows["recall", "any_abnormal", 1.0, None, "slide"]["value"] == 1.0
    assert run(fields, resample="field").about["resampled"] == "field"
    one = [(found, replace(truth, patient_id="p")) for found, truth in FIELDS]
    assert all(row["ci_low"] is None for row in run(one).metrics)
    with pytest.raises(LabelError, match="slide is not known"):
        run(one, resample="slide")


def test_figures_can_be_computed_again_from_the_artefact(tmp_path):
    first = run()
    first.write(tmp_path)
    again = evaluate_run(EvaluationRun.read(tmp_path))
    assert list(again.metrics) == list(first.metrics)


def test_thresholds_are_chosen_on_another_split():
    other = [
        field("x", [("HSIL", A)], [("HSIL", A, 0.5), ("HSIL", B, 0.4)]),
        field("y", [("NILM", A)], [("NILM", A, 0.9), ("HSIL", FAR, 0.2)]),
    ]
    chosen_on = replace(run(other), about={"data": "train"})
    found = evaluate_run(run(), chosen_on)
    rows = rows_of(found)
    # The operating point is 0.5. Of the two fields with abnormal cells one reaches it; the others have 0.
    assert rows["sensitivity", "any_abnormal", 0.5, None, "field"]["value"] == 0.5
    assert rows["specificity", "any_abnormal", 0.5, None, "field"]["value"] == 1.0
    assert ("ece_calibrated", "HSIL", None, None, None) in rows
    assert (found.about["chosen"]["split"], found.about["chosen"]["threshold"]) == ("train", 0.5)
    with pytest.raises(LabelError, match="shares 'a'"):
        evaluate_run(run(), replace(run(), about={"data": "train"}))


def test_frequency_groups_of_a_run():
    rows = rows_of(run(replicates=0, training_counts={"NILM": 500, "LSIL": 50, "HSIL": 50, "SCC": 3}))
    groups = {key[3]: (row["value"], row["n"]) for key, row in rows.items() if key[3] in ("rare", "common", "frequent")}
    assert groups == {"rare": (None, 0), "common": (pytest.approx(0.75), 2), "frequent": (1.0, 2)}


def test_nothing_at_all():
    found = run([field("c", [], [])])
    assert {row["value"] for row in found.metrics if row["metric"] in ("ap50", "ap", "recall", "froc", "ece")} == {None}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"size_ranges_um": {"odd": (9, 3)}}, "odd"),
        ({"over": 3.0}, "over must not exceed under"),
        ({"froc_points": ()}, "froc_points"),
        ({"rare_up_to": 200}, "rare_up_to"),
    ],
)
def test_a_config_that_makes_no_sense(config, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        EvaluationConfig(**config)


def test_patients_are_named_after_their_first_slide():
    found = facts_of({"S2": "Jane Doe", "S1": "Jane Doe", "S3": None, "S4": "John Roe"}, {})
    assert found == {
        "S1": SlideFacts("patient of S1"),
        "S2": SlideFacts("patient of S1"),
        "S3": SlideFacts(None),
        "S4": SlideFacts("patient of S4"),
    }
