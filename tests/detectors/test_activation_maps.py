"""CAM, Grad-CAM++ and LayerCAM against numbers worked out by hand."""

import pytest
import torch
from torch import nn

from wsi_detect.detectors.activation_maps import (
    MAPPERS,
    grad_cam_pp_map,
    instance_probability,
    layer_cam_map,
    normalised,
)
from wsi_detect.detectors.heatmap import EvidenceModel, RegionClassifier, UNetDecoder


def _maps(*channels):
    """Channels of one row of places: (1, C, 1, W)."""
    return torch.tensor(channels, dtype=torch.float64)[None, :, None, :]


def test_maps_are_normalised_one_by_one_and_a_constant_one_is_0():
    maps = torch.tensor([[[1.0, 3.0], [5.0, 5.0]], [[2.0, 2.0], [2.0, 2.0]]])
    assert normalised(maps).tolist() == [[[0.0, 0.5], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]


@pytest.mark.parametrize(
    ("stage", "gradient", "expected"),
    [
        # g² = 1/4, 2 g² + g³ x 4 = 1/2 + 1/2, alpha = 1/4, w = 2 x 1/4 x 1/2.
        ([[1, 3]], [[0.5, 0.5]], [0.25, 0.75]),
        # A channel that speaks against the class has no weight, one without gradient none either.
        ([[1, 3], [9, 9], [7, 7]], [[0.5, 0.5], [-1, -1], [0, 0]], [0.25, 0.75]),
        # alpha = 1 / (2 + 2) where g is 1, and 0 where g is 0: w = 1/4.
        ([[2, 0]], [[1, 0]], [0.5, 0.0]),
        # What is left below 0 is cut off.
        ([[-1, 5]], [[0.5, 0.5]], [0.0, 1.25]),
    ],
)
def test_grad_cam_pp(stage, gradient, expected):
    assert grad_cam_pp_map(_maps(*stage), _maps(*gradient))[0, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("stage", "gradient", "expected"),
    [
        ([[2, 5]], [[1, -1]], [2.0, 0.0]),
        ([[2, 5], [4, -1]], [[1, -1], [0.5, 2]], [4.0, 0.0]),
        ([[2, 5], [4, 1]], [[1, 0.2], [0.5, 2]], [4.0, 3.0]),
    ],
)
def test_layer_cam(stage, gradient, expected):
    assert layer_cam_map(_maps(*stage), _maps(*gradient))[0, 0].tolist() == pytest.approx(expected)


class Stages(nn.Module):
    """In the place of an encoder: means of red, of green and of blue over 4 x 4 px."""

    def forward(self, batch):
        return {"layer1": nn.functional.avg_pool2d(batch, 4)}


@pytest.fixture
def model():
    model = EvidenceModel(RegionClassifier(Stages(), 3, 2), UNetDecoder([3], [4]), ("LSIL", "HSIL"), 4, 1.0)
    model.preparation.mean.zero_()
    model.preparation.std.fill_(1)
    with torch.no_grad():
        model.classifier.weigh.weight.copy_(torch.tensor([[1.0, -2.0, 0.0], [0.0, 4.0, 1.0]]))
        model.classifier.weigh.bias.copy_(torch.tensor([0.5, -3.0]))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        # Of the left place red is 1, of the right one green and a quarter of red. CAM: 1 and 1/4 - 2.
        ("cam", 0, [1.0, 0.0]),
        # 0 and 4.
        ("cam", 1, [0.0, 1.0]),
        # Green speaks against the first class and is left out: 1 and 1/4.
        ("layer_cam", 0, [1.0, 0.0]),
        ("layer_cam", 1, [0.0, 1.0]),
        ("grad_cam_pp", 0, [1.0, 0.0]),
        ("grad_cam_pp", 1, [0.0, 1.0]),
    ],
)
def test_maps_of_a_whole_model(model, name, column, expected):
    image = torch.zeros(1, 3, 32, 64)
    image[:, 0, :, :32] = 1
    image[:, 1, :, 32:] = 1
    image[:, 0, :, 32:] = 0.25
    before = {key: value.clone() for key, value in model.state_dict().items()}
    shown = MAPPERS[name](model, image, torch.tensor([column]))
    assert shown.shape == (1, 32, 64)
    assert not shown.requires_grad
    assert shown[0, 16, [0, 63]].tolist() == pytest.approx(expected, abs=1e-6)
    assert float(shown.min()) >= 0
    assert float(shown.max()) <= 1 + 1e-6
    # They look at the classifier and leave nothing behind in it.
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_map_of_instances_is_a_probability(model):
    image = torch.zeros(2, 3, 32, 32)
    image[1, 1] = 1
    shown = instance_probability(model, image, torch.tensor([1, 1]))
    # sigmoid(-3) and sigmoid(4 - 3), everywhere.
    assert shown[:, 5, 7].tolist() == pytest.approx([0.047426, 0.731059], abs=1e-5)
