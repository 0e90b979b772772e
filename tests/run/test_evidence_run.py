"""Runs with a map of evidence, and behind a gate; a map made by several processes."""

import csv
from dataclasses import dataclass, replace

import numpy as np
import pytest

from wsi_detect import artifact
from wsi_detect.config import with_overrides
from wsi_detect.detectors.evidence_info import EvidenceInfo, read_evidence_info
from wsi_detect.errors import ArtifactError, ConfigError, MissingSlideError, StaleArtifactError
from wsi_detect.inference.evidence import EvidenceConfig
from wsi_detect.run import RunConfig, RunOptions, exit_code, list_slides, run_batch
from wsi_detect.run.evidence import EvidenceJob, map_slide
from wsi_detect.run.gate_report import gate_lines
from wsi_detect.run.slide_list import SlideRow
from wsi_detect.run.stages import plan, run_slide, stale_stages
from wsi_detect.slides import open_slide
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.testing import blobs, dark_evidence
from wsi_detect.testing.painter import paint_slide
from wsi_detect.tiling.evidence_map import EvidenceMap
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

GATED = {
    "tiling": {"patch_px": 128, "overlap_um": 16, "shard_patches": 8},
    "evidence": {"reduce": 2},
    "gate": {"threshold": 0.6, "audit_share": 0.25},
    "exports": ["csv"],
}


@pytest.fixture(scope="module")
def dark(tmp_path_factory):
    return dark_evidence.write_bundle(tmp_path_factory.mktemp("dark"))


@pytest.fixture
def gated(batch, dark):
    config = RunConfig.model_validate(GATED)
    return replace(batch, config=config, evidence_bundle=dark, evidence_runtime=dark_evidence.load)


def test_a_run_behind_a_gate_says_what_it_left_out(gated, four_slides, tmp_path, results):
    rows = list_slides([four_slides])[:2]
    statuses = run_batch(rows, gated, workers=0)
    status = statuses[0]
    gate = status["gate"]
    assert status["status"] == "SCREENED"
    assert f"{gate['not_shown']} of {gate['patches']} patches" in status["reason"]
    assert gate["not_shown"] > 0
    assert gate["audited"] > 0
    shares = ("examined", "unreadable", "no_data", "failed", "gated")
    assert sum(status[f"{name}_fraction"] for name in shares) == pytest.approx(1, abs=1e-5)
    assert status["gated_fraction"] > 0
    first, cost = gate_lines(statuses)
    hidden, patches = (sum(status["gate"][name] for status in statuses) for name in ("not_shown", "patches"))
    assert first.startswith(f"gate at evidence 0.6: {hidden} of {patches} patches")
    assert cost.startswith("cost, by audit: in ")
    assert f"of the {hidden} not shown" in cost
    folder = gated.out / rows[0].slide_id
    page = (folder / "report.html").read_text()
    assert "A gate was used" in page
    assert "Where the evidence is" in page
    assert (folder / "exports" / "evidence.geojson").exists()
    assert "gated_fraction" in (gated.out / "summary.csv").read_text()
    # The same by other processes, and nothing to do for the same command.
    run_batch(rows, replace(gated, out=tmp_path / "two"), workers=2)
    assert results(tmp_path / "two") == results(gated.out)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert run_batch(rows, gated, workers=0) == statuses
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


@dataclass(frozen=True)
class Blind:
    """An evidence model that sees nothing anywhere."""

    info: EvidenceInfo

    def __call__(self, patches):
        return np.zeros(patches.shape[:3], np.float32)


def test_a_slide_whose_audit_finds_something_is_not_screened_in_full(gated, four_slides):
    blind = replace(gated, evidence_runtime=lambda bundle, *_, **__: Blind(read_evidence_info(bundle)))
    (status,) = run_batch(list_slides([four_slides])[:1], blind, workers=0)
    gate = status["gate"]
    hits = gate["audit"]["patches_with_abnormal"]
    assert hits > 0
    assert (status["status"], exit_code([status])) == ("PARTLY SCREENED", 3)
    words = f"in {hits} of {gate['audited']} audited patches below the gate the detector finds an abnormal cell, and "
    assert f"{words}{gate['not_shown']} such patches were not shown to it" in status["reason"]
    for name in ("summary.csv", "failures.csv"):
        (row,) = csv.DictReader((gated.out / name).read_text().splitlines())
        assert (row["status"], row["reason"]) == (status["status"], status["reason"])
    page = (gated.out / status["slide_id"] / "report.html").read_text()
    assert "PARTLY SCREENED" in page
    assert words in page


