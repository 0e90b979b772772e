import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsi_detect.detectors import build_detector
from wsi_detect.detectors.bundle import save_bundle
from wsi_detect.detectors.info import DetectorInfo
from wsi_detect.slides import open_slide
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

sys.path.insert(0, str(Path(__file__).parent))

OPTIONS = {
    "backbone": "resnet18",
    "first_stage": 2,
    "last_stage": 2,
    "extra_levels": 0,
    "channels": 16,
    "tower_depth": 1,
    "norm": "batch",
    "prior": 0.2,
    "input_scale": 0.5,
}


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory):
    """A real bundle with random weights, small enough for any test."""
    torch.manual_seed(0)
    classes = ("NILM", "LSIL", "HSIL")
    model = build_detector("fcos", len(classes), OPTIONS)
    info = DetectorInfo(
        model_id="tiny",
        classes=classes,
        patch_px=256,
        mpp=0.25,
        mpp_assumed=False,
        preparation="conventional smear",
        largest_cell_um=16.0,
        score_threshold=0.3,
        detector={"name": "fcos", "options": OPTIONS},
        data_card="none",
    )
    folder = tmp_path_factory.mktemp("bundle")
    save_bundle(folder, model, info, "# tiny\n")
    return folder


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """A picture of soft blobs, as a file."""
    from tiny_evidence import HEIGHT, WIDTH

    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (HEIGHT // 7 + 2, WIDTH // 7 + 2, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("picture") / "slide.png"
    Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="session")
def stores(picture, tmp_path_factory):
    """Stores of the picture, made when first asked for: codec, overlap → folder."""
    made = {}

    def get(codec="zstd", overlap=36, mpp=None, patch=64):
        key = codec, overlap, mpp, patch
        if key not in made:
            out = tmp_path_factory.mktemp("store")
            mask = {"preparation": "none"}
            rule = {"patch_px": patch, "overlap_px": overlap, "codec": codec, "mask": mask, "shard_patches": 5}
            with open_slide(picture, mpp=0.25) as slide:
                tile_slide(slide, out, TilingConfig.model_validate({**rule, "mpp": mpp}))
            made[key] = out / "patches.zarr"
        return made[key]

    return get


@pytest.fixture
def slide(picture):
    with open_slide(picture, mpp=0.25) as opened:
        yield opened
