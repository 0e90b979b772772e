"""The comparison of losses from labelled fields to the tables of a document, on painted cells."""

import json
from dataclasses import replace

import pytest
from comparison_bench import RARE, ROOT, begin, compare, declared, document, paint_fields

from wsi_detect import __version__
from wsi_detect.config import load
from wsi_detect.errors import ConfigError, DamagedArtifactError, LabelError, MissingArtifactError
from wsi_detect.report.method_plot import plot_methods
from wsi_detect.report.method_tables import alphas_of, blocks
from wsi_detect.training.grid import ComparisonJob, planned
from wsi_detect.training.module import DetectionModule
from wsi_detect.training.records import Results, finished


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    return paint_fields(tmp_path_factory.mktemp("fields"))


@pytest.fixture(scope="module")
def whole(fields, tmp_path_factory):
    """The comparison without a stop."""
    bench = begin(fields, declared(), tmp_path_factory.mktemp("whole"))
    assert compare.main(bench) == 0
    return bench


def test_every_run_is_one_small_record_without_a_name(whole):
    files = sorted(whole.results.folder.glob("*.json"))
    names = [f"fcos-{method}-uniform-s0-f{fold}" for method in ("ce", "libra") for fold in (0, 1)]
    assert [path.stem for path in files] == ["declaration", *names]
    for path in files:
        text = path.read_text()
        assert len(text) < 30_000
        assert "Doe" not in text
        assert "/" not in text
    made = json.loads(files[1].read_text())["made"]
    assert (made["loss"], made["initialisation"], made["trials"], made["normaliser"]) == (
        "bce", "random", 1, "positives of the batch",
    )  # fmt: skip
    assert not list((whole.fields.work / "runs").iterdir())


def test_each_field_is_left_out_once_and_rare_ones_in_each_fold(whole):
    (first, second) = finished(whole.results, whole.job)
    assert first.complete
    assert second.complete
    joined = first.seeds[0]
    assert sorted(joined.fields) == sorted(whole.fields.ids)
    assert joined.cells["HSIL"].sum() == len(RARE)
    folds = dict(zip(whole.fields.ids, whole.fields.folds.tolist(), strict=True))
    assert {folds[whole.fields.ids[k]] for k in RARE} == {0, 1}


def test_what_is_recorded_is_not_repeated(whole, monkeypatch):
    monkeypatch.setattr(DetectionModule, "training_step", None)
    assert compare.main(whole) == 0


def test_a_killed_comparison_goes_on_to_the_same_records(fields, whole, tmp_path, monkeypatch):
    bench = begin(fields, declared(), tmp_path)
    steps = []
    original = DetectionModule.training_step

    def killed(self, *batch):
        steps.append(0)
        if len(steps) == 5:
            raise ConnectionError
        return original(self, *batch)

    with monkeypatch.context() as patched:
        patched.setattr(DetectionModule, "training_step", killed)
        with pytest.raises(ConnectionError):
            compare.main(bench, ["-ce-"])
    assert [path.stem for path in sorted(bench.results.folder.glob("fcos*"))] == ["fcos-ce-uniform-s0-f0"]
    assert compare.main(bench, ["-ce-"]) == 0
    for fold in (0, 1):
        name = f"fcos-ce-uniform-s0-f{fold}.json"
        ours, theirs = (json.loads((one.results.folder / name).read_text()) for one in (bench, whole))
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_learning_rate_is_chosen_on_fields_that_are_trained_on(fields, tmp_path):
    """Three folds: fold 0 is left out, fold 1 decides between the rates, and the better one trains on both others."""
    job = declared(folds=3, tuning={"learning_rates": [1e-3, 1e-2], "steps": 2})
    bench = begin(fields, job, tmp_path)
    assert compare.main(bench, ["-ce-uniform-s0-f0"]) == 0
    records = {path.stem: json.loads(path.read_text()) for path in bench.results.folder.glob("fcos*")}
    names = ["fcos-ce-uniform-s0-f0", "fcos-ce-uniform-s0-f0-t0", "fcos-ce-uniform-s0-f0-t1"]
    assert sorted(records) == names
    run, *tried = (records[name] for name in names)
    folds = dict(zip(bench.fields.ids, bench.fields.folds.tolist(), strict=True))
    watched = [{folds[name] for name in record["found"]["fields"]} for record in (run, *tried)]
    assert watched == [{0}, {1}, {1}]
    sizes = [record["made"]["fields_trained"] for record in (run, *tried)]
    assert sizes == [sum(fold != 0 for fold in folds.values()), *[sum(fold == 2 for fold in folds.values())] * 2]
    assert [record["made"]["learning_rate"] for record in tried] == [1e-3, 1e-2]
    best = max((1e-3, 1e-2), key=lambda rate: tried[(1e-3, 1e-2).index(rate)]["macro_ap50"] or 0.0)
    assert run["made"]["learning_rate"] == run["made"]["chosen_rate"] == best
    assert run["made"]["trials"] == 2
    assert bench.results.current(job, planned(job.cross_validation)[0]) == run


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loss": "seesaw"}, "loss 'seesaw' is a softmax loss"),
        ({"loss": "fokal"}, "unknown loss 'fokal'"),
        ({"loss": "focal", "loss_options": {"gama": 3}}, "gama"),
    ],
)
def test_a_method_that_cannot_begin_is_found_before_the_first_run(fields, tmp_path, options, says):
    job = declared()
    methods = {**job.cross_validation.model_dump(mode="json")["methods"], "libra": {"training": {"options": options}}}
    bench = begin(fields, declared(methods=methods), tmp_path)
    with pytest.raises(ConfigError, match=f"run fcos-libra-uniform-s0-f0: .*{says}"):
        compare.main(bench)
    assert not list(bench.results.folder.glob("fcos*"))


