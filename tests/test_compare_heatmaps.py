"""The comparison of evidence maps from labelled fields to the tables of a document, on painted cells."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from comparison_bench import paint_fields
from programs import ROOT, load_program

from wsi_detect.errors import ConfigError, LicenceError, MissingArtifactError
from wsi_detect.report.map_tables import map_table
from wsi_detect.training import map_comparison as stage
from wsi_detect.training.map_comparison import METHODS, MapComparisonJob, map_record, map_runs, record_path, settings

CLASSES = ("NILM", "HSIL")
WIDTH, HEIGHT = 192, 160
#: Fields that hold a cell of the region.
REGION = (0, 2, 3, 5)


compare = load_program("pipelines/compare_heatmaps.py")


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Six painted fields with labels as COCO and a card that maps the classes."""
    folder = tmp_path_factory.mktemp("fields")
    labels = lambda k: ("HSIL" if k in REGION else "NILM", "NILM")  # noqa: E731
    return paint_fields(folder, CLASSES, labels, size=(WIDTH, HEIGHT), cells=4)


def declared(second=True, **changes):
    training = {
        "model": {"backbone": "timm/test_resnet", "last_stage": 1, "channels": [4]},
        "bag": {"bags": 2, "patches": 1, "top": 1, "crop_px": 64, "augmentation": "flip"},
        "classifier": {"steps": 2},
        "decoder": {"steps": 2},
        "precision": "32-true",
        "accelerator": "cpu",
        "threads": 1,
    }
    values = {
        "fields": {"mpp": 0.25, "classes": CLASSES},
        "tiling": {"patch_px": 128, "mpp": 0.5, "overlap_px": 16, "codec": "jpeg", "min_coverage": 0.0}
        | {"quality": False, "mask": {"preparation": "none"}},
        "evidence_training": training | changes,
        "map_comparison": {"folds": 2, "seeds": [0], "tasks": {"A": {"title": "Task A", "region": ["HSIL"]}}}
        | {"mil": {"top_share": 0.1}}
        | ({"negev_otsu": {"seeds": {"seeder": "otsu"}}} if second else {}),
    }
    return MapComparisonJob.model_validate(values)


def begin(fields, job, work):
    return compare.begin(fields, fields / "labels.json", fields / "card", job, work / "work", work / "results")


@pytest.fixture(scope="module")
def finished(fields, tmp_path_factory):
    work = tmp_path_factory.mktemp("maps")
    bench = begin(fields, declared(), work)
    assert compare.main(bench) == 0
    return bench, work


def test_every_field_is_mapped_once_with_every_method(finished):
    bench, _ = finished
    records = [map_record(bench.results, bench.job, run) for run in map_runs(bench.job.map_comparison)]
    assert [record["run"]["fold"] for record in records] == [0, 1]
    assert sum(record["fields"]["mapped"] for record in records) == 6
    assert sum(record["fields"]["mapped_negative"] for record in records) == 2
    for record in records:
        assert record["fields"]["trained"] + record["fields"]["mapped"] == 6
        assert set(record["figures"]) == set(METHODS)
        for name, figures in record["figures"].items():
            assert 0 <= figures["pxap"] <= 100, name
            assert figures["prevalence"] < figures["prevalence_region"]
        assert record["figures"]["oracle"]["pxap"] > 70
        assert record["figures"]["oracle"]["pointing"] == 100
        floor = record["figures"]["random"]
        assert floor["pxap"] == pytest.approx(floor["prevalence"], abs=3)
        assert floor["negative_mean"] == pytest.approx(50, abs=2)


def test_records_name_nobody_and_the_folder_of_the_run_is_gone(finished):
    bench, work = finished
    texts = [path.read_text() for path in bench.results.folder.glob("*.json")]
    assert len(texts) == 3
    assert not any("Doe" in text for text in texts)
    assert not list((work / "work" / "runs").iterdir())


def test_what_is_recorded_is_not_done_again(finished, monkeypatch):
    bench, _ = finished
    monkeypatch.setattr(stage, "_run", lambda *_: pytest.fail("a recorded run was done again"))
    assert compare.main(bench) == 0
    # Neither does it matter by what it is computed.
    elsewhere = replace(bench, job=declared(accelerator="auto", threads=None, precision="16-mixed"))
    assert compare.main(elsewhere) == 0


def test_fields_whose_licence_allows_no_research_are_refused(fields, tmp_path):
    card = tmp_path / "card"
    shutil.copytree(fields / "card", card)
    shutil.copy(ROOT / "data_cards" / "cric-cervix-pap" / "README.md", card)
    text = (card / "README.md").read_text()
    (card / "README.md").write_text(re.sub(r"^  research: .*$", "  research: unknown", text, flags=re.MULTILINE))
    with pytest.raises(LicenceError, match=r"does not allow the use .comparison. \(research: unknown\)"):
        compare.begin(fields, fields / "labels.json", card, declared(), tmp_path / "work", tmp_path / "results")


