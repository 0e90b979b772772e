import pytest
import torch

from wsi_detect.detectors import build_detector
from wsi_detect.detectors.bundle import save_bundle
from wsi_detect.detectors.info import DetectorInfo

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
