"""What many tests share: painted slides, made once a session; a test that changes one copies it first."""

import sys
from pathlib import Path

import pytest
from hypothesis import settings

from wsi_detect.testing.painter import paint_slide

# Modules beside the tests that several of them use.
sys.path.insert(0, str(Path(__file__).parent))

# How long an example takes is the machine's affair, and benchmarks'.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def painted(tmp_path_factory):
    """A slide of 1536 x 1280 px with 60 cells, some on patch borders, some in clumps; never change the file."""
    return paint_slide(tmp_path_factory.mktemp("painted") / "painted.svs", width=1536, height=1280, n_cells=60, seed=1)


@pytest.fixture(scope="session")
def small_painted(tmp_path_factory):
    """A slide of 640 x 512 px with 12 cells, one level; never change the file."""
    return paint_slide(tmp_path_factory.mktemp("painted") / "small.svs", width=640, height=512, n_cells=12, seed=2)
