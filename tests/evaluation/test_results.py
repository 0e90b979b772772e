"""The artefact of an evaluation: what goes in comes out, and nothing half-written counts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import shapely

from wsi_detect.errors import DamagedArtifactError, LabelError, MissingArtifactError
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.results import EVALUATION, PREDICTIONS_FILE, EvaluationRun

ROW = {"metric": "ap50", "label": "HSIL", "threshold": 0.5, "value": None, "ci_low": None, "ci_high": None, "n": 0}
EXTRA = {"subset": None, "unit": None, "undefined": 7, "replicates": 9, "groups": 2}


def boxes(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float64).reshape(-1, 4)


def run() -> EvaluationRun:
    a, b = [0.1, 0, 10, 10], [20, 0, 30.7, 10]
    roi = shapely.Polygon([(0, 0), (50, 0), (50, 60)])
    truths = [
        FieldTruth("z", 100, 80, boxes(a, b), ["LSIL", "NILM"], boxes([5, 5, 9, 9]), "P1", "S1", None, 0.25, roi),
        FieldTruth("empty", 64, 64, boxes(), []),
        FieldTruth("a", 64, 64, boxes(b), ["HSIL"]),
    ]
    scores = np.array([[0.7, 0.2], [1 / 3, 0.6]])
    predictions = [
        FieldPrediction("z", boxes(b, a), np.array([0.7, 0.6]), ["NILM", "LSIL"], scores),
        FieldPrediction("empty", boxes(), np.zeros(0), []),
        FieldPrediction("a", boxes(a), np.array([0.1]), ["LSIL"]),
    ]
    return EvaluationRun(
        truths, predictions, ("NILM", "LSIL"), EvaluationConfig(seed=4), {"kind": "fields"}, [ROW | EXTRA]
    )


def test_what_is_written_is_read(tmp_path):
    before = run()
    before.write(tmp_path)
    after = EvaluationRun.read(tmp_path)
    assert (after.classes, after.config, after.about) == (before.classes, before.config, before.about)
    assert list(after.metrics) == [ROW | EXTRA]
    for old, new in zip(before.truths, after.truths, strict=True):
        assert np.array_equal(old.boxes, new.boxes)
        assert np.array_equal(old.ignore, new.ignore)
        assert old.roi == new.roi
        facts = ("image_id", "width", "height", "labels", "patient_id", "slide_id", "field_id", "mpp")
        assert [getattr(old, name) for name in facts] == [getattr(new, name) for name in facts]
    for old, new in zip(before.predictions, after.predictions, strict=True):
        assert (old.image_id, old.labels) == (new.image_id, new.labels)
        assert np.array_equal(old.boxes, new.boxes)
        assert np.array_equal(old.scores, new.scores)
    assert np.array_equal(after.predictions[0].class_scores, before.predictions[0].class_scores)
    assert after.predictions[2].class_scores is None


def test_an_evaluation_without_images_and_one_without_cells(tmp_path):
    EvaluationRun([], [], (), EvaluationConfig()).write(tmp_path / "none")
    assert EvaluationRun.read(tmp_path / "none").truths == []
    bare = run().truths[1:2], run().predictions[1:2]
    EvaluationRun(*bare, ("NILM",), EvaluationConfig()).write(tmp_path / "bare")
    back = EvaluationRun.read(tmp_path / "bare")
    assert back.truths[0].boxes.shape == back.predictions[0].boxes.shape == (0, 4)


def test_equal_runs_are_equal_bytes(tmp_path):
    for name in ("one", "two"):
        run().write(tmp_path / name)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_nothing_half_written_is_read(tmp_path, monkeypatch):
    run().write(tmp_path)
    # The second attempt stops at its third file.
    monkeypatch.setattr("wsi_detect.evaluation.results._found", lambda predictions: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run().write(tmp_path)
    with pytest.raises(MissingArtifactError, match=EVALUATION):
        EvaluationRun.read(tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_damage_is_named(tmp_path):
    run().write(tmp_path)
    (tmp_path / PREDICTIONS_FILE).write_bytes(b"PAR1")
    with pytest.raises(DamagedArtifactError, match=PREDICTIONS_FILE):
        EvaluationRun.read(tmp_path)
    run().write(tmp_path)
    content = json.loads((tmp_path / EVALUATION).read_text())
    del content["classes"]
    (tmp_path / EVALUATION).write_text(json.dumps(content))
    with pytest.raises(DamagedArtifactError, match="classes"):
        EvaluationRun.read(tmp_path)


def test_a_prediction_of_no_image_is_refused(tmp_path):
    odd = run()
    with pytest.raises(LabelError, match="no truth: q"):
        replace(odd, predictions=[replace(odd.predictions[0], image_id="q")]).write(tmp_path)
    assert not (tmp_path / EVALUATION).exists()
