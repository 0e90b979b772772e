from pathlib import Path

import pytest

from wsi_detect import artifact, schema
from wsi_detect.run.batch import exit_code
from wsi_detect.run.config import LimitsConfig
from wsi_detect.run.status import area_shares, behind_gate, focus_shares, judge, without_names


def patches(*rows):
    names = ("status", "coverage", "no_data", "unreadable")
    table = [
        {"slide_id": "A", "patch_id": k, "reason": None, **dict(zip(names, row, strict=True))}
        for k, row in enumerate(rows)
    ]
    return artifact.table_of(table, schema.PATCHES)


CASES = {
    "nothing there": ((), (1.0, 0.0, 0.0, 0.0), "SCREENED", "no area with cells"),
    "all well": ((("done", 1.0, 0.0, 0.0),), (1.0, 0.0, 0.0, 0.0), "SCREENED", None),
    "a gap": ((("done", 1.0, 0.25, 0.0),), (0.75, 0.0, 0.25, 0.0), "SCREENED", None),
    "a tile": (
        (("done", 1.0, 0.0, 0.5), ("done", 1.0, 0.0, 0.0)),
        (0.75, 0.25, 0.0, 0.0),
        "PARTLY SCREENED",
        "25.00% of the cell area cannot be decoded",
    ),
    "not shown": (
        (("unreadable", 1.0, 0.0, 0.75), ("done", 3.0, 0.0, 0.0)),
        (0.75, 0.25, 0.0, 0.0),
        "PARTLY SCREENED",
        "cannot be decoded",
    ),
    "no number": (
        (("failed", 0.5, 0.5, 0.0), ("done", 0.5, 0.0, 0.0)),
        (0.5, 0.0, 0.25, 0.25),
        "PARTLY SCREENED",
        "no usable output on 1 of 2 patches",
    ),
    "most is lost": (
        (("failed", 3.0, 0.0, 0.0), ("done", 1.0, 0.0, 0.0)),
        (0.25, 0.0, 0.0, 0.75),
        "NOT SCREENED",
        "only 25.0% of the cell area was examined",
    ),
    "outside the cells": (
        (("failed", 0.0, 0.0, 0.0), ("done", 1.0, 0.0, 0.0)),
        (1.0, 0.0, 0.0, 0.0),
        "SCREENED",
        "1 of 2",
    ),
}


@pytest.mark.parametrize(("rows", "shares", "status", "words"), CASES.values(), ids=CASES)
def test_shares_and_status(rows, shares, status, words):
    table = patches(*rows)
    found = area_shares(table)
    assert tuple(found.values()) == pytest.approx((*shares, 0.0))
    assert sum(found.values()) == pytest.approx(1.0)
    verdict, reason = judge(found, table, LimitsConfig())
    assert verdict == status
    assert reason is None if words is None else words in reason


@pytest.mark.parametrize(
    ("coverage", "focus", "share", "unmeasured"),
    [
        ([], [], None, 1.0),
        ([1.0, 0.5], [None, None], None, 1.0),
        ([1.0, 1.0], [1.6, 1.5], 0.0, 0.0),
        ([1.0, 3.0], [1.6, 1.4], 0.75, 0.0),
        ([1.0, 1.0, 2.0], [1.4, 1.6, None], 0.5, 0.5),
        # Behind a gate that shows one patch in ten, blurred: nothing is known of the others.
        ([1.0] * 10, [None] * 9 + [1.0], 1.0, 0.9),
        ([0.0, 1.0], [1.0, 1.6], 0.0, 0.0),
        ([0.0], [1.0], None, 1.0),
    ],
)
def test_share_of_the_cell_area_out_of_focus(coverage, focus, share, unmeasured):
    facts = {"slide_id": "A", "status": "done", "no_data": 0.0, "unreadable": 0.0}
    rows = [
        {**facts, "patch_id": k, "coverage": c, "focus": f}
        for k, (c, f) in enumerate(zip(coverage, focus, strict=True))
    ]
    found = focus_shares(artifact.table_of(rows, schema.PATCHES), 1.5)
    assert found == {"out_of_focus_fraction": share, "focus_unmeasured_fraction": unmeasured}


def found_behind_gate(not_shown, audited, hits):
    return {"not_shown": not_shown, "audited": audited, "audit": {"patches_with_abnormal": hits}}


FINDS = (
    "in 2 of 5 audited patches below the gate the detector finds an abnormal cell, "
    "and 95 such patches were not shown to it"
)

UNKNOWN = "95 patches below the gate were not shown to the detector, and none was audited (gate.audit_share)"


@pytest.mark.parametrize(
    ("status", "gate", "verdict", "reason"),
    [
        ("SCREENED", None, "SCREENED", "why"),
        ("SCREENED", (95, 5, 0), "SCREENED", "why"),
        ("SCREENED", (95, 0, 0), "PARTLY SCREENED", f"why; {UNKNOWN}"),
        ("SCREENED", (0, 5, 2), "SCREENED", "why"),
        ("SCREENED", (95, 5, 2), "PARTLY SCREENED", f"why; {FINDS}"),
        ("PARTLY SCREENED", (95, 5, 2), "PARTLY SCREENED", f"why; {FINDS}"),
        ("NOT SCREENED", (95, 5, 2), "NOT SCREENED", f"why; {FINDS}"),
    ],
)
def test_an_abnormal_cell_below_the_gate_is_no_full_screening(status, gate, verdict, reason):
    figures = None if gate is None else found_behind_gate(*gate)
    found = behind_gate({"status": status, "reason": "why"}, figures)
    assert found == {"status": verdict, "reason": reason, "gate": figures}


def test_a_little_loss_can_be_allowed():
    table = patches(("done", 1.0, 0.0, 0.01))
    assert judge(area_shares(table), table, LimitsConfig(max_unexamined=0.02))[0] == "SCREENED"


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([], 0),
        (["SCREENED"], 0),
        (["SCREENED", "PARTLY SCREENED"], 3),
        (["PARTLY SCREENED"], 3),
        (["SCREENED", "NOT SCREENED"], 3),
        (["PARTLY SCREENED", "NOT SCREENED"], 3),
        (["NOT SCREENED", "NOT SCREENED"], 4),
    ],
)
def test_exit_code(states, code):
    assert exit_code([{"status": state} for state in states]) == code


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("cannot open /data/Jane Doe.svs", "cannot open A"),
        ("Jane Doe.svs is empty", "A is empty"),
        ("Jane Doe: mpp", "A: mpp"),
        ("level 3 of 5", "level 3 of 5"),
    ],
)
def test_file_names_are_taken_out(text, clean):
    assert without_names(text, "A", Path("/data/Jane Doe.svs")) == clean


def test_a_number_is_no_name():
    assert without_names("level 3 of 5: 3.svs", "A", Path("/data/3.svs")) == "level 3 of 5: A"
