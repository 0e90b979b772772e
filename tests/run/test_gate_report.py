"""What a run prints of its gate."""

import pytest

from wsi_detect.run.gate_report import gate_lines


def slide(patches, passed, audited, hits, **cells):
    """Status of a slide behind a gate, as far as it matters here."""
    counts = {"patches": patches, "passed": passed, "audited": audited, "not_shown": patches - passed - audited}
    audit = {"patches_with_abnormal": hits, "cells": cells}
    return {"gate": {"threshold": 0.3, "area": "patch", "audit_share": 0.05, **counts, "audit": audit}}


RUNS = {
    "nothing below the gate": (
        [slide(100, 100, 0, 0)],
        "0 of 100 patches (0.0%)",
        "that costs nothing: no patch was hidden from the detector",
    ),
    "all below it audited": (
        [slide(100, 60, 40, 3, HSIL=3)],
        "0 of 100 patches (0.0%)",
        "that costs nothing: no patch was hidden from the detector",
    ),
    "no audit": (
        [slide(100, 60, 0, 0)],
        "40 of 100 patches (40.0%)",
        "what that costs is not known: no patch below the gate was audited (gate.audit_share)",
    ),
    "many fields and a slide": (
        [slide(10, 9, 1, 0)] * 400 + [slide(4000, 2000, 100, 30, HSIL=30)],
        "1900 of 8000 patches (23.8%)",
        "cost, by audit: in 30 of 500 random patches below the gate the detector finds an abnormal cell; each slide "
        "weighted by what it hides, in 21.7% to 39.8% (95 %) of the 1900 not shown, 412 to 757 patches, it would. "
        "Cells in the audited patches: 30 HSIL",
    ),
}


@pytest.mark.parametrize(("slides", "hidden", "cost"), RUNS.values(), ids=RUNS)
def test_what_a_gate_hid_and_what_that_costs(slides, hidden, cost):
    found = gate_lines([*slides, {"gate": None}, {}])
    assert found == [f"gate at evidence 0.3: {hidden} were not shown to the detector", cost]


def test_no_gate_no_word():
    assert gate_lines([{"gate": None}, {}]) == []
