"""FCOS from the same weights as torchvision's: the same losses, gradients and detections."""

import pytest
import torch
from torchvision.models import detection, resnet18
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from wsi_detect.detectors.fcos import fcos

SIDE = 128
RENAMES = (
    ("backbone.body.", "backbone.body."),
    ("backbone.fpn.extra_blocks.p6.", "backbone.pyramid.extra.0."),
    ("backbone.fpn.extra_blocks.p7.", "backbone.pyramid.extra.1."),
    ("head.classification_head.conv.", "head.cls_tower."),
    ("head.classification_head.cls_logits.", "head.cls."),
    ("head.regression_head.conv.", "head.box_tower."),
    ("head.regression_head.bbox_reg.", "head.box."),
    ("head.regression_head.bbox_ctrness.", "head.ctr."),
)


def own_key(key: str) -> str:
    for theirs, ours in RENAMES:
        if key.startswith(theirs):
            return key.replace(theirs, ours)
    block, level, _, name = key.removeprefix("backbone.fpn.").split(".")
    return f"backbone.pyramid.{'lateral' if block == 'inner_blocks' else 'smooth'}.{level}.{name}"


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    body = _resnet_fpn_extractor(resnet18(), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    theirs = detection.FCOS(body, num_classes=6, min_size=SIDE, max_size=SIDE)
    # Random heads give flat scores; spread them so that the selection has something to choose from.
    torch.nn.init.normal_(theirs.head.classification_head.cls_logits.weight, std=0.2)
    torch.nn.init.constant_(theirs.head.classification_head.cls_logits.bias, -1.0)
    ours = fcos(6, {"selection": {"score_threshold": 0.2, "detections_per_image": 100}})
    ours.load_state_dict({own_key(key): value for key, value in theirs.state_dict().items()})
    return theirs, ours


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(1)
    images = [torch.rand(3, SIDE, SIDE) for _ in range(3)]
    corners = torch.tensor([[3, 5, 40, 44], [60, 20, 120, 70], [10, 70, 33, 99], [50, 75, 110, 126]]).float()
    targets = [
        {"boxes": corners, "labels": torch.tensor([0, 3, 5, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        {"boxes": corners[:1] + 20, "labels": torch.tensor([1])},
    ]
    return images, targets


def test_losses_and_gradients(pair, batch):
    theirs, ours = pair
    images, targets = batch
    # Buffers of batch norm move in training mode; both start from the same state here.
    expected = theirs.train()(images, targets)
    got = ours.train()(images, targets)
    assert set(got) == set(expected)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-6, atol=1e-6)
    sum(expected.values()).backward()
    sum(got.values()).backward()
    own = dict(ours.named_parameters())
    compared = 0
    for key, parameter in theirs.named_parameters():
        torch.testing.assert_close(own[own_key(key)].grad, parameter.grad, rtol=1e-4, atol=1e-6)
        compared += 1
    assert compared == len(own)


def test_detections(pair, batch):
    theirs, ours = pair
    images, _ = batch
    with torch.no_grad():
        expected = theirs.eval()(images)
        got = ours.eval()(images)
    for want, have in zip(expected, got, strict=True):
        assert len(want["boxes"]) > 20
        torch.testing.assert_close(have["boxes"], want["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(have["scores"], want["scores"], rtol=1e-5, atol=1e-6)
        assert have["labels"].tolist() == want["labels"].tolist()
