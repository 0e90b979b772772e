"""Tiling of many slides: what a bad one costs, what is refused, what a plan promises."""

import csv
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tifffile
from odd_reader import OddReader

from wsi_detect import artifact
from wsi_detect.errors import EnvironmentFaultError, OutputBusyError, StaleArtifactError
from wsi_detect.run import list_slides, tile_plan
from wsi_detect.run.slide_list import SlideRow
from wsi_detect.run.tile import TABLE, TileBatch, tile_slides
from wsi_detect.run.tile_plan import check_room, plan_slides, room_for
from wsi_detect.run.tile_result import exit_code
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.workers import Limits

SMALL = {"patch_px": 256, "overlap_um": 16, "shard_patches": 4}
MANY_GB = 10**15


@pytest.fixture
def tiling(tmp_path):
    return TileBatch(tmp_path / "out", TilingConfig.model_validate(SMALL))


@pytest.fixture
def odd(tmp_path, tiling):
    """Make slides that misbehave; gives their rows and the batch that opens them."""

    def make(*deeds: str) -> tuple[list[SlideRow], TileBatch]:
        rows = []
        for k, deed in enumerate(deeds):
            path = tmp_path / f"{k}.odd"
            path.write_text(f"{deed} {k}")
            rows.append(SlideRow(f"{k}-{deed}", str(path)))
        return rows, replace(tiling, reader=OddReader)

    return make


def table(out: Path) -> list[dict[str, str]]:
    with (out / TABLE).open(newline="") as stream:
        return list(csv.DictReader(stream))


