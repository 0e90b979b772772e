"""The page of an evaluation: whole in itself, hostile names escaped, errors shown with truth and mark."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from wsi_detect.errors import LabelError, MissingArtifactError
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.evaluation.results import EvaluationRun
from wsi_detect.evaluation.runs import evaluate_run
from wsi_detect.report.error_gallery import OF_ONE_IMAGE, SHOWN, exhibits, find_mistakes
from wsi_detect.report.evaluation_page import write_page

CLASSES = ("NILM", "LSIL", "HSIL", "SCC")


def run_of(folder, *, name: str = "a.png", fields: int = 3) -> EvaluationRun:
    """Fields of six cells: an HSIL found, one called NILM, one missed, a false SCC, an LSIL called HSIL, a NILM."""
    random = np.random.default_rng(0)
    boxes = np.array([[20 + 60 * k, 30, 50 + 60 * k, 60] for k in range(6)], float)
    truths, predictions = [], []
    for number in range(fields):
        image_id = f"{number}{name}"
        if "/" not in image_id:
            Image.fromarray(random.integers(0, 255, (120, 400, 3), dtype=np.uint8)).save(folder / image_id)
        truths.append(FieldTruth(image_id, 400, 120, boxes[[0, 1, 2, 4, 5]], ["HSIL", "HSIL", "HSIL", "LSIL", "NILM"]))
        scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.1])
        labels = ["HSIL", "NILM", "SCC", "HSIL", "NILM", "LSIL"]
        predictions.append(FieldPrediction(image_id, boxes[[0, 1, 3, 4, 5, 2]], scores, labels))
    config = EvaluationConfig(replicates=20)
    return evaluate_run(EvaluationRun(truths, predictions, CLASSES, config, {"data": "val", "model": "m <b>"}))


def page_of(run: EvaluationRun, folder, images=None) -> str:
    run.write(folder / "out")
    return write_page(folder / "out", images).read_text()


def test_the_page_is_whole_and_says_what_was_measured(tmp_path):
    page = page_of(run_of(tmp_path), tmp_path, tmp_path)
    for text in (
        "3 fields",
        "15 cells",
        "How well each class is found under its own name",
        "Does not say",
        "Squamous cell carcinoma",
        "n/a",
        "undefined of 20",
        "HSIL</b> called NILM",
        "HSIL</b> missed; best abnormal score 0.10",
        "called <b>SCC</b> 0.70; no labelled cell",
        "m &lt;b&gt;",
    ):
        assert text in page, text
    assert "-1.0" not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<script" not in page
    assert page.count("data:image/svg+xml") == 3
    assert len(page) < 2_000_000


def test_equal_runs_give_equal_pages(tmp_path):
    run = run_of(tmp_path)
    assert page_of(run, tmp_path, tmp_path) == page_of(run, tmp_path, tmp_path)


def test_names_of_others_are_escaped(tmp_path):
    page = page_of(run_of(tmp_path, name="<script>alert('x')</script>"), tmp_path)
    assert "<script" not in page
    assert "0&lt;script&gt;" in page
    assert "outlines only" in page


def test_mistakes_come_worst_first(tmp_path):
    run = run_of(tmp_path, fields=1)
    misses, alarms = find_mistakes(run)
    assert [(m.label, m.called, m.score) for m in misses] == [("HSIL", "NILM", 0.0), ("HSIL", None, 0.1)]
    assert [(m.label, m.called, m.score) for m in alarms] == [(None, "SCC", 0.7)]
    shown = exhibits(run, misses, tmp_path)[0]
    assert [(o.label, o.main) for o in shown.truth if o.main] == [("HSIL", True)]
    assert [(o.label, o.main) for o in shown.marks if o.main] == [("NILM", True)]
    x, y, w, h = next(o.box for o in shown.truth if o.main)
    # The crop lies around the cell.
    assert (x + w / 2, y + h / 2) == pytest.approx((shown.side / 2, shown.side / 2), abs=1)


def test_no_image_fills_the_gallery(tmp_path):
    run = run_of(tmp_path, fields=1)
    misses, _ = find_mistakes(run)
    assert len(exhibits(run, misses * 9, None)) == OF_ONE_IMAGE
    run = run_of(tmp_path, fields=9)
    assert len(exhibits(run, find_mistakes(run)[0], None)) == SHOWN


def test_nothing_labelled_and_nothing_found(tmp_path):
    truths = [FieldTruth("a", 50, 50, np.zeros((0, 4)), []), FieldTruth("b", 50, 50, np.zeros((0, 4)), [])]
    predictions = [FieldPrediction(name, np.zeros((0, 4)), np.zeros(0), []) for name in "ab"]
    bare = EvaluationRun(truths, predictions, ("NILM", "HSIL"), EvaluationConfig(replicates=10))
    page = page_of(evaluate_run(bare), tmp_path)
    assert "0 cells" in page
    assert "None." in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page), re.IGNORECASE)


def test_wrong_images_and_missing_artefacts_are_named(tmp_path):
    run = run_of(tmp_path)
    Image.new("RGB", (10, 10)).save(tmp_path / "0a.png")
    with pytest.raises(LabelError, match="not the image that was evaluated"):
        page_of(run, tmp_path, tmp_path)
    (tmp_path / "0a.png").unlink()
    with pytest.raises(LabelError, match=r"0a\.png cannot be shown"):
        page_of(run, tmp_path, tmp_path)
    with pytest.raises(MissingArtifactError):
        write_page(tmp_path / "nowhere")
    assert not (tmp_path / "out" / "evaluation.html").exists()


def test_a_rescaled_evaluation_shows_the_px_it_was_made_in(tmp_path):
    run = run_of(tmp_path, fields=1)
    twice = [replace(t, width=800, height=240, boxes=t.boxes * 2) for t in run.truths]
    found = [replace(p, boxes=p.boxes * 2) for p in run.predictions]
    config = run.config.model_copy(update={"rescale": 2.0})
    page = page_of(evaluate_run(replace(run, truths=twice, predictions=found, config=config)), tmp_path, tmp_path)
    assert "HSIL</b> called NILM" in page
