import csv
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from wsi_detect import artifact
from wsi_detect.errors import OutputBusyError, StaleArtifactError
from wsi_detect.run import RunConfig, RunOptions, list_slides, run_batch
from wsi_detect.run.slide_list import SlideRow


def summary(folder: Path, name: str = "summary.csv") -> list[dict[str, str]]:
    with (folder / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_bad_slide_never_costs_the_good_ones(batch, four_slides, tmp_path):
    slides = tmp_path / "slides"
    shutil.copytree(four_slides, slides)
    (slides / "slide1.svs").write_bytes((slides / "slide1.svs").read_bytes()[:5000])
    (slides / "broken.svs").write_text("not a slide")
    statuses = run_batch(list_slides([slides, slides / "absent.svs"]), batch, workers=0)
    assert sorted(status["status"] for status in statuses) == ["NOT SCREENED"] * 3 + ["SCREENED"] * 3
    assert [row["slide_id"] for row in summary(batch.out)] == sorted(status["slide_id"] for status in statuses)
    assert {row["status"] for row in summary(batch.out, "failures.csv")} == {"NOT SCREENED"}
    assert len(summary(batch.out, "failures.csv")) == 3


def test_the_tables_do_not_depend_on_processes_or_order(batch, four_slides, tmp_path, results, caplog):
    """Byte for byte; and the processes really shared the work."""
    rows = list_slides([four_slides])
    found, crews = {}, {}
    for workers in (0, 1, 2, 5):
        out = tmp_path / f"out{workers}"
        caplog.clear()
        with caplog.at_level(logging.INFO):
            run_batch(rows[::-1] if workers == 2 else rows, replace(batch, out=out), workers=workers)
        found[workers] = results(out)
        crews[workers] = set(re.findall(r"by (process \d+)", caplog.text))
    assert found[0] == found[1] == found[2] == found[5]
    assert any(name.endswith("cells.parquet") for name in found[0])
    assert {workers: len(crew) for workers, crew in crews.items() if workers < 5} == {0: 1, 1: 1, 2: 2}
    assert len(crews[5]) > 1


def test_the_same_call_continues(batch, four_slides, caplog):
    rows = list_slides([four_slides])
    first = run_batch(rows[:2], batch, workers=0)
    done = []
    with caplog.at_level(logging.INFO):
        second = run_batch(rows, batch, workers=0, on_done=done.append)
    assert "resuming: 2 of 4 slides done" in caplog.text
    assert second[:2] == first
    assert [status["slide_id"] for status in done] == [row.slide_id for row in rows]


def test_failed_slides_are_tried_again(batch, small_painted, tmp_path):
    path = tmp_path / "late.svs"
    row = SlideRow("L", str(path))
    assert run_batch([row], batch, workers=0)[0]["status"] == "NOT SCREENED"
    shutil.copy(small_painted.path, path)
    assert run_batch([row], batch, workers=0)[0]["status"] == "SCREENED"


def test_other_settings_are_refused_and_named(batch, small_painted):
    rows = list_slides([small_painted.path])
    run_batch(rows, batch, workers=0)
    values = {**batch.config.model_dump(exclude_unset=True), "detection": {"batch_size": 3}}
    other = replace(batch, config=RunConfig.model_validate(values))
    with pytest.raises(StaleArtifactError, match=r"detection\.batch_size 4 → 3; use --overwrite"):
        run_batch(rows, other, workers=0)
    allowed = replace(other, options=RunOptions(overwrite=True))
    assert run_batch(rows, allowed, workers=0)[0]["config"]["detection"]["batch_size"] == 3
    assert run_batch(rows, other, workers=0)[0]["status"] == "SCREENED"


def test_a_slide_that_was_replaced_is_refused_before_anything_starts(batch, four_slides, tmp_path):
    path = tmp_path / "a.svs"
    shutil.copy(four_slides / "slide0.svs", path)
    rows = [SlideRow("A", str(path)), SlideRow("B", str(four_slides / "slide2.svs"))]
    run_batch(rows[:1], batch, workers=0)
    shutil.copy(four_slides / "slide1.svs", path)
    with pytest.raises(StaleArtifactError, match=r"1 slide.*first A"):
        run_batch(rows, batch, workers=0)
    assert not (batch.out / "B").exists()


def test_a_folder_in_use(batch, small_painted):
    rows = list_slides([small_painted.path])
    with artifact.lock(batch.out), pytest.raises(OutputBusyError):
        run_batch(rows, batch, workers=0)


def test_a_slide_in_use(batch, small_painted):
    rows = list_slides([small_painted.path])
    with artifact.lock(batch.out / rows[0].slide_id), pytest.raises(OutputBusyError):
        run_batch(rows, batch, workers=0)


def test_parts_make_the_whole(batch, four_slides, tmp_path, results):
    rows = list_slides([four_slides])
    whole = replace(batch, out=tmp_path / "whole")
    run_batch(rows, whole, workers=0)
    for part in ("1/3", "2/3", "3/3"):
        run_batch(rows, replace(batch, part=part), workers=0)
    assert sorted(path.name for path in batch.out.glob("summary.*")) == [
        f"summary.part-{k}-of-3.csv" for k in (1, 2, 3)
    ]
    run_batch(rows, batch, workers=0)
    found = {name: content for name, content in results(batch.out).items() if ".part-" not in name}
    assert found == results(tmp_path / "whole")


def test_no_file_name_in_any_output_but_the_list_of_slides(batch, small_painted, tmp_path, results):
    path = tmp_path / "ZZPATIENT" / "ZZPATIENT_CANARY.svs"
    path.parent.mkdir()
    shutil.copy(small_painted.path, path)
    bad = path.with_name("ZZPATIENT_BAD.svs")
    bad.write_text("not a slide")
    run_batch(list_slides([path, bad]), batch, workers=1)
    files = {**results(batch.out), "manifests": b"".join(p.read_bytes() for p in batch.out.rglob("manifest.json"))}
    assert [name for name, content in files.items() if b"ZZPATIENT" in content] == ["slides.parquet"]


@pytest.mark.slow
def test_the_bundled_model_gives_the_same_tables_in_1_2_and_5_processes(four_slides, tmp_path, results):
    """Through the command line, as a user runs it, on whatever number of processors there are."""
    found, crews = {}, {}
    for workers in (1, 2, 5):
        out = tmp_path / str(workers)
        words = ["run", str(four_slides), "--out", str(out), "--workers", str(workers), "--device", "cpu"]
        done = subprocess.run([sys.executable, "-m", "wsi_detect", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found[workers] = results(out)
        crews[workers] = len(set(re.findall(r"by (process \d+)", done.stderr)))
    assert found[1] == found[2] == found[5]
    assert crews[1] == 1
    assert min(crews[2], crews[5]) > 1


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_tables(batch, four_slides, tmp_path, results):
    """An existing cluster of two machines of one processor each."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        rows = list_slides([four_slides])
        run_batch(rows, replace(batch, out=tmp_path / "ray"), workers=2, ray_address=cluster.address)
    finally:
        cluster.shutdown()
    run_batch(rows, batch, workers=0)
    assert results(tmp_path / "ray") == results(batch.out)