def store_bytes(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def damage_a_tile(path: Path) -> None:
    """Zero one tile in the middle of level 0."""
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        number = len(page.dataoffsets) // 2
        offset, length = page.dataoffsets[number], page.databytecounts[number]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(bytes(length))


def test_slides_become_stores_whatever_the_workers(tiling, four_slides, tmp_path):
    rows = list_slides([four_slides])
    found = []
    for workers, threads in ((1, 1), (2, 1), (2, 3)):
        batch = replace(tiling, out=tmp_path / f"{workers}-{threads}", threads=threads)
        results = tile_slides(rows[::-1], batch, workers=workers)
        assert [result.slide_id for result in results] == [row.slide_id for row in rows]
        assert exit_code(results) == 0
        found.append(store_bytes(batch.out))
    assert found[0] == found[1] == found[2]
    for row, result in zip(rows, results, strict=True):
        with PatchStore.open(batch.out / row.slide_id / "patches.zarr") as store:
            assert (len(store), store.codec) == (result.patches, result.codec) == (9, "jpeg_tiles")
    assert [line["status"] for line in table(batch.out)] == ["TILED"] * 4


def test_no_slides(tiling):
    assert tile_slides([], tiling) == []
    assert exit_code([]) == 0


@pytest.mark.parametrize(
    ("deed", "limits", "reason"),
    [
        ("segfault", None, "the worker process was killed by signal 11 (SIGSEGV)"),
        ("crash-on-opening", None, "the worker process was killed by signal 11 (SIGSEGV)"),
        ("kill", None, "the worker process was killed by signal 9 (SIGKILL)"),
        ("stop", Limits(stall_s=2), "no progress for 2 s"),
        ("hang", Limits(stall_s=2), "no progress for 2 s"),
        (
            "memory",
            Limits(memory_bytes=2 * 10**9),
            "needs more than 2 GB of memory; raise --max-memory or use fewer --threads",
        ),
    ],
)
def test_a_bad_slide_costs_itself(odd, deed, limits, reason):
    rows, batch = odd("good", deed, "good")
    results = tile_slides(rows, batch, limits=limits)
    assert [result.status for result in results] == ["TILED", "NOT TILED", "TILED"]
    assert results[1].reason == reason
    assert exit_code(results) == 3
    assert [line["reason"] for line in table(batch.out)] == ["", reason, ""]
    assert not list(batch.out.rglob("*.partial"))


def test_a_slow_slide_that_gets_on_is_not_given_up(odd):
    rows, batch = odd("slow")
    results = tile_slides(rows, batch, limits=Limits(stall_s=1.5))
    assert results[0].status == "TILED"
    assert results[0].seconds > 1.5


def test_a_child_killed_from_outside_and_the_same_call_again(odd, tmp_path):
    rows, batch = odd("slow", "good")
    golden = replace(batch, out=tmp_path / "golden")
    tile_slides(rows, golden)

    def kill(row, progress):
        if row.slide_id == "0-slow" and progress.done >= 6:
            for child in multiprocessing.active_children():
                child.kill()

    results = tile_slides(rows, batch, on_progress=kill)
    assert [result.status for result in results] == ["NOT TILED", "TILED"]
    assert "SIGKILL" in results[0].reason
    before = (batch.out / "0-slow/patches.zarr/images/c/0/0/0/0").stat().st_mtime_ns
    results = tile_slides(rows, batch)
    assert [(result.status, result.made) for result in results] == [("TILED", 20 - 4), ("TILED", 0)]
    assert (batch.out / "0-slow/patches.zarr/images/c/0/0/0/0").stat().st_mtime_ns == before
    assert store_bytes(batch.out) == store_bytes(golden.out)


def test_files_that_are_no_slides(tiling, small_painted, tmp_path):
    (tmp_path / "text.svs").write_text("not a slide")
    (tmp_path / "empty.svs").touch()
    shutil.copy(small_painted.path, tmp_path / "good.svs")
    rows = [SlideRow(name, str(tmp_path / f"{name}.svs")) for name in ("absent", "empty", "good", "text")]
    results = tile_slides(rows, tiling)
    assert [result.status for result in results] == ["NOT TILED", "NOT TILED", "TILED", "NOT TILED"]
    words = [("absent", "no such file"), ("empty", "the file is empty"), ("text", "not a slide this version reads")]
    reasons = {result.slide_id: result.reason for result in results}
    assert all(text in reasons[name] for name, text in words)
    assert exit_code([result for result in results if result.slide_id != "good"]) == 4


def test_names_of_files_appear_nowhere_but_in_the_list_of_slides(tiling, small_painted, tmp_path):
    folder = tmp_path / "Doe, Jane"
    folder.mkdir()
    shutil.copy(small_painted.path, folder / "Doe Jane 1970-01-01 张三.svs")
    (folder / "Doe John 李四.svs").write_text("not a slide")
    results = tile_slides(list_slides([folder]), tiling)
    assert sorted(result.status for result in results) == ["NOT TILED", "TILED"]
    canaries = [name.encode() for name in ("Doe", "Jane", "张三", "李四")]
    holders = {name for name, content in store_bytes(tiling.out).items() if any(c in content for c in canaries)}
    assert holders == {"slides.parquet"}


@pytest.mark.parametrize("codec", ["auto", "jpeg"])
def test_one_damaged_tile_is_counted(tiling, painted, tmp_path, codec):
    path = tmp_path / "damaged.svs"
    shutil.copy(painted.path, path)
    damage_a_tile(path)
    config = TilingConfig.model_validate({**SMALL, "codec": codec})
    (result,) = tile_slides([SlideRow("D", str(path))], replace(tiling, config=config))
    assert result.status == "PARTLY TILED"
    assert 1 <= result.unreadable_patches <= 9
    assert f"{result.unreadable_patches} of {result.patches} patches have unreadable pixels" in result.reason
    assert exit_code([result]) == 3
    assert exit_code([result], allow_bad=True) == 0
    (again,) = tile_slides([SlideRow("D", str(path))], replace(tiling, config=config))
    assert again == replace(result, made=0, seconds=0.0)


CHANGES = {
    "configuration": (
        {"config": TilingConfig.model_validate({**SMALL, "overlap_um": 20})},
        r"overlap_um 16\.0 → 20\.0",
    ),
    "resolution": ({"mpp": 0.3}, r"mpp 0\.25 → 0\.3; mpp_source 'file' → '--mpp'"),
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(("change", "text"), CHANGES.values(), ids=CHANGES)
def test_a_store_of_something_else_is_refused_and_kept(tiling, small_painted, change, text, begun):
    rows = [SlideRow("S", str(small_painted.path))]
    tile_slides(rows, tiling)
    if begun:
        key = artifact.read_json(tiling.out / "S/patches.zarr/zarr.json")["attributes"]["key"]
        (tiling.out / "S/patches.zarr/zarr.json").unlink()
        artifact.write_json(tiling.out / "S/patches.journal/plan.json", {"key": key})
    before = store_bytes(tiling.out)
    other = replace(tiling, **change)
    with pytest.raises(StaleArtifactError, match=text):
        tile_slides(rows, other)
    with pytest.raises(StaleArtifactError, match=text):
        plan_slides(rows, other)
    assert store_bytes(tiling.out) == before
    (result,) = tile_slides(rows, replace(other, overwrite=True))
    assert result.status == "TILED"
    assert result.made == result.patches


def test_a_slide_that_was_replaced_is_refused(tiling, four_slides, tmp_path):
    path = tmp_path / "a.svs"
    shutil.copy(four_slides / "slide0.svs", path)
    rows = [SlideRow("A", str(path))]
    tile_slides(rows, tiling)
    shutil.copy(four_slides / "slide1.svs", path)
    with pytest.raises(StaleArtifactError, match="slide '"):
        tile_slides(rows, tiling)


def test_many_stores_in_the_way_are_not_all_named(tiling, small_painted):
    rows = [SlideRow(f"S{k}", str(small_painted.path)) for k in range(7)]
    tile_slides(rows, tiling)
    with pytest.raises(StaleArtifactError, match="and 2 slides more"):
        tile_slides(rows, replace(tiling, mpp=0.3))


def test_a_preparation_chooses_the_mask(tiling, small_painted):
    row = SlideRow("S", str(small_painted.path), preparation="ThinPrep")
    assert tiling.config_of(row).mask.preparation == "lbc"
    assert tiling.config_of(replace(row, preparation=None)).mask.preparation == "auto"


def test_a_slide_that_declares_too_much(tiling, small_painted):
    batch = replace(tiling, max_pixels=640 * 512 - 1)
    (result,) = tile_slides([SlideRow("S", str(small_painted.path))], batch)
    assert "raise --max-pixels" in result.reason


@pytest.mark.parametrize("place", ["", "S"])
def test_an_output_in_use(tiling, small_painted, place):
    with artifact.lock(tiling.out / place), pytest.raises(OutputBusyError):
        tile_slides([SlideRow("S", str(small_painted.path))], tiling)


@pytest.mark.parametrize(
    ("codec", "tolerance"), [("auto", 0.02), ("jpeg", 0.2), ("zstd", 0.2), ("none", 0.5)], ids=lambda v: str(v)
)
def test_a_plan_is_what_tiling_then_makes(tiling, painted, codec, tolerance):
    batch = replace(tiling, config=TilingConfig.model_validate({**SMALL, "codec": codec}))
    rows = [SlideRow("S", str(painted.path))]
    (plan,) = plan_slides(rows, batch)
    assert not batch.out.exists()
    (result,) = tile_slides(rows, batch)
    files = [path for path in (batch.out / "S/patches.zarr").rglob("*") if path.is_file()]
    assert (plan.patches, plan.codec, plan.files) == (result.patches, result.codec, len(files))
    # Folders and small files take whole blocks, which the estimate counts in.
    assert plan.bytes - 20_000 == pytest.approx(sum(path.stat().st_size for path in files), rel=tolerance, abs=8000)
    assert plan.seconds > 0
    assert plan_slides(rows, batch) == []


def test_a_plan_names_slides_that_cannot_be_tiled(odd):
    rows, batch = odd("good", "crash-on-opening")
    plans = plan_slides(rows, batch)
    assert [plan.error for plan in plans] == [None, "the worker process was killed by signal 11 (SIGSEGV)"]
    assert tile_plan.plans_code(plans) == 3


def test_a_disk_too_small_is_refused_before_anything_starts(tiling, four_slides, monkeypatch):
    rows = list_slides([four_slides])
    sizes = sum(Path(row.path).stat().st_size for row in rows)
    need = room_for(plan_slides(rows, tiling), tiling.out).needed
    for free, fits in ((MANY_GB, True), (sizes, False), (need // 2, False), (int(need * 1.06), True)):
        monkeypatch.setattr(tile_plan, "_free", lambda folder, free=free: free)
        if fits:
            check_room(rows, tiling)
        else:
            with pytest.raises(EnvironmentFaultError, match=r"no space left on .*: need ~.* GB more for 4 slides"):
                check_room(rows, tiling)
        assert not tiling.out.exists()


def test_what_lies_there_already_need_not_fit(tiling, four_slides):
    rows = list_slides([four_slides])
    (plan, *_) = plan_slides(rows, tiling)
    tile_slides(rows[:1], tiling)
    (tiling.out / rows[0].slide_id / "patches.zarr/zarr.json").unlink()
    (begun, *_) = plan_slides(rows, tiling)
    assert plan.there == 0
    assert begun.there > 0.5 * plan.bytes
    assert room_for([begun], tiling.out).needed < 0.5 * room_for([plan], tiling.out).needed
