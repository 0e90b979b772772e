import re
from dataclasses import replace
from pathlib import Path

import pytest

from wsi_detect import artifact, schema
from wsi_detect.config import with_overrides
from wsi_detect.errors import StaleArtifactError
from wsi_detect.run import RunConfig, RunOptions, SlideRow, run_slide
from wsi_detect.run.config import load_job, mask_kind, resolve
from wsi_detect.run.stages import OUTPUTS, plan, stale_stages
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.testing.blobs import load
from wsi_detect.testing.painter import paint_dark_slide


@pytest.fixture
def detector(blobs):
    return load(blobs)


@pytest.fixture
def row(small_painted):
    return SlideRow("A", str(small_painted.path))


@pytest.fixture
def run(row, detector, batch):
    """Screen the small slide; keyword arguments replace the row, the detector, the configuration or the options."""

    def go(**changes):
        given = {"row": row, "detector": detector, "config": batch.config, "options": RunOptions(), **changes}
        return run_slide(given["row"], batch.out, given["detector"], given["config"], given["options"])

    return go


def test_a_slide_goes_through_every_stage(run, batch, small_painted):
    status = run()
    folder = batch.out / "A"
    assert (status["status"], status["reason"]) == ("SCREENED", None)
    assert status["examined_fraction"] == 1.0
    assert status["cells"] == len(CellMap.read(folder / "cells.parquet")) == sum(status["counts"].values()) > 0
    assert len(artifact.read_table(folder / "patches.parquet", schema.PATCHES)) == 9
    left = {name for names in OUTPUTS.values() for name in names if (folder / name).exists()}
    # The journal is for resuming; a finished store has none.
    assert left == {name for names in OUTPUTS.values() for name in names} - {"patches.journal"}
    assert set(artifact.read_manifest(folder)) == {"plan", *OUTPUTS}
    assert small_painted.path.name not in str(status)


def test_a_second_run_changes_nothing(run, batch):
    run()
    before = {path: path.stat().st_mtime_ns for path in batch.out.rglob("*") if path.is_file()}
    run()
    assert {path: path.stat().st_mtime_ns for path in batch.out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("stage", "lost"), [("detect", "detections/part-00001.parquet"), ("stitch", "cells.parquet")])
def test_what_is_lost_is_made_again_and_equal(run, batch, stage, lost):
    run()
    path = batch.out / "A" / lost
    content = path.read_bytes()
    path.unlink()
    run()
    assert path.read_bytes() == content


CHANGES = [
    ("tiling.min_coverage=0.1", ["tile", "detect", "stitch", "export", "report"]),
    ("detection.batch_size=3", ["detect", "stitch", "export", "report"]),
    ("stitching.iou=0.5", ["stitch", "export", "report"]),
    ("exports=[csv, geojson]", ["export", "report"]),
    ("export.gzip=true", ["export", "report"]),
    ("limits.min_examined=0.9", ["report"]),
]


@pytest.mark.parametrize(("change", "stages"), CHANGES, ids=[change for change, _ in CHANGES])
def test_a_change_makes_its_stage_and_all_after_it_stale(run, row, batch, detector, change, stages):
    run()
    config = RunConfig.model_validate(with_overrides(batch.config.model_dump(exclude_unset=True), [change]))
    assert stale_stages(plan(row, batch.out, detector.info, config, RunOptions())) == stages
    with pytest.raises(StaleArtifactError, match=f"A: {', '.join(stages)}"):
        run(config=config)
    assert run(config=config, options=RunOptions(overwrite=True))["status"] == "SCREENED"


def test_another_model_makes_detections_stale(run, detector):
    run()
    with pytest.raises(StaleArtifactError, match="detect"):
        run(detector=replace(detector, info=replace(detector.info, model_id="other")))


@pytest.mark.parametrize(
    ("mpp", "accept", "status", "words"),
    [
        (0.25, False, "SCREENED", None),
        (0.20, False, "SCREENED", None),
        (0.32, False, "SCREENED", None),
        (0.40, False, "NOT SCREENED", "1.60 times.*--accept-resolution"),
        (0.40, True, "SCREENED", None),
    ],
)
def test_resolution(run, row, mpp, accept, status, words):
    found = run(row=replace(row, mpp=mpp), options=RunOptions(accept_resolution=accept))
    assert found["status"] == status
    if status == "SCREENED":
        assert found["resampled"] == (None if mpp == 0.25 else {"from": mpp, "to": 0.25})
        assert found["accepted_resolution"] == accept
        assert found["slide"]["mpp_source"] == "manifest"
    else:
        assert re.search(words, found["reason"])


def test_a_refused_slide_can_be_accepted_later(run, row):
    coarse = replace(row, mpp=0.4)
    assert run(row=coarse)["status"] == "NOT SCREENED"
    assert run(row=coarse, options=RunOptions(accept_resolution=True))["status"] == "SCREENED"


def test_fluorescence_is_refused_unless_allowed(run, tmp_path):
    dark = SlideRow("D", str(paint_dark_slide(tmp_path / "dark.svs", width=512, height=512).path))
    found = run(row=dark)
    assert found["status"] == "NOT SCREENED"
    assert "--allow-fluorescence" in found["reason"]
    assert run(row=dark, options=RunOptions(allow_fluorescence=True))["status"] == "SCREENED"


@pytest.mark.parametrize(
    ("preparation", "outside"),
    [(None, True), ("ThinPrep", True), ("conventional smear", False), ("Conventional Smear ", False)],
)
def test_the_preparation_decides_the_domain(run, preparation, outside):
    assert run(options=RunOptions(preparation=preparation))["outside_domain"] is outside


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"", "is empty"), (b"a text, not a slide", "not a slide this version reads")],
)
def test_a_bad_file_is_a_status_without_its_name(run, tmp_path, content, words):
    path = tmp_path / "Doe_Jane.svs"
    if content is not None:
        path.write_bytes(content)
    found = run(row=SlideRow("B", str(path)))
    assert found["status"] == "NOT SCREENED"
    assert words in found["reason"]
    assert "Doe" not in str(found)


def test_a_failure_takes_the_report_away(run, row, batch):
    run()
    run(row=replace(row, path=str(Path(row.path).with_name("gone.svs"))))
    assert not (batch.out / "A" / "report.html").exists()
    assert run()["status"] == "SCREENED"
    assert (batch.out / "A" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (None, "auto"),
        ("ThinPrep", "lbc"),
        ("liquid-based (SurePath)", "lbc"),
        ("conventional smear", "smear"),
        ("Abstrich", "auto"),
    ],
)
def test_mask_kind(words, kind):
    assert mask_kind(words) == kind


def test_the_model_fills_what_is_left_open(detector):
    found = resolve(RunConfig(), detector.info, "ThinPrep")
    assert (found.tiling.mpp, found.tiling.patch_px, found.tiling.overlap_um) == (0.25, 256, 32.0)
    assert (found.tiling.codec, found.tiling.mask.preparation) == ("none", "lbc")
    given = RunConfig.model_validate({"tiling": {"patch_px": 512, "overlap_px": 99, "mpp": 0.3}})
    found = resolve(given, detector.info, None)
    assert (found.tiling.mpp, found.tiling.patch_px, found.tiling.overlap_px) == (0.3, 512, 99)


def test_sections_of_other_jobs_are_left_alone(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("training: {steps: 5}\ndetection: {batch_size: 7}\n")
    assert load_job(path, RunConfig).detection.batch_size == 7
    path.write_text("detecton: {batch_size: 7}\n")
    with pytest.raises(ValueError, match="unknown section 'detecton'; did you mean 'detection'"):
        load_job(path, RunConfig)
