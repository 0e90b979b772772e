"""RetinaNet and Faster R-CNN from the same weights as torchvision's: the same losses, gradients and detections."""

import pytest
import torch
from torchvision.models import detection, resnet18
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from wsi_detect.detectors.faster_rcnn import faster_rcnn
from wsi_detect.detectors.retinanet import retinanet

SIDE = 128
CLASSES = 6
RENAMES = (
    ("backbone.body.", "backbone.body."),
    ("backbone.fpn.extra_blocks.p6.", "backbone.pyramid.extra.0."),
    ("backbone.fpn.extra_blocks.p7.", "backbone.pyramid.extra.1."),
    ("head.classification_head.cls_logits.", "head.cls."),
    ("head.regression_head.bbox_reg.", "head.box."),
    ("rpn.head.cls_logits.", "proposer.obj."),
    ("rpn.head.bbox_pred.", "proposer.box."),
    ("roi_heads.box_head.", "head.layers."),
    ("roi_heads.box_predictor.cls_score.", "head.cls."),
    ("roi_heads.box_predictor.bbox_pred.", "head.box."),
)
#: Their tower of (convolution, activation) pairs, counted in pairs; ours counts convolution, norm, activation.
TOWERS = (
    ("head.classification_head.conv.", "head.cls_tower."),
    ("head.regression_head.conv.", "head.box_tower."),
    ("rpn.head.conv.", "proposer.tower."),
)


def own_key(key):
    for theirs, ours in TOWERS:
        if key.startswith(theirs):
            pair, _, name = key.removeprefix(theirs).split(".")
            return f"{ours}{3 * int(pair)}.{name}"
    for theirs, ours in RENAMES:
        if key.startswith(theirs):
            return key.replace(theirs, ours)
    block, level, _, name = key.removeprefix("backbone.fpn.").split(".")
    return f"backbone.pyramid.{'lateral' if block == 'inner_blocks' else 'smooth'}.{level}.{name}"


def own_value(key, value):
    """Their background is class 0 and has a box; ours is the last class and has none."""
    if key.startswith("roi_heads.box_predictor.cls_score."):
        return value.roll(-1, dims=0)
    return value[4:] if key.startswith("roi_heads.box_predictor.bbox_pred.") else value


def spread(layer, std):
    """Random heads give flat scores; spread them so that the selection has something to choose from."""
    torch.nn.init.normal_(layer.weight, std=std)


@pytest.fixture(scope="module")
def retinanets():
    torch.manual_seed(0)
    body = _resnet_fpn_extractor(resnet18(), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    theirs = detection.RetinaNet(body, num_classes=CLASSES, min_size=SIDE, max_size=SIDE)
    spread(theirs.head.classification_head.cls_logits, 0.2)
    torch.nn.init.constant_(theirs.head.classification_head.cls_logits.bias, -1.0)
    return theirs, retinanet(CLASSES), 0


@pytest.fixture(scope="module")
def faster_rcnns():
    torch.manual_seed(0)
    body = _resnet_fpn_extractor(resnet18(), 5, returned_layers=[1, 2, 3, 4], extra_blocks=LastLevelMaxPool())
    # Fewer proposals and narrower layers than the defaults of both: the arithmetic is the same, in a tenth of the time.
    theirs = detection.FasterRCNN(
        body, box_head=TwoMLPHead(256 * 49, 64), box_predictor=FastRCNNPredictor(64, CLASSES + 1), min_size=SIDE,
        max_size=SIDE, rpn_post_nms_top_n_train=200, rpn_post_nms_top_n_test=200, box_batch_size_per_image=128,
    )  # fmt: skip
    spread(theirs.roi_heads.box_predictor.cls_score, 0.2)
    spread(theirs.roi_heads.box_predictor.bbox_pred, 0.02)
    spread(theirs.rpn.head.cls_logits, 0.2)
    # Ours stops at so many candidates, theirs does not.
    selection = {"detections_per_image": 100, "candidates_per_level": 100000}
    head = {"width": 64, "sampled": 128, "proposals": {"after": 200, "after_test": 200}}
    ours = faster_rcnn(CLASSES, {"selection": selection, "head": head})
    return theirs, ours, 1


@pytest.fixture(params=["retinanets", "faster_rcnns"])
def pair(request):
    theirs, ours, shift = request.getfixturevalue(request.param)
    ours.load_state_dict({own_key(key): own_value(key, value) for key, value in theirs.state_dict().items()})
    return theirs, ours, shift


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


#: Their names of the losses.
NAMES = {
    "loss_classifier": "classification",
    "loss_box_reg": "bbox_regression",
    "loss_objectness": "proposal_objectness",
    "loss_rpn_box_reg": "proposal_boxes",
}


def test_losses_and_gradients(pair, batch):
    theirs, ours, shift = pair
    images, targets = batch
    shifted = [{**target, "labels": target["labels"] + shift} for target in targets]
    # Anchors and proposals are drawn at random, by both in the same order.
    torch.manual_seed(2)
    expected = theirs.train()(images, shifted)
    torch.manual_seed(2)
    for _ in images:
        torch.empty(1).uniform_()  # they draw a size for each image, of the one there is
    got = ours.train()(images, targets)
    assert set(got) == {NAMES.get(name, name) for name in expected}
    for name, value in expected.items():
        torch.testing.assert_close(got[NAMES.get(name, name)], value, rtol=1e-6, atol=1e-6)
    sum(expected.values()).backward()
    sum(got.values()).backward()
    own = dict(ours.named_parameters())
    compared = 0
    for key, parameter in theirs.named_parameters():
        wanted = own_value(key, parameter.grad)
        # Sums over thousands of anchors are made in another order: an entry near zero is as exact as the largest.
        torch.testing.assert_close(own[own_key(key)].grad, wanted, rtol=1e-4, atol=2e-6 * float(wanted.abs().max() + 1))
        compared += 1
    assert compared == len(own)


def test_detections(pair, batch):
    theirs, ours, shift = pair
    images, _ = batch
    with torch.no_grad():
        expected = theirs.eval()(images)
        got = ours.eval()(images)
    for want, have in zip(expected, got, strict=True):
        assert len(want["boxes"]) > 20
        torch.testing.assert_close(have["boxes"], want["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(have["scores"], want["scores"], rtol=1e-5, atol=1e-6)
        assert (have["labels"] + shift).tolist() == want["labels"].tolist()
