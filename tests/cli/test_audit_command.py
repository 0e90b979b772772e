import json
import sys

import pytest

from wsi_detect.cli.main import main
from wsi_detect.errors import MissingSlideError
from wsi_detect.inference import RUNTIMES
from wsi_detect.testing import blobs


def test_audit_prints_a_table_and_writes_its_figures(monkeypatch, capfd, small_painted, tmp_path):
    monkeypatch.setitem(RUNTIMES, "torch", blobs.load)
    monkeypatch.setenv("COLUMNS", "120")
    bundle = blobs.write_bundle(tmp_path / "bundle")
    out = tmp_path / "out"

    def go(*words) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wsi-detect", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capfd.readouterr().out

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
