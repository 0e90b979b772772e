"""Benchmarks run on small slides, without the programs they compare with, and say their figures as name → number."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
#: Part of a name that must be there, whatever is installed.
EXPECTED = {
    "bench_slides.py": "sparse/tiles",
    "bench_tiling.py": "tile/verbatim/wall",
    "bench_stitching.py": "cpu/crowded/10000/ours",
    "bench_evaluation.py": "cpu/5/ours, everything",
    "bench_store.py": "",
    "bench_loader.py": "",
    "bench_losses.py": "added/bundled/grad_libra",
}


def run(script, tmp_path, *arguments):
    done = subprocess.run(
        [sys.executable, SCRIPTS / script, "--quick", "--json", tmp_path / "figures.json", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((tmp_path / "figures.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("script", EXPECTED)
def test_a_benchmark_says_flat_figures(tmp_path, script):
    figures = run(script, tmp_path)[1]
    assert all(isinstance(value, (int, float)) and math.isfinite(value) for value in figures.values())
    assert len(figures) > 2
    assert EXPECTED[script] in " ".join(figures)


def test_reading_is_measured_with_and_without_peers(tmp_path):
    printed, figures = run("bench_tiling.py", tmp_path, "--only", "kept")
    assert figures["kept/clumps/ours/core"] > 0
    assert figures["kept/clumps/openslide/wall"] > 0
    missing = {line.split(":")[0] for line in printed.splitlines() if "left out" in line}
    assert missing.isdisjoint({"wsi_detect", "openslide"})
    assert all(
        (f"kept/tct/{name}/core" in figures) != (package in missing)
        for name, package in [("cucim", "cucim"), ("libvips", "pyvips")]
    )
