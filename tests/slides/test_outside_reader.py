"""A reader from outside the package, that of CONTRIBUTING.md: opened, tiled in threads and processes, unregistered."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from wsi_detect.run.slide_list import SlideRow
from wsi_detect.run.tile import TileBatch, tile_slides
from wsi_detect.slides import READERS, open_slide
from wsi_detect.slides.resample import read_at_mpp
from wsi_detect.testing.contracts import check_reader
from wsi_detect.testing.painter import lay_cells, paint_region
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

WIDTH, HEIGHT = 700, 530
DOCUMENT = Path(__file__).parents[2] / "CONTRIBUTING.md"
CONFIG = TilingConfig(patch_px=256, overlap_um=16, shard_patches=4, codec="zstd")


@pytest.fixture(scope="module")
def pixels():
    return paint_region(lay_cells(WIDTH, HEIGHT, 30, seed=5), width=WIDTH, height=HEIGHT, seed=5)


@pytest.fixture
def slide_path(pixels, tmp_path):
    path = tmp_path / "slide.npy"
    np.save(path, pixels)
    return path


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The class of the document, in a module of somebody else's that processes can import."""
    text = next(
        code for code in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.S) if "ArrayReader" in code
    )
    (tmp_path / "somebody_elses_reader.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield importlib.import_module("somebody_elses_reader").ArrayReader
    del sys.modules["somebody_elses_reader"]


def test_it_opens_and_keeps_the_contract(reader, slide_path, pixels):
    assert not any(entry.accepts(slide_path) for entry in READERS)
    check_reader(lambda: open_slide(slide_path, reader=reader), pixels, tolerance=0)
    with open_slide(slide_path, mpp=0.25, reader=reader) as slide:
        assert (read_at_mpp(slide, 0, 0, 256, 256).rgb == pixels[:256, :256]).all()


def check_store(store, pixels):
    assert len(store) > 0
    for row in range(len(store)):
        x, y = (int(value) for value in store.origin_px[row])
        part = pixels[y : y + 256, x : x + 256]
        assert (store.read(row).rgb[: part.shape[0], : part.shape[1]] == part).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_it_is_tiled_in_threads(threads, reader, slide_path, pixels, tmp_path):
    with open_slide(slide_path, mpp=0.25, reader=reader) as slide:
        check_store(tile_slide(slide, tmp_path / "out", CONFIG, threads=threads, reader=reader), pixels)


def test_it_is_tiled_in_a_process(reader, slide_path, pixels, tmp_path):
    batch = TileBatch(out=tmp_path / "out", config=CONFIG, mpp=0.25, reader=reader)
    (result,) = tile_slides([SlideRow("S1", str(slide_path))], batch, workers=1)
    assert not result.reason
    check_store(PatchStore.open(tmp_path / "out" / "S1" / "patches.zarr"), pixels)
