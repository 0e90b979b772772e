import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsi_detect import __version__, artifact
from wsi_detect.cli import main as entry
from wsi_detect.cli.main import main
from wsi_detect.inference import RUNTIMES
from wsi_detect.testing import blobs
from wsi_detect.testing.painter import paint_slide

COMMANDS = ["info", "tile", "annotate", "index", "train", "detect", "stitch", "export", "evaluate", "report"]
COMMANDS += ["run", "demo", "env"]


@pytest.fixture(autouse=True)
def blob_detector(monkeypatch):
    """Bundles of PyTorch find blobs here."""
    monkeypatch.setitem(RUNTIMES, "torch", blobs.load)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return blobs.write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli, command):
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert f"Example: wsi-detect {command}" in " ".join(out.split())


def test_help_is_quick_and_loads_nothing_heavy():
    program = "import sys; from wsi_detect.cli.main import make_app; make_app(); print(sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "pyarrow", "numpy", "pydantic", "zarr", "openslide", "lightning", "ray"):
        assert f"'{heavy}'" not in found


def test_info(cli, small_painted):
    code, out, _ = cli("info", small_painted.path, "--json")
    assert code == 0
    facts = json.loads(out)
    assert (facts["size_px"], facts["mpp"], facts["mpp_source"]) == ("640 x 512", 0.25, "file")
    assert facts["bright_field"] is True
    code, out, _ = cli("info", small_painted.path, "--mpp", "0.5")
    assert "0.5" in out
    assert "--mpp" in out


@pytest.mark.parametrize("command", ["run", "detect"])
def test_a_model_of_other_material_is_refused_for_slides(cli, bundle, small_painted, tmp_path, command):
    """One line, before anything is written."""
    foreign = tmp_path / "blood"
    shutil.copytree(bundle, foreign)
    facts = artifact.read_json(foreign / "config.json")
    artifact.write_json(foreign / "config.json", {**facts, "classes": ["RBC", "WBC"], "data_card": "bccd-blood"})
    slide = small_painted.path
    if command == "detect":
        given = [f"--set=tiling.{rule}" for rule in ("patch_px=256", "mpp=0.25", "overlap_um=32", "codec=jpeg")]
        assert cli("tile", small_painted.path, "--out", tmp_path / "one", *given)[0] == 0
        (slide,) = (path for path in (tmp_path / "one").iterdir() if path.is_dir())
    out = ["--out", tmp_path / "out"] if command == "run" else []
    code, _, err = cli(command, slide, "--model", foreign, *out)
    assert code == 4
    (line,) = (line for line in err.splitlines() if line.strip())
    assert "finds RBC, WBC, which the Bethesda System does not have" in line
    assert "data card bccd-blood" in line
    assert not (tmp_path / "out").exists()


def test_the_stages_one_by_one_and_the_run_agree(cli, bundle, small_painted, tmp_path):
    given = [f"--set=tiling.{rule}" for rule in ("patch_px=256", "mpp=0.25", "overlap_um=32", "codec=jpeg")]
    assert cli("tile", small_painted.path, "--out", tmp_path / "one", *given)[0] == 0
    (work,) = (path for path in (tmp_path / "one").iterdir() if path.is_dir())
    assert cli("detect", work, "--model", bundle)[0] == 0
    assert cli("stitch", work, "--model-id", "dark-blobs", "--set", "stitching.largest_cell_um=16")[0] == 0
    code, out, _ = cli("export", work, "--format", "geojson", "--format", "csv")
    assert (code, [Path(line).name for line in out.split()]) == (0, ["cells.geojson", "cells.csv"])
    code, out, _ = cli(
        "run", small_painted.path, "--out", tmp_path / "all", "--model", bundle, "--workers", 0, "--store", "jpeg"
    )
    assert code == 0
    for name in ("cells.parquet", "patches.parquet", "exports/cells.csv"):
        assert (tmp_path / "all" / work.name / name).read_bytes() == (work / name).read_bytes()
    assert cli("report", tmp_path / "all" / work.name, "--slide", small_painted.path)[0] == 0


def test_run_prints_a_table_and_its_place(cli, bundle, small_painted, tmp_path):
    code, out, err = cli("run", small_painted.path, "--out", tmp_path, "--model", bundle, "--workers", 0)
    assert code == 0
    assert "SCREENED" in out
    assert str(tmp_path / "summary.csv") in out
    assert "[1/1]" in err
    assert small_painted.path.name not in out


@pytest.mark.parametrize(
    ("good", "bad", "code"), [(1, 0, 0), (1, 1, 3), (0, 1, 4)], ids=["all screened", "one is not", "none is"]
)
def test_exit_codes_of_run(cli, bundle, small_painted, tmp_path, good, bad, code):
    broken = tmp_path / "broken.svs"
    broken.write_text("no slide")
    slides = [small_painted.path] * good + [broken] * bad
    assert cli("run", *slides, "--out", tmp_path / "out", "--model", bundle, "--workers", 0)[0] == code


