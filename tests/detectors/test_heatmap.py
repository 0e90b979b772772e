"""Evidence models: shapes, the margin beyond which a patch border is not felt, and bundles."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from wsi_detect.detectors.bundle import load_bundle, read_info, save_bundle
from wsi_detect.detectors.evidence_bundle import load_evidence, save_evidence
from wsi_detect.detectors.evidence_info import EvidenceInfo, read_evidence_info
from wsi_detect.detectors.fcos import fcos
from wsi_detect.detectors.heatmap import EvidenceModel, RegionClassifier, UNetDecoder, build_evidence_model
from wsi_detect.detectors.info import DetectorInfo
from wsi_detect.detectors.reach import margin_px
from wsi_detect.errors import ConfigError, DamagedArtifactError, MissingArtifactError, ModelError

OPTIONS = {"last_stage": 1, "channels": [8, 4]}
INFO = EvidenceInfo(
    model_id="tiny",
    columns=("region",),
    region=("HSIL", "SCC"),
    patch_px=64,
    mpp=1.08,
    mpp_assumed=True,
    preparation="conventional smear",
    margin_px=31,
    stride_px=4,
    threshold=0.5,
    model=OPTIONS,
    data_card="painted",
)


def _model(options=OPTIONS, columns=("region",)):
    torch.manual_seed(0)
    model = build_evidence_model(columns, options).eval()
    # Random weights answer hardly at all to pixels, and a step at a border would pass unseen.
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_var, 0.02, 0.1)
    return model


def _pixels(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("size", [(64, 64), (8, 33)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_value_for_every_px_whatever_the_size(size, scale):
    model = _model({**OPTIONS, "input_scale": scale}, ("LSIL", "HSIL"))
    with torch.no_grad():
        maps = model.evidence(_pixels(2, 3, *size))
        cams = model.activation(_pixels(2, 3, *size))
        logits, raised = model.taught(_pixels(2, 3, *size))
    assert maps.shape == (2, *size)
    assert 0 <= float(maps.min()) < float(maps.max()) <= 1
    stride = model.stride_px
    assert stride == 4 / scale
    assert cams.shape == (2, 2, -(-size[0] // stride), -(-size[1] // stride))
    torch.testing.assert_close(torch.softmax(logits, 1)[:, 1], maps)
    assert raised.shape == (2, 2, *size)


def test_a_logit_is_the_mean_of_its_map():
    model = _model(columns=("LSIL", "HSIL"))
    with torch.no_grad():
        (features,) = model.classifier.features(torch.rand(1, 3, 64, 64))
        logits = model.classifier.weigh(features.mean(dim=(2, 3)))
        torch.testing.assert_close(model.classifier.activation(features).mean(dim=(2, 3)), logits)


# Receptive field of the first stage of resnet18: 7 (stem), 11 (pooling), 43 (four convolutions at stride 4). The
# decoder adds 2 x (2 + 2) px at stride 2, its second step 2 x 2 at stride 1 and the head 1 more; with one step the head
# is at stride 2 and interpolation looks one px of that stride further; so does that of the reduced input, by one px.
@pytest.mark.parametrize(
    ("options", "margin", "stride"),
    [
        ({"last_stage": 1, "channels": (8,)}, 31, 4),
        ({"last_stage": 2, "channels": (8, 8, 4)}, 71, 8),
        ({"last_stage": 2, "channels": (8, 8, 4), "input_scale": 0.5}, 143, 16),
    ],
)
def test_the_margin_is_exact(options, margin, stride):
    model = _model(options)
    assert (margin_px(model), model.stride_px) == (margin, stride)
    model = model.double()
    side = -(-2 * margin // stride) * stride + 2 * stride
    large = _pixels(1, 3, side + 3 * stride, side + 2 * stride).double() / 255
    with torch.no_grad():
        apart = (
            model.evidence(large)[0, stride : stride + side, stride : stride + side]
            - model.evidence(large[..., stride : stride + side, stride : stride + side])[0]
        ).abs()
    assert float(apart[margin : side - margin, margin : side - margin].max()) < 1e-7
    # One px nearer to one of the borders there is a difference, if one too small for a float32 in places.
    ring = torch.cat([apart[margin - 1], apart[side - margin], apart[:, margin - 1], apart[:, side - margin]])
    assert float(ring.max()) > 0


def test_a_backbone_that_looks_at_everything_is_refused():
    class Squeezed(nn.Module):
        """The first stage of a network under a gate that is the mean of the image, as squeeze-and-excitation has it."""

        def forward(self, batch):
            gate = torch.sigmoid(batch.mean(dim=(2, 3), keepdim=True))
            return {"layer1": nn.functional.avg_pool2d(batch * gate, 4)}

    model = EvidenceModel(RegionClassifier(Squeezed(), 3, 1), UNetDecoder([3], [4]), ("region",), 4, 1.0)
    with pytest.raises(ConfigError, match="depends on the whole image"):
        margin_px(model)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ((), {}, "at least one column"),
        (("region",), {"first_stage": 3, "last_stage": 2}, "first_stage 3 lies after 2"),
        (("region",), {"last_stage": 1, "channels": (8, 8, 8)}, "3 entries, but 1 to 2 with last_stage 1"),
        (("region",), {"input_scale": 0.4}, "1 by a whole number, not 0.4"),
        (("region",), {"chanels": (8,)}, "did you mean 'channels'"),
    ],
)
def test_wrong_options_are_named(columns, options, message):
    with pytest.raises(ConfigError, match=message):
        build_evidence_model(columns, options)


def test_a_frozen_classifier_stays_in_evaluation():
    model = _model()
    model.freeze_classifier()
    model.train()
    assert model.decoder.training
    assert not any(module.training for module in model.classifier.modules())
    assert not any(weight.requires_grad for weight in model.classifier.parameters())


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 1e-3)])
def test_bundles_make_a_round_trip(tmp_path, half, tolerance):
    model = _model()
    written = save_evidence(tmp_path, model, INFO, "# card", half=half)
    loaded, info = load_evidence(tmp_path)
    assert info == written == read_evidence_info(tmp_path)
    assert info == replace(INFO, model_id=info.model_id)
    assert info.model_id.startswith("tiny@")
    assert not loaded.training
    for key, value in model.state_dict().items():
        assert loaded.state_dict()[key].dtype == value.dtype
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=tolerance, atol=tolerance)


def test_each_kind_of_bundle_is_refused_where_the_other_is_wanted(tmp_path):
    options = {"last_stage": 3, "extra_levels": 0, "keep_levels": 1, "channels": 32, "tower_depth": 1, "norm": "batch"}
    info = DetectorInfo(
        "d", ("HSIL",), 64, 0.27, True, "unknown", 22.5, 0.05, {"name": "fcos", "options": options}, "p"
    )
    save_bundle(tmp_path / "detector", fcos(1, options), info, "")
    save_evidence(tmp_path / "evidence", _model(), INFO, "")
    for read in (read_evidence_info, load_evidence):
        with pytest.raises(ModelError, match="is the bundle of a detector; an evidence model"):
            read(tmp_path / "detector")
    for read in (read_info, load_bundle):
        with pytest.raises(ModelError, match="is the bundle of an evidence model, which finds no cells"):
            read(tmp_path / "evidence")


def test_damaged_bundles_are_named(tmp_path):
    with pytest.raises(MissingArtifactError, match=r"config\.json is missing"):
        load_evidence(tmp_path)
    save_evidence(tmp_path, _model(), INFO, "")
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "model": {"last_stage": 1, "channels": [8]}}))
    with pytest.raises(ModelError, match="does not fit the model"):
        load_evidence(tmp_path)
    del values["margin_px"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(DamagedArtifactError, match="margin_px"):
        load_evidence(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "config.json").write_text(json.dumps(INFO.to_json()))
    with pytest.raises(MissingArtifactError, match="safetensors is missing"):
        load_evidence(tmp_path)