@pytest.mark.parametrize("changes", [{"decoder": {"steps": 3}}, {"loss": {"negative_weight": 2.0}}, {"second": False}])
def test_a_record_of_other_settings_does_not_count(finished, changes):
    bench, _ = finished
    other = declared(**changes)
    assert all(map_record(bench.results, other, run) is None for run in map_runs(other.map_comparison))


def test_the_learner_sees_labels_and_no_box(finished):
    bench, _ = finished
    run = map_runs(bench.job.map_comparison)[0]
    mine, other = settings(bench.job, run), settings(bench.job, run, bench.job.map_comparison.mil)
    assert (mine.top_share, other.top_share) == (1.0, 0.1)
    assert mine.region == other.region == ("HSIL",)


def test_pixels_of_a_field_are_all_of_it_and_no_more(finished):
    bench, _ = finished
    store = stage.tiled(bench.fields, bench.job.tiling)[bench.fields.ids[0]]
    pixels = stage.field_pixels(store)
    assert pixels.shape == (HEIGHT // 2, WIDTH // 2, 3)
    small = bench.job.tiling.model_copy(update={"patch_px": 64})
    with pytest.raises(ConfigError, match=r"raise tiling\.patch_px"):
        stage.field_pixels(stage.tiled(bench.fields, small)[bench.fields.ids[0]])


def test_tables_go_between_marks(finished, tmp_path):
    bench, _ = finished
    document = tmp_path / "doc.md"
    document.write_text("# Maps\n\n<!-- maps-A -->\nstale words\n<!-- end -->\nafter\n")
    compare.report(bench, document)
    text = document.read_text()
    assert "**Task A**: 2 of 6 fields are fully negative. 2 of 2 runs are finished. Percent, of seed 0," in text
    assert "stale words" not in text
    assert text.endswith("after\n")
    # Ceiling first, floor last.
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(METHODS)
    assert (rows[1], rows[2], rows[-1]) == ("| *oracle: centres of the cells known*", "| **NEGEV**", "| *random*")
    document.write_text("no place")
    with pytest.raises(MissingArtifactError, match="no place <!-- maps-A -->"):
        compare.report(bench, document)


def test_a_table_says_mean_spread_and_what_is_missing():
    def record(seed, fold, pxap):
        figures = {"pxap": pxap, "pxap_region": None, "best_dice": 1.0, "pointing": 50.0, "negative_mean": 2.0}
        return {"run": {"seed": seed, "fold": fold}, "figures": {"negev": {**figures, "prevalence": 4.0}}}

    records = [record(0, 0, 10.0), record(0, 1, 20.0), record(1, 0, 16.0), record(1, 1, 18.0), record(2, 1, 99.0)]
    for entry in records:
        entry["figures"]["negev"]["prevalence_region"] = 8.0
    text = map_table("T", records, (2, 3), 3, 10)
    assert "3 of 10 fields are fully negative. 5 of 6 runs are finished: **not complete**" in text
    assert "of seeds 0, 1, whose folds are all there" in text
    # Seeds have means of 15 and 17.
    assert f"| **NEGEV** | 16.0 ± {np.sqrt(2):.1f} | – | 1.0 ± 0.0 | 50.0 ± 0.0 | 2.0 ± 0.0 |" in text
    assert "4.0 ± 0.0 of all fields, 8.0 ± 0.0 of those with one" in text
    assert "0 of 6 runs" in map_table("T", [], (2, 3), 3, 10)
    assert "no seed has all its folds" in map_table("T", records[:1], (2, 3), 3, 10)


@pytest.mark.parametrize(
    ("name", "region", "message"),
    [("A", "SCC", "'SCC' is not in fields.classes"), ("A/B", "HSIL", "letters and digits")],
)
def test_tasks_are_checked(name, region, message):
    values = declared().model_dump(mode="json")
    values["map_comparison"]["tasks"] = {name: {"title": "", "region": [region]}}
    with pytest.raises(ValueError, match=message):
        MapComparisonJob.model_validate(values)


def test_a_run_another_process_is_at_is_left_to_it(finished, monkeypatch):
    from wsi_detect import artifact

    bench, _ = finished
    run = map_runs(bench.job.map_comparison)[0]
    content = record_path(bench.results, run).read_bytes()
    record_path(bench.results, run).unlink()
    try:
        with artifact.lock(bench.fields.work / "locks" / run.name):
            assert not stage.settle_map(bench, run)
    finally:
        record_path(bench.results, run).write_bytes(content)
