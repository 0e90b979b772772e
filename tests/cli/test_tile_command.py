"""`wsi-detect tile`: what the user sees, and the exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsi_detect import artifact
from wsi_detect.cli.tile_screen import limits_of
from wsi_detect.run import tile_plan
from wsi_detect.run.slide_list import read_slides
from wsi_detect.testing.painter import paint_slide
from wsi_detect.workers import Limits

SMALL = ["--set", "tiling.patch_px=256", "--set", "tiling.overlap_um=16"]


def test_a_manifest_of_slides(cli, small_painted, painted, tmp_path):
    (tmp_path / "bad.svs").write_text("no slide")
    paths = [small_painted.path, painted.path, tmp_path / "bad.svs"]
    lines = [f"{name},{path},P{name}" for name, path in zip("ABC", paths, strict=True)]
    (tmp_path / "slides.csv").write_text("slide_id,path,patient_id\n" + "\n".join(lines))
    words = ["tile", tmp_path / "slides.csv", "--out", tmp_path / "out", *SMALL]
    code, out, err = cli(*words, "--workers", 2)
    assert code == 3
    assert [line.split()[:2] for line in out.splitlines() if line[1:2] in "ABC" and " TILED" in line] == [
        ["A", "TILED"],
        ["B", "TILED"],
        ["C", "NOT"],
    ]
    assert "jpeg_tiles" in out
    assert "C: not a slide this version reads" in out
    assert out.rstrip().endswith(str(tmp_path / "out/tiling.csv"))
    assert "[3/3]" in err
    assert "MP/s" in err
    assert "bad.svs" not in out
    assert [row.patient_id for row in read_slides(tmp_path / "out/slides.parquet")] == ["PA", "PB", "PC"]
    code, out, err = cli(*words)
    assert code == 3
    assert "resuming: 2 of 3 slides done" in err


def test_a_plan_writes_nothing(cli, small_painted, tmp_path, monkeypatch):
    words = ["tile", small_painted.path, "--out", tmp_path / "out", "--plan", *SMALL]
    code, out, _ = cli(*words)
    assert code == 0
    assert "jpeg_tiles" in out
    assert "1 slides" in out
    assert f"free on {tmp_path}" in out
    monkeypatch.setattr(tile_plan, "_free", lambda folder: 10_000)
    code, out, err = cli(*words)
    assert code == 5
    assert "1 slides" in out
    assert f"no space left on {tmp_path}: need ~" in err
    code, _, err = cli(*[word for word in words if word != "--plan"])
    assert code == 5
    assert "for 1 slides" in err
    assert list(tmp_path.iterdir()) == []


def test_an_index_keeps_the_pixels_in_the_slide(cli, small_painted, tmp_path):
    code, out, _ = cli("tile", small_painted.path, "--out", tmp_path, "--index-only", "--slide-id", "A", *SMALL)
    assert code == 0
    assert " none " in out
    assert not (tmp_path / "A/patches.zarr/images").exists()


def test_other_settings_are_refused_and_named(cli, small_painted, tmp_path):
    words = ["tile", small_painted.path, "--out", tmp_path]
    assert cli(*words, *SMALL)[0] == 0
    code, out, err = cli(*words, *SMALL, "--set", "tiling.overlap_um=20")
    assert (code, out) == (4, "")
    assert "tiling.overlap_um 16.0 → 20.0" in err
    assert cli(*words, *SMALL, "--set", "tiling.overlap_um=20", "--overwrite")[0] == 0


REFUSED = {
    "no such file": (["nowhere.svs"], 4, "no such file"),
    "empty folder": (["."], 4, "holds no slide"),
    "one name for two": (["SLIDE", "a.png", "--slide-id", "A"], 2, "cannot share a name"),
    "no workers": (["SLIDE", "--workers", "0"], 2, "--workers"),
    "too large": (["SLIDE", "--max-pixels", "1e5"], 4, "raise --max-pixels"),
    "unknown key": (["SLIDE", "--set", "tiling.patchpx=1"], 2, "did you mean 'patch_px'"),
}


@pytest.mark.parametrize(("words", "code", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(cli, small_painted, tmp_path, monkeypatch, words, code, text):
    monkeypatch.chdir(tmp_path)
    found, out, err = cli("tile", *[small_painted.path if word == "SLIDE" else word for word in words], "--out", "o")
    assert found == code
    assert text in " ".join((out + err).split())
    assert "Traceback" not in err


def test_two_commands_on_one_output(cli, small_painted, tmp_path):
    with artifact.lock(tmp_path):
        code, _, err = cli("tile", small_painted.path, "--out", tmp_path, *SMALL)
    assert code == 75
    assert "in use" in err


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ((None, 300, 1), Limits(300, 2_500_000_000)),
        ((None, 300, 16), Limits(300, 10_000_000_000)),
        ((3.5, 60, 16), Limits(60, 3_500_000_000)),
        ((0, 0, 4), Limits(None, None)),
    ],
)
def test_limits_of_the_command_line(given, limits):
    assert limits_of(*given) == limits


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_command_leaves_no_half_files_and_goes_on(tmp_path, how):
    slide = paint_slide(tmp_path / "large.svs", width=3000, height=3000, n_cells=20).path
    words = ["tile", slide, "--out", tmp_path / "out", "--threads", "1", "--set", "tiling.codec=zstd", *SMALL]
    command = [sys.executable, "-m", "wsi_detect", *words, "--set", "tiling.shard_patches=8"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # Tests that a shell runs in the background inherit an interrupt that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list(tmp_path.glob("out/*/patches.journal/0*.json")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    _, err = process.communicate()
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[how]
    assert "run the same command to continue" in err
    assert not list((tmp_path / "out").rglob("*.partial"))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "shards kept" in done.stderr


def test_on_a_terminal_a_bar_shows_slide_speed_and_time(small_painted, tmp_path):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    words = ["tile", str(small_painted.path), "--out", str(tmp_path), "--slide-id", "SLIDE-A", *SMALL]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140"}
    process = subprocess.Popen(
        [sys.executable, "-m", "wsi_detect", *words], stderr=theirs, stdout=subprocess.DEVNULL, env=environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert all(word in text for word in ("SLIDE-A", "1/1 slides", "patches", "MP/s", "0:00:00"))
    assert Path(tmp_path / "SLIDE-A/patches.zarr/zarr.json").exists()