USAGE = {
    "no such command": (["scan"], 2, "scan"),
    "no such option": (["info", "x.svs", "--mmp", "1"], 2, "--mmp"),
    "no output folder": (["run", "x.svs"], 2, "--out"),
    "missing slide": (["info", "nowhere.svs"], 4, "no such file"),
    "empty pattern": (["run", "no-*.svs", "--out", "o"], 4, "no file matches"),
    "unknown section": (["run", "x.svs", "--out", "o", "--set", "tilling.patch_px=1"], 2, "did you mean 'tiling'"),
    "unknown key": (["run", "x.svs", "--out", "o", "--set", "tiling.patchpx=1"], 2, "did you mean 'patch_px'"),
    "bad value": (["run", "x.svs", "--out", "o", "--set", "detection.batch_size=0"], 2, "greater than or equal to 1"),
    "no configuration": (["run", "x.svs", "--out", "o", "--config", "none.yaml"], 2, "none.yaml"),
    "no bundle": (["run", "x.svs", "--out", "o", "--model", "nowhere"], 4, "not a model bundle"),
    "bad part": (["run", "x.svs", "--out", "o", "--model", "BUNDLE", "--part", "3/2"], 4, "expected i/n"),
}


@pytest.mark.parametrize(("words", "code", "text"), USAGE.values(), ids=USAGE)
def test_what_the_user_sees(cli, bundle, tmp_path, monkeypatch, words, code, text):
    monkeypatch.chdir(tmp_path)
    found, out, err = cli(*[bundle if word == "BUNDLE" else word for word in words])
    assert found == code
    assert text in " ".join(err.split())
    assert out == ""
    assert "Traceback" not in err


def test_another_run_holds_the_folder(cli, bundle, small_painted, tmp_path):
    with artifact.lock(tmp_path):
        code, _, err = cli("run", small_painted.path, "--out", tmp_path, "--model", bundle, "--workers", 0)
    assert code == 75
    assert "in use" in err


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "no space left"), (errno.EROFS, "read-only"), (errno.EACCES, "permission is denied")],
)
def test_the_machine_stands_in_the_way(cli, bundle, small_painted, tmp_path, monkeypatch, number, text):
    def refuse(path, content):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(artifact, "write_bytes", refuse)
    out = tmp_path / "out"
    code, _, err = cli("run", small_painted.path, "--out", out, "--model", bundle, "--workers", 0)
    assert code == 5
    assert f"{text} on {out}" in err


def test_a_missing_extra_names_the_install_line(cli, monkeypatch, small_painted):
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    for name in [name for name in sys.modules if name.startswith("wsi_detect.training")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = cli("train", "index.parquet", "--out", "runs")
    assert code == 5
    assert 'pip install "wsi-detect[train]"' in err


def test_a_bug_is_one_line_and_a_log(cli, monkeypatch, small_painted):
    def crash(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("wsi_detect.slides.describe.describe", crash)
    code, out, err = cli("info", small_painted.path)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    log = Path(err.rpartition(" ")[2].strip())
    assert "ZeroDivisionError: oops" in log.read_text()
    log.unlink()


def test_ctrl_c(cli, monkeypatch, small_painted):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsi_detect.slides.describe.describe", interrupt)
    assert cli("info", small_painted.path)[0] == 130


def test_a_closed_pipe_ends_quietly(small_painted):
    shell = f'"{sys.executable}" -m wsi_detect info "{small_painted.path}" | true; echo ${{PIPESTATUS[0]}}'
    found = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert found.stderr == ""
    assert found.stdout.strip() in ("0", "141")


def test_sigterm_ends_the_workers_and_leaves_no_half_files(bundle, tmp_path):
    slide = paint_slide(tmp_path / "large.svs", width=3000, height=3000, n_cells=20).path
    program = (
        "import wsi_detect.run.batch as batch; from wsi_detect.testing import blobs\n"
        "from wsi_detect.cli import main\n"
        "batch.RUNTIMES['torch'] = blobs.load\n"
        "main()"
    )
    words = ["run", slide, "--out", tmp_path / "out", "--model", bundle, "--workers", "0"]
    process = subprocess.Popen([sys.executable, "-c", program, *words], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out/*/detections")):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 143
    assert "run the same command to continue" in err
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_env_shows_settings_without_secrets(cli, monkeypatch):
    monkeypatch.setenv("WSI_DETECT_TOKEN", "hush")
    monkeypatch.setenv("WSI_DETECT_CACHE", os.path.join(os.sep, "home", "jane", "cache"))
    monkeypatch.setenv("WSI_DETECT_MODE", "fast")
    monkeypatch.setenv("OTHER_TOKEN", "hush2")
    code, out, _ = cli("env")
    assert code == 0
    assert "hush" not in out
    assert "jane" not in out
    assert dict(line.split(None, 1) for line in out.splitlines())["WSI_DETECT_MODE"] == "fast"


def test_the_module_is_the_command():
    found = subprocess.run(
        [sys.executable, "-m", "wsi_detect", "--version"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == __version__
    assert entry is main


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "con", ""])
def test_a_name_that_cannot_be_a_folder_is_refused(cli, small_painted, tmp_path, name):
    code, _, err = cli("tile", small_painted.path, "--out", tmp_path / "out", "--slide-id", name)
    assert code == 2
    assert "slide_id" in err
    assert list(tmp_path.iterdir()) == []
