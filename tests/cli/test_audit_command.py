import json
import sys

import pytest

from wsi_detect.cli.main import main
from wsi_detect.errors import MissingSlideError
from wsi_detect.inference import EVIDENCE_RUNTIMES, RUNTIMES
from wsi_detect.testing import blobs, dark_evidence


@pytest.fixture
def go(monkeypatch, capfd):
    """Run a command with models without weights; gives its exit code and what it printed."""
    monkeypatch.setitem(RUNTIMES, "torch", blobs.load)
    monkeypatch.setitem(EVIDENCE_RUNTIMES, "torch", dark_evidence.load)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*words) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wsi-detect", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capfd.readouterr().out

    return run


def test_audit_prints_a_table_and_writes_its_figures(go, small_painted, tmp_path):
    bundle = blobs.write_bundle(tmp_path / "bundle")
    out = tmp_path / "out"
    assert go("run", small_painted.path, "--out", out, "--model", bundle, "--workers", 0)[0] == 0
    (work,) = (path for path in out.iterdir() if path.is_dir())
    options = ("--slide", small_painted.path, "--model", bundle, "--set", "detection.batch_size=2")
    code, printed = go("audit", work, *options)
    assert code == 0
    figures = json.loads((work / "audit.json").read_text())
    assert figures["overrides"] == ["detection.batch_size=2"]
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    assert list(rows) == [*figures["classes"], "all"]
    assert f"{figures['cells']['changed']:.2%}" in rows["all"]
    assert printed.strip().endswith("audit.json")
    assert go("audit", work, "--slide", tmp_path / "none.svs", "--model", bundle)[0] == MissingSlideError.exit_code


def test_audit_behind_a_gate_says_where_it_compared(go, small_painted, tmp_path):
    bundle = blobs.write_bundle(tmp_path / "bundle", patch_px=128)
    dark = dark_evidence.write_bundle(tmp_path / "dark")
    out = tmp_path / "out"
    sets = ("tiling.patch_px=128", "tiling.overlap_um=16", "gate.threshold=0.99", "gate.audit_share=0")
    gate = [word for text in sets for word in ("--set", text)]
    run = ("run", small_painted.path, "--out", out, "--model", bundle, "--evidence-model", dark, "--workers", 0, *gate)
    assert go(*run)[0] == 3  # nobody knows what the gate hid
    (work,) = (path for path in out.iterdir() if path.is_dir())
    code, printed = go("audit", work, "--slide", small_painted.path, "--model", bundle)
    assert code == 0
    figures = json.loads((work / "audit.json").read_text())
    assert 0 <= figures["compared_fraction"] < 1
    said = f"cells are compared on the {figures['compared_fraction']:.1%} of the cell area the run showed the detector"
    left_out = f"{figures['behind_gate']['second']} cells the audit found elsewhere are left out"
    assert f"a gate was used: {said}; {left_out}" in printed