def test_a_limit_stops_between_runs(fields, tmp_path):
    bench = begin(fields, declared(), tmp_path)
    assert compare.main(bench, limit_minutes=0) == 4
    assert not list(bench.results.folder.glob("fcos*"))


def test_the_report_says_what_was_reached_and_how(whole, tmp_path):
    page = document(tmp_path)
    pictures = compare.report(whole.job, whole.results, page)
    text = page.read_text()
    assert "old" not in text
    assert text.endswith("\nlast\n")
    assert "**under-trained**: no reference is declared" in text
    assert "| cross-entropy (baseline) | 1 |" in text
    assert "| Libra | 1 |" in text
    assert f"HSIL: of {len(RARE)} in 2 fields" in text
    assert "LSIL: of" not in text
    made = [
        line for line in text.splitlines() if line.startswith(("| cross-entropy (baseline) | fcos", "| Libra | fcos"))
    ]
    assert [line.split(" | ")[-1] for line in made] == [f"{__version__} |"] * 2
    assert "| grad_libra |" in text.replace("uniform | grad_libra |", "| grad_libra |")
    assert [path.name for path in pictures] == ["losses-fcos-uniform.svg"]
    assert "(img/losses-fcos-uniform.svg)" in text
    first = pictures[0].read_bytes()
    assert first.startswith(b"<?xml")
    compare.report(whole.job, whole.results, page)
    assert (page.read_text(), pictures[0].read_bytes()) == (text, first)


def test_rows_that_are_not_complete_say_so(whole, tmp_path):
    more = declared(
        grids={"tiny": {"detectors": ["fcos"], "methods": ["ce", "libra"], "samplers": ["uniform"], "seeds": [0, 1]}}
    )
    page = document(tmp_path)
    compare.report(more, whole.results, page)
    assert page.read_text().count("**incomplete**: 2 of 4") == 2


def test_records_are_found_without_the_fields(whole, tmp_path):
    results = whole.results.folder.parent
    assert Results.find(results, whole.job) == whole.results
    assert whole.results.groups == dict(zip(whole.fields.ids, range(6), strict=True))
    with pytest.raises(MissingArtifactError, match="0 folders"):
        Results.find(results, declared(folds=3))
    folder = tmp_path / whole.results.declaration
    folder.mkdir()
    content = json.loads((whole.results.folder / "declaration.json").read_text())
    (folder / "declaration.json").write_text(json.dumps({**content, "unit": "slide"}))
    with pytest.raises(DamagedArtifactError, match="named after"):
        Results.find(tmp_path, whole.job)


def test_what_was_not_begun_is_one_line(whole, tmp_path):
    more = declared(
        samplers={"uniform": {"training": {"loader": {"sampler": "uniform"}}}, "class_aware": {}},
        grids={
            name: {"detectors": ["fcos"], "methods": ["ce", "libra"], "samplers": [name], "seeds": [0]}
            for name in ("uniform", "class_aware")
        },
    )
    page = document(tmp_path)
    compare.report(more, whole.results, page)
    assert "Declared and not begun: fcos with class_aware." in page.read_text()
    assert "incomplete" not in page.read_text()