def test_a_gate_that_is_open_changes_no_cell(gated, batch, four_slides):
    (row, *_) = list_slides([four_slides])
    plain = replace(batch, out=batch.out / "plain", config=RunConfig.model_validate({**GATED, "gate": {}}))
    run_batch([row], plain, workers=0)
    with_map = replace(gated, out=gated.out / "map", config=plain.config)
    (status,) = run_batch([row], with_map, workers=0)
    assert status["gate"] is None
    assert gate_lines([status]) == []
    cells = [CellMap.read(run.out / row.slide_id / "cells.parquet").table for run in (plain, with_map)]
    assert cells[0].equals(cells[1])
    assert EvidenceMap.open(with_map.out / row.slide_id / "heatmap.zarr").attributes["model_id"] == "dark"


def test_a_gate_without_evidence_is_refused_at_once(batch, four_slides):
    config = RunConfig.model_validate(GATED)
    with pytest.raises(ConfigError, match="--evidence-model"):
        run_batch(list_slides([four_slides]), replace(batch, config=config), workers=0)
    detector = blobs.load(batch.bundle)
    with pytest.raises(ConfigError, match="--evidence-model"):
        run_slide(list_slides([four_slides])[0], batch.out, detector, config, RunOptions())


CHANGES = [
    ("evidence.reduce=4", ["evidence", "detect", "stitch", "export", "report"]),
    ("gate.threshold=0.7", ["detect", "stitch", "export", "report"]),
    ("gate.threshold=null", ["detect", "stitch", "export", "report"]),
    ("contours.min_area_um2=3", ["export", "report"]),
]


@pytest.mark.parametrize(("change", "stages"), CHANGES, ids=[change for change, _ in CHANGES])
def test_a_change_makes_its_stage_and_all_after_it_stale(small_painted, batch, dark, change, stages):
    row, detector, mapper = SlideRow("A", str(small_painted.path)), blobs.load(batch.bundle), dark_evidence.load(dark)
    jobs = [
        plan(row, batch.out, detector.info, RunConfig.model_validate(values), RunOptions(), mapper.info)
        for values in (GATED, with_overrides(GATED, [change]))
    ]
    artifact.write_json(jobs[0].folder / artifact.MANIFEST, {"plan": {"key": jobs[0].keys, "files": {}}})
    assert stale_stages(jobs[0]) == []
    assert stale_stages(jobs[1]) == stages


@pytest.mark.parametrize("change", [{"threshold": 0.9}, {"margin_px": 60}, {"mpp": 0.3}], ids=str)
def test_a_bundle_of_equal_weights_and_other_facts_is_another_model(small_painted, batch, dark, change):
    row, detector, info = SlideRow("A", str(small_painted.path)), blobs.load(batch.bundle), read_evidence_info(dark)
    jobs = [
        plan(row, batch.out, detector.info, RunConfig.model_validate(GATED), RunOptions(), facts)
        for facts in (info, replace(info, **change))
    ]
    artifact.write_json(jobs[0].folder / artifact.MANIFEST, {"plan": {"key": jobs[0].keys, "files": {}}})
    assert stale_stages(jobs[0]) == []
    assert stale_stages(jobs[1]) == ["evidence", "detect", "stitch", "export", "report"]


def test_a_run_without_the_map_clears_it_away_when_told(small_painted, batch, dark):
    row, detector, mapper = SlideRow("A", str(small_painted.path)), blobs.load(batch.bundle), dark_evidence.load(dark)
    config = RunConfig.model_validate({**GATED, "gate": {}})
    run_slide(row, batch.out, detector, config, RunOptions(), mapper)
    with pytest.raises(StaleArtifactError, match="evidence"):
        run_slide(row, batch.out, detector, config, RunOptions())
    run_slide(row, batch.out, detector, config, RunOptions(overwrite=True))
    assert not (batch.out / "A" / "heatmap.zarr").exists()
    assert "Where the evidence is" not in (batch.out / "A" / "report.html").read_text()


