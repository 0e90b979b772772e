import sys
from pathlib import Path

import pytest

from wsi_detect.run import Batch, RunConfig
from wsi_detect.testing.blobs import load, write_bundle
from wsi_detect.testing.painter import paint_slide

# Spawned processes import the functions of `crew_jobs` by name, and inherit this path.
sys.path.insert(0, str(Path(__file__).parent))

#: Nine patches in three shards on a slide of 640 x 512 px.
SMALL = {"tiling": {"patch_px": 256, "overlap_um": 16, "shard_patches": 4}, "exports": ["csv"]}


@pytest.fixture(scope="session")
def blobs(tmp_path_factory):
    """Bundle of the detector without weights."""
    return write_bundle(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="session")
def four_slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for k in range(4):
        paint_slide(folder / f"slide{k}.svs", width=640, height=512, n_cells=8 + k, seed=k)
    return folder


@pytest.fixture
def batch(tmp_path, blobs):
    """A batch into a fresh folder."""
    return Batch(tmp_path / "out", blobs, RunConfig.model_validate(SMALL), runtime=load)


@pytest.fixture(scope="session")
def results():
    """Return the bytes of every result in a folder; timings and locks aside."""

    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        kept = (path for path in files if path.name not in (".lock", "manifest.json"))
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}

    return read