def test_a_first_look_at_some_folds_says_that_it_is_one(whole, tmp_path):
    """One record is missing: no seed is whole, but fold 0 can be read."""
    folder = tmp_path / whole.results.declaration
    folder.mkdir()
    for path in whole.results.folder.glob("*.json"):
        if path.stem != "fcos-ce-uniform-s0-f1":
            (folder / path.name).write_bytes(path.read_bytes())
    results = replace(whole.results, folder=folder)
    page = document(tmp_path)
    compare.report(whole.job, results, page)
    assert "the baseline is not finished" in page.read_text()
    compare.report(whole.job, results, page, folds=[0])
    text = page.read_text()
    assert "**A first look**: folds 0 of 2 only" in text
    assert "| cross-entropy (baseline) | 1 |" in text
    assert "**incomplete**: 1 of 2" in text


def test_nothing_finished_is_a_report_too(fields, tmp_path):
    bench = begin(fields, declared(), tmp_path)
    page = document(tmp_path)
    assert compare.report(bench.job, bench.results, page) == []
    assert "**incomplete**: 0 of 2" in page.read_text()
    assert "the baseline is not finished" in page.read_text()


def test_the_reference_decides_about_the_label(whole, tmp_path):
    """Held against itself the baseline reaches 90 % of the reference."""
    rule = {"detector": "fcos", "method": "ce", "sampler": "uniform"}
    page = document(tmp_path)
    compare.report(declared(reference=rule), whole.results, page)
    assert "trained to 90% of the reference or more" in page.read_text()
    rule["method"] = "missing"
    compare.report(declared(reference=rule), whole.results, page)
    assert "nobody knows whether that is enough" in page.read_text()


def test_a_document_without_a_place_and_a_damaged_record(whole, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(MissingArtifactError, match="losses-label"):
        compare.report(whole.job, whole.results, page)
    copy = replace(whole.results, folder=tmp_path)
    copy.path(planned(whole.job.cross_validation)[0]).write_text("{}")
    with pytest.raises(DamagedArtifactError, match="delete it"):
        finished(copy, whole.job)


def test_fields_that_cannot_be_used(fields, tmp_path):
    content = json.loads((fields / "labels.json").read_text())
    for path in fields.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    given = fields / "card", declared(), tmp_path / "work", tmp_path / "results"
    (tmp_path / "Doe_1.png").write_bytes((tmp_path / "Doe_0.png").read_bytes())
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(LabelError, match="same pixels"):
        compare.begin(tmp_path, tmp_path / "labels.json", *given)
    (tmp_path / "Doe_1.png").unlink()
    with pytest.raises(LabelError, match="does not exist"):
        compare.begin(tmp_path, tmp_path / "labels.json", *given)


def test_committed_records_are_those_of_the_configuration():
    """Nobody spoils a week of runs by a new setting and does not notice."""
    kept = ROOT / "docs" / "results" / "compare_losses"
    job = load(ROOT / "configs" / "compare_losses.yaml", ComparisonJob)
    results = Results.find(kept, job)
    assert results.declaration == "24d927009587"
    files = [path for path in results.folder.glob("*.json") if path.stem != "declaration"]
    assert sum(row.done for row in finished(results, job)) == len(files) > 0


def test_a_plot_needs_a_difference(whole):
    (block,) = blocks(finished(whole.results, whole.job, ["-ce-"]), whole.job, dict.fromkeys(whole.fields.ids, 0))
    assert plot_methods(block, whole.job, whole.fields.work / "none.svg") is None


@pytest.mark.parametrize(
    ("loss", "options", "expected"),
    [
        ("grad_libra", {}, (0.5, 0.5)),
        ("grad_libra", {"alpha_neg": 1.0}, (0.5, 1.0)),
        ("grad_libra", {"form": "mean_weight"}, None),
        ("focal", {"gamma": 1.0, "alpha": -1.0}, (0, 0)),
        ("focal", {}, None),
        ("bce", {}, None),
    ],
)
def test_alphas_of_a_row(loss, options, expected):
    assert alphas_of({"loss": loss, "loss_options": options}) == expected
