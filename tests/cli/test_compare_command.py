"""The command compare: its table, its files, and what it refuses."""

import json

import numpy as np
import pytest

from wsi_detect.errors import EXIT_INVALID_INPUT, EXIT_OK, EXIT_USAGE
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.results import EvaluationRun


def write(folder, scores, fields=6, **facts) -> None:
    """Fields with an HSIL and a NILM; each is found with that score."""
    box = np.array([[0.0, 0, 40, 40], [100, 0, 140, 40]])
    truths = [FieldTruth(f"f{k}", 200, 100, box, ["HSIL", "NILM"], **facts) for k in range(fields)]
    found = [FieldPrediction(truth.image_id, box, np.array(scores), ["HSIL", "NILM"]) for truth in truths]
    EvaluationRun(truths, found, ("HSIL", "NILM"), EvaluationConfig(min_score=0.5)).write(folder)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def test_the_table_and_the_files(cli, tmp_path):
    write(tmp_path / "a", [0.3, 0.9])
    write(tmp_path / "b", [0.8, 0.9])
    code, printed, _ = cli(
        "compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "c", "--set", "comparison.replicates=50"
    )
    assert code == EXIT_OK
    content = json.loads((tmp_path / "c" / "comparison.json").read_text())
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    assert list(rows) == [entry["figure"] for entry in content["differences"]]
    # A shows no HSIL from 0.5 up: two steps' cost of 8 in every image.
    cells = [cell.strip() for cell in rows["cost/all/image"].split("│")[1:-1]]
    assert cells[:5] == ["cost/all/image", "16.0000", "0.0000", "-16.0000", "-16.0000 … -16.0000"]
    assert cells[8:] == ["n/a", "0"]
    assert "6 images; 50 replicates of 6 fields" in printed
    assert "more replicates before any is sure: --set comparison.replicates=559" in printed
    assert printed.strip().endswith("comparison.json")
    assert (tmp_path / "c" / "comparison.parquet").is_file()


def test_figures_are_chosen_as_the_document_says(cli, tmp_path):
    write(tmp_path / "a", [0.3, 0.9])
    words = ("--out", tmp_path / "c", "--set", "comparison.figures=[ap50/HSIL, recall@*/HSIL/*, ece/HSIL]")
    words = (*words, "--set", "comparison.replicates=20")
    assert cli("compare", tmp_path / "a", tmp_path / "a", *words)[0] == EXIT_OK
    content = json.loads((tmp_path / "c" / "comparison.json").read_text())
    names = ["ap50/HSIL", "recall@1/HSIL/field", "recall@4/HSIL/field", "ece/HSIL"]
    assert [entry["figure"] for entry in content["differences"]] == names


def test_one_patient_is_said_to_say_nothing(cli, tmp_path):
    write(tmp_path / "a", [0.3, 0.9], patient_id="p")
    code, printed, _ = cli("compare", tmp_path / "a", tmp_path / "a", "--out", tmp_path / "c")
    assert code == EXIT_OK
    assert "more replicates" not in printed
    assert "fewer than two patients: nothing can be said about how sure a difference is" in printed


def test_what_cannot_be_compared_is_one_line_and_writes_nothing(cli, tmp_path):
    write(tmp_path / "a", [0.3, 0.9])
    write(tmp_path / "b", [0.3, 0.9], fields=5)
    for words, code, message in (
        (["b"], EXIT_INVALID_INPUT, "image f5: in run A only"),
        (["nowhere"], EXIT_INVALID_INPUT, "evaluation.json is missing"),
        (["a", "--set", "comparison.unit=patient"], EXIT_INVALID_INPUT, "image f0: its patient is not known"),
        (["a", "--set", "comparison.replicats=9"], EXIT_USAGE, "replicats"),
        (["a", "--set", "comparison.figures=[map]"], EXIT_USAGE, "no figure is called map; there are ap50/HSIL"),
    ):
        found, _, error = cli("compare", tmp_path / "a", tmp_path / words[0], "--out", tmp_path / "c", *words[1:])
        assert (found, len(error.splitlines())) == (code, 1), error
        assert message in error
        assert not (tmp_path / "c").exists()
