"""Codings, necks and backbones: round trips, shapes, every parameter in use, weights from a file."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torchvision.models import resnet18

from wsi_detect.detectors.backbone import stages
from wsi_detect.detectors.box_coding import MAX_LOG, boxes_from_deltas, boxes_from_points, deltas_from_boxes
from wsi_detect.detectors.necks import NECKS, DilatedEncoder, FeaturePyramid
from wsi_detect.detectors.tower import rows
from wsi_detect.detectors.yolof import implicit_objectness
from wsi_detect.errors import ConfigError, MissingArtifactError, ModelError

side = st.floats(1, 500)
corner = st.floats(-500, 500)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(corner, corner, side, side, corner, corner, side, side), min_size=1, max_size=5))
def test_deltas_bring_a_box_back(numbers):
    values = torch.tensor(numbers, dtype=torch.float64)
    near, wanted = (torch.cat([v[:, :2], v[:, :2] + v[:, 2:]], dim=1) for v in (values[:, :4], values[:, 4:]))
    scale = (0.1, 0.1, 0.2, 0.2)
    back = boxes_from_deltas(near, deltas_from_boxes(near, wanted, scale), scale)
    # Growth is limited; a box that is larger than the limit allows comes back smaller.
    grown = (wanted[:, 2:] - wanted[:, :2]) / (near[:, 2:] - near[:, :2])
    fits = (grown.log() <= MAX_LOG).all(dim=1)
    torch.testing.assert_close(back[fits], wanted[fits], rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("transform", ["minmax", "partial_minmax"])
def test_of_equal_points_one_takes_the_gradient(transform):
    points = torch.tensor([[[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]], requires_grad=True)
    box = boxes_from_points(points, transform)
    assert box.tolist() == [[1, 2, 3, 4]]
    (box * torch.tensor([1.0, 2.0, 4.0, 8.0])).sum().backward()
    assert sorted(points.grad.flatten().tolist()) == [0, 0, 0, 0, 1, 2, 4, 8]


def test_a_limit_keeps_the_centre_near():
    anchor = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    moved = boxes_from_deltas(anchor, torch.tensor([[5.0, -5.0, 0.0, 0.0]]), limit_px=8.0)
    assert moved.tolist() == [[8.0, -8.0, 18.0, 2.0]]


def test_unknown_transforms_are_refused():
    with pytest.raises(ValueError, match="unknown transform 'hull'"):
        boxes_from_points(torch.zeros(1, 9, 2), "hull")
    with pytest.raises(ValueError, match="two numbers"):
        boxes_from_points(torch.zeros(1, 9, 2), "moment")


def test_rows_keep_the_anchors_of_a_point_together():
    # Channel 2 * anchor + column, at two points of one row.
    level = torch.arange(8.0).view(1, 4, 1, 2)
    assert rows(level, 2).tolist() == [[[0, 2], [4, 6], [1, 3], [5, 7]]]


def test_implicit_objectness_does_not_overflow():
    cls, obj = torch.tensor([[900.0, -800.0, 0.0]]), torch.tensor([[800.0]])
    assert implicit_objectness(cls, obj).tolist() == [[800.0, -800.0, 0.0]]


@pytest.mark.parametrize("extra_from", ["output", "input", "pool"])
@pytest.mark.parametrize("keep", [None, 1, 2])
@pytest.mark.parametrize("name", NECKS)
def test_necks(name, keep, extra_from):
    """Levels of one width at halving sizes, odd ones too, and no parameter idle."""
    neck = NECKS[name]((4, 6, 8), 16, extra_levels=2, keep=keep, extra_from=extra_from)
    maps = [torch.randn(2, c, s, s) for c, s in ((4, 27), (6, 14), (8, 7))]
    levels = neck(maps)
    kept = [27, 14, 7][:keep]
    start = 7 if extra_from == "input" else kept[-1]
    further = [(start + 1) // 2, (start + 3) // 4]
    assert [tuple(level.shape) for level in levels] == [(2, 16, s, s) for s in kept + further]
    sum(level.sum() for level in levels).backward()
    assert [key for key, value in neck.named_parameters() if value.grad is None] == []


def test_only_the_two_pronged_neck_tells_coarse_levels_of_fine_ones():
    maps = [torch.randn(1, 4, s, s) for s in (16, 8, 4)]
    other = [maps[0] + 1, *maps[1:]]
    torch.manual_seed(0)
    for name, tells in (("fpn", False), ("two_pronged", True)):
        neck = NECKS[name]((4, 4, 4), 8)
        with torch.no_grad():
            assert neck(maps)[-1].equal(neck(other)[-1]) is not tells


def test_the_dilated_encoder_keeps_the_size():
    encoder = DilatedEncoder(6, 16, (1, 2), torch.nn.BatchNorm2d)
    assert encoder(torch.randn(2, 6, 5, 7)).shape == (2, 16, 5, 7)
    assert type(FeaturePyramid((4,), 8).extra) is torch.nn.ModuleList


def test_a_file_of_weights_fills_a_residual_network(tmp_path):
    torch.manual_seed(1)
    source = resnet18()
    save_file(source.state_dict(), tmp_path / "r18.safetensors")
    body, channels = stages("resnet18", str(tmp_path / "r18.safetensors"), 3, frozen_norm=True)
    assert channels == (64, 128, 256)
    assert body.layer3[0].conv1.weight.equal(source.layer3[0].conv1.weight)
    with pytest.raises(ModelError, match="does not fit the backbone"):
        stages("resnet34", str(tmp_path / "r18.safetensors"), 3, frozen_norm=True)
    with pytest.raises(MissingArtifactError, match="are missing"):
        stages("resnet18", str(tmp_path / "other.safetensors"), 3, frozen_norm=True)
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelError, match="not a safetensors file"):
        stages("resnet18", str(tmp_path / "bad.safetensors"), 3, frozen_norm=True)


@pytest.mark.parametrize(
    "name",
    ["mobilenetv3_small_050", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet10t", "convnext_atto"))],
)
def test_a_file_of_weights_fills_a_timm_network(tmp_path, name):
    """The extractor gives what the classifier computes, with frozen norms that stay frozen."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    source = timm.create_model(name).eval()
    save_file(source.state_dict(), tmp_path / "timm.safetensors")
    body, channels = stages(f"timm/{name}", str(tmp_path / "timm.safetensors"), 4, frozen_norm=True)
    body.train()
    assert not any(m.training for m in body.modules() if isinstance(m, torch.nn.BatchNorm2d))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found = body.eval()(image)
        expected = source.forward_intermediates(image, intermediates_only=True)[-4:]
    assert [level.shape[-1] for level in found.values()] == [16, 8, 4, 2]
    assert [level.shape[1] for level in found.values()] == list(channels)
    for level, want in zip(found.values(), expected, strict=True):
        if level.shape == want.shape:
            torch.testing.assert_close(level, want)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("timm/vit_tiny_patch16_224", None, "gives no features at strides 4 to 32"),
        pytest.param(
            "timm/swin_tiny_patch4_window7_224", None, "channels last|images of any size", marks=pytest.mark.slow
        ),
        ("timm/no_such_network", None, "gives no features"),
        ("timm/resnet10t", "IMAGENET1K_V1", "takes a .safetensors file or DEFAULT"),
        ("alexnet", None, "alexnet"),
        ("resnet17", None, "resnet17"),
    ],
)
def test_backbones_that_cannot_be(name, weights, message):
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=message):
        stages(name, weights, 4, frozen_norm=False)


def test_a_timm_backbone_without_timm_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    from wsi_detect.errors import MissingExtraError

    with pytest.raises(MissingExtraError, match=r"wsi-detect\[timm\]"):
        stages("timm/resnet10t", None, 2, frozen_norm=False)