@pytest.fixture
def tiled(small_painted, batch, tmp_path):
    """Make a folder of a tiled slide."""
    row, detector = SlideRow("A", str(small_painted.path)), blobs.load(batch.bundle)
    config = RunConfig.model_validate({**GATED, "gate": {}})
    run_slide(row, tmp_path / "tiled", detector, config, RunOptions())
    return tmp_path / "tiled" / "A"


def test_overwrite_replaces_a_map_that_no_run_has_planned(tiled, dark, small_painted, batch, tmp_path):
    """Mapped by the command `evidence` with one model, then screened with another."""
    job = EvidenceJob(tiled, dark, small_painted.path, EvidenceConfig(reduce=2), runtime=dark_evidence.load)
    path = map_slide(job, 0)
    other = dark_evidence.load(dark_evidence.write_bundle(tmp_path / "pale", model_id="pale"))
    row, detector = SlideRow("A", str(small_painted.path)), blobs.load(batch.bundle)
    (tiled / artifact.MANIFEST).unlink()
    run = (row, tiled.parent, detector, RunConfig.model_validate({**GATED, "gate": {}}))
    with pytest.raises(
        StaleArtifactError, match=r"heatmap\.zarr was made with another model; use --overwrite, or delete"
    ):
        run_slide(*run, RunOptions(), other)
    assert EvidenceMap.open(path).attributes["model_id"] == "dark"
    run_slide(*run, RunOptions(overwrite=True), other)
    assert EvidenceMap.open(path).attributes["model_id"] == "pale"
    # And back: files of equal sizes are not taken for those the run has recorded.
    with pytest.raises(StaleArtifactError, match="another model"):
        map_slide(job, 0)
    map_slide(job, 0, overwrite=True)
    assert EvidenceMap.open(path).attributes["model_id"] == "dark"
    with pytest.raises(StaleArtifactError, match="another model"):
        run_slide(*run, RunOptions(), other)


def test_a_map_does_not_depend_on_processes(tiled, dark, small_painted, results):
    found = {}
    for workers in (1, 2, 3):
        job = EvidenceJob(tiled, dark, small_painted.path, EvidenceConfig(reduce=2), runtime=dark_evidence.load)
        path = map_slide(job, workers)
        found[workers] = results(path)
        path.rename(tiled / f"map{workers}")
    assert found[1] == found[2] == found[3]
    assert any(name.startswith("evidence/c/") for name in found[1])


def test_a_slide_that_is_not_given_is_asked_for(tiled, dark):
    with pytest.raises((ConfigError, ArtifactError), match="give the slide as well"):
        map_slide(EvidenceJob(tiled, dark, runtime=dark_evidence.load), 0)


def test_another_slide_of_the_same_size_is_refused(tiled, dark, tmp_path):
    """Width, height and resolution are those of the scanner, not of the slide."""
    other = paint_slide(tmp_path / "other.svs", width=640, height=512, n_cells=12, seed=5).path
    with pytest.raises(StaleArtifactError, match=r"other\.svs is not the slide .*A was made from"):
        map_slide(EvidenceJob(tiled, dark, other, EvidenceConfig(reduce=2), runtime=dark_evidence.load), 0)
    with pytest.raises(MissingSlideError, match=r"none\.svs does not exist; give the slide file"):
        map_slide(EvidenceJob(tiled, dark, tmp_path / "none.svs", runtime=dark_evidence.load), 0)


def test_the_map_of_a_slide_scanned_anew_is_not_given_back(dark, tmp_path):
    """The same command over a file of another content: the store was made again, the map was not."""
    rule = TilingConfig.model_validate({"patch_px": 128, "overlap_px": 32, "mask": {"preparation": "none"}})
    path = tmp_path / "slide.svs"
    job = EvidenceJob(tmp_path, dark, path, EvidenceConfig(reduce=2), runtime=dark_evidence.load)
    for seed in (2, 5):
        paint_slide(path, width=640, height=512, n_cells=12, seed=seed)
        with open_slide(path, slide_id="A") as slide:
            tile_slide(slide, tmp_path, rule, overwrite=True)
        if seed == 2:
            map_slide(job, 0)
    with pytest.raises(StaleArtifactError, match="made with another slide;"):
        map_slide(job, 0)
