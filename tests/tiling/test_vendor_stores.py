"""KFB and SDPC slides, tiled: their JPEG tiles are copied untouched, and the store shows what the slide shows."""

import numpy as np
import pytest

from wsi_detect.slides import open_slide
from wsi_detect.slides.resample import read_at_mpp
from wsi_detect.testing.kfb import write_kfb
from wsi_detect.testing.painter import lay_cells, paint_region
from wsi_detect.testing.sdpc import write_sdpc
from wsi_detect.testing.tile_cuts import CANARY
from wsi_detect.tiling.tiler import tile_slide


@pytest.mark.parametrize("write", [write_kfb, write_sdpc], ids=["kfb", "sdpc"])
def test_a_store_is_the_slide(write, tmp_path):
    cells = lay_cells(1500, 1300, 60, seed=5)
    path = write(tmp_path / "slide", paint_region(cells, width=1500, height=1300, seed=5))
    store = tile_slide(path, tmp_path / "store")
    assert store.codec == "jpeg_tiles"
    assert len(store) > 0
    with open_slide(path) as slide:
        for row, (x, y) in enumerate(store.origin_px):
            patch = store.read(row)
            truth = read_at_mpp(slide, int(x), int(y), store.patch_px, store.patch_px)
            assert np.array_equal(patch.rgb, truth.rgb)
            assert (patch.no_data, patch.unreadable) == (0, 0)
    written = [file for file in (tmp_path / "store").rglob("*") if file.is_file()]
    assert written
    assert not any(CANARY in file.read_bytes() for file in written)
