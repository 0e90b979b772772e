"""The runtime of evidence bundles, and the promise of their margin: patches give what one pass gives."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsi_detect.detectors.evidence_bundle import save_evidence
from wsi_detect.detectors.evidence_info import EvidenceInfo
from wsi_detect.detectors.heatmap import build_evidence_model
from wsi_detect.detectors.reach import margin_px
from wsi_detect.errors import ConfigError, ModelError
from wsi_detect.inference import EVIDENCE_RUNTIMES
from wsi_detect.inference.evidence import EvidenceConfig, map_evidence
from wsi_detect.inference.torch_evidence import load
from wsi_detect.slides import open_slide
from wsi_detect.tiling.evidence_map import EvidenceMap
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

OPTIONS = {"backbone": "resnet18", "first_stage": 1, "last_stage": 1, "channels": (8, 8)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    model = build_evidence_model(["region"], OPTIONS)
    with torch.no_grad():
        # Random weights say nothing loud; a map that hardly changes would hide any seam.
        model.decoder.head.weight.mul_(150)
    info = EvidenceInfo(
        model_id="evidence",
        columns=("region",),
        region=("HSIL",),
        patch_px=128,
        mpp=0.25,
        mpp_assumed=False,
        preparation="conventional smear",
        margin_px=margin_px(model),
        stride_px=model.stride_px,
        threshold=0.5,
        model=OPTIONS,
        data_card="none",
    )
    folder = tmp_path_factory.mktemp("evidence")
    save_evidence(folder, model, info, "# evidence\n")
    return folder


def test_maps_of_patches_are_that_of_one_pass(bundle, tmp_path):
    """A slide of 320 x 224 px, patches that overlap by nothing: what is around them comes from the slide."""
    noise = np.random.default_rng(0).integers(0, 256, (28, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((320, 224), Image.Resampling.BICUBIC).save(tmp_path / "slide.png")
    model = EVIDENCE_RUNTIMES["torch"](bundle, "cpu", threads=1)
    rule = {"patch_px": 96, "overlap_px": 0, "codec": "none", "mask": {"preparation": "none"}}
    with open_slide(tmp_path / "slide.png", mpp=0.25) as slide:
        tile_slide(slide, tmp_path, TilingConfig.model_validate(rule))
        map_evidence(PatchStore.open(tmp_path / "patches.zarr", slide), model, tmp_path, EvidenceConfig(reduce=1))
    found = EvidenceMap.open(tmp_path / "heatmap.zarr")
    (whole,) = model(np.array(Image.open(tmp_path / "slide.png"))[None])
    assert 0 < found.attributes["margin_px"] < 96
    assert found.attributes["window_px"] < 224
    assert whole.std() > 0.1
    np.testing.assert_allclose(found.evidence((0, 224), (0, 320)), whole, atol=1e-4)


def test_memory_that_runs_out_halves_the_batch(bundle, monkeypatch):
    model = load(bundle, "cpu")
    patches = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    expected, whole, sizes = model(patches), model._forward, []

    def forward(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("too much")
        return whole(batch)

    monkeypatch.setattr(model, "_forward", forward)
    np.testing.assert_allclose(model(patches), expected, atol=1e-4)
    assert sizes == [5, 2, 3, 1, 2]
    assert model(patches[:0]).shape == (0, 32, 32)


def test_what_cannot_be_loaded(bundle, tiny_bundle):
    with pytest.raises(ConfigError, match="cuda:77"):
        load(bundle, "cuda:77")
    with pytest.raises(ModelError, match="bundle of a detector"):
        load(tiny_bundle)
