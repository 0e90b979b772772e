"""Assignment, ignored regions, selection and input scale of the dense detector, with answers written out."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from wsi_detect.detectors import build_detector
from wsi_detect.detectors.assign import assign_centre, inside_any
from wsi_detect.detectors.fcos import fcos
from wsi_detect.detectors.points import pyramid_points
from wsi_detect.errors import ConfigError, UnknownKeyError

TINY = {
    "first_stage": 2,
    "last_stage": 3,
    "extra_levels": 0,
    "keep_levels": 1,
    "channels": 32,
    "tower_depth": 1,
    "norm": "batch",
}


def grid(side=8, stride=8):
    return pyramid_points([(side, side)], [stride], torch.device("cpu"))


def test_points_start_at_zero_row_by_row():
    points = pyramid_points([(2, 3), (1, 1)], [8, 16], torch.device("cpu"))
    assert points.xy.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8], [0, 0]]
    assert points.stride.tolist() == [8] * 6 + [16]


def test_a_box_claims_the_points_near_its_centre():
    # Centre (24, 24), radius 12: the 3 x 3 points at 16, 24, 32.
    matched = assign_centre(grid(), torch.tensor([[4.0, 4.0, 44.0, 44.0]]))
    assert torch.where(matched == 0)[0].tolist() == [8 * y + x for y in (2, 3, 4) for x in (2, 3, 4)]


def test_the_smaller_box_wins_and_equals_go_to_the_first():
    big, small = [0.0, 0.0, 48.0, 48.0], [14.0, 14.0, 34.0, 34.0]
    assert assign_centre(grid(), torch.tensor([big, small]))[8 * 3 + 3] == 1
    assert assign_centre(grid(), torch.tensor([small, small]))[8 * 3 + 3] == 0


def test_a_distance_of_exactly_the_limit_belongs_to_no_level():
    points = pyramid_points([(32, 32), (16, 16)], [8, 16], torch.device("cpu"))
    # Every distance from (64, 64) is 64: neither below 64 on the first level nor above it on the second.
    matched = assign_centre(points, torch.tensor([[0.0, 0.0, 128.0, 128.0]]))
    at = (points.xy == 64).all(dim=1)
    assert matched[at].tolist() == [-1, -1]


def test_no_boxes_means_all_background():
    assert assign_centre(grid(), torch.zeros(0, 4)).unique().tolist() == [-1]
    assert not inside_any(grid().xy, torch.zeros(0, 4)).any()


def test_ignored_boxes_take_no_part_in_the_classification_loss():
    torch.manual_seed(0)
    model = fcos(2, TINY).train()
    images = [torch.rand(3, 64, 64)]
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    everywhere = {**target, "ignore_boxes": torch.tensor([[-1.0, -1.0, 65.0, 65.0]])}
    with torch.no_grad():
        assert model(images, [target])["classification"] > 0
        assert model(images, [everywhere])["classification"] == 0


def test_a_box_without_area_is_refused():
    model = fcos(2, TINY).train()
    target = {"boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]]), "labels": torch.tensor([0])}
    with pytest.raises(ValueError, match="image 0 of the batch has a box without area"):
        model([torch.rand(3, 64, 64)], [target])


@pytest.mark.parametrize(("nms", "expected"), [("class", [(0, 0.9), (1, 0.8)]), ("agnostic", [(0, 0.9)])])
def test_selection(nms, expected):
    model = fcos(2, {**TINY, "selection": {"score_threshold": 0.3, "nms": nms}})
    points = pyramid_points([(1, 3)], [8], torch.device("cpu"))
    boxes = torch.tensor([[0.0, 0, 20, 20], [1, 0, 21, 20], [-5, 40, 20, 90]])
    scores = torch.tensor([[0.9, 0.2], [0.5, 0.8], [0.1, 0.3]])
    found = model.select(boxes, scores, points, (64, 64))
    got = [(int(k), round(float(s), 3)) for k, s in zip(found["labels"], found["scores"], strict=True)]
    assert got == expected
    assert found["class_scores"][0].tolist() == pytest.approx([0.9, 0.2])


def test_half_scale_boxes_come_back_in_patch_px():
    torch.manual_seed(0)
    options = {**TINY, "input_scale": 0.5, "prior": 0.9}
    model = fcos(1, options).eval()
    with torch.no_grad():
        found = model([torch.randint(0, 255, (3, 128, 128), dtype=torch.uint8)])[0]
        levels = model.backbone(model.prepare([torch.zeros(3, 128, 128)]))
    assert levels[0].shape[-2:] == (8, 8)
    assert len(found["boxes"]) > 0
    assert found["boxes"].max() > 64
    assert found["boxes"].max() <= 128


def test_uint8_and_float_images_are_the_same_image():
    model = fcos(1, TINY).eval()
    pixels = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(model.prepare([pixels]), model.prepare([pixels.float() / 255]))


def test_images_of_several_sizes_share_a_padded_batch():
    model = fcos(1, TINY).eval()
    small, large = torch.rand(3, 40, 70), torch.rand(3, 64, 30)
    batch = model.prepare([small, large])
    assert batch.shape == (2, 3, 64, 96)
    torch.testing.assert_close(batch[0, :, :40, :70], model.prepare([small])[0, :, :40, :70])
    assert batch[0, :, 40:].abs().max() == batch[1, :, :, 30:].abs().max() == 0


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="unknown detector 'yolo'"):
        build_detector("yolo", 2, {})
    with pytest.raises(UnknownKeyError, match=r"did you mean 'channels'"):
        build_detector("fcos", 2, {"chanels": 3})
    with pytest.raises(ConfigError, match="backbone"):
        build_detector("fcos", 2, {"backbone": "resnet17"})


def test_cost_can_be_counted():
    model = fcos(6, {**TINY, "channels": 128, "tower_depth": 2, "input_scale": 0.5}).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model([torch.zeros(3, 1024, 1024, dtype=torch.uint8)])
    assert 5e9 < counter.get_total_flops() < 150e9
