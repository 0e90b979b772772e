"""Box losses: worked numbers, nothing to compare, boxes that do not touch; the curve of the rectified IoU."""

import pytest
import torch

from wsi_detect.losses import BOX_LOSSES
from wsi_detect.losses.box import rectified, riou

SQUARE = [0.0, 0.0, 10.0, 10.0]


def box(*corners):
    return torch.tensor([corners], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "predicted", "expected"),
    [
        ("l1", (1.0, 0.0, 10.0, 12.0), 3.0),
        ("smooth_l1", (1.0, 0.0, 10.0, 10.05), 1 - 1 / 18 + 0.05**2 / 2 * 9),
        ("giou", (0.0, 0.0, 10.0, 5.0), 0.5),
        # Side by side with a gap of 10: IoU 0, a third of the enclosing box empty.
        ("giou", (20.0, 0.0, 30.0, 10.0), 1 + 1 / 3),
        ("riou", (20.0, 0.0, 30.0, 10.0), 1 + 1 / 3),
    ],
)
def test_worked_numbers(name, predicted, expected):
    assert BOX_LOSSES[name](box(*predicted), box(*SQUARE)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_a_perfect_box_costs_nothing_and_no_box_nothing(name):
    assert BOX_LOSSES[name](box(*SQUARE), box(*SQUARE)).item() == pytest.approx(0, abs=1e-6)
    nothing = torch.zeros(0, 4, requires_grad=True)
    value = BOX_LOSSES[name](nothing, torch.zeros(0, 4))
    value.backward()
    assert value.item() == 0
    assert nothing.grad.shape == (0, 4)


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_sums_over_boxes(name):
    torch.manual_seed(0)
    low = torch.rand(7, 2, dtype=torch.float64) * 20
    boxes = torch.cat([low, low + 5 + torch.rand(7, 2, dtype=torch.float64) * 20], dim=1)
    others = boxes + torch.rand(7, 4, dtype=torch.float64)
    each = sum(BOX_LOSSES[name](boxes[k : k + 1], others[k : k + 1]) for k in range(7))
    assert BOX_LOSSES[name](boxes, others).item() == pytest.approx(each.item(), rel=1e-9)


@pytest.mark.parametrize("name", BOX_LOSSES)
@pytest.mark.parametrize("predicted", [(200.0, 0.0, 230.0, 10.0), (3.0, 3.0, 3.0, 3.0), (0.0, 0.0, 1e4, 1e4)])
def test_gradients_are_finite_wherever_the_box_lies(name, predicted):
    corners = box(*predicted).float().requires_grad_()
    BOX_LOSSES[name](corners, box(*SQUARE).float()).backward()
    assert torch.isfinite(corners.grad).all()


def test_rectified_pulls_boxes_that_do_not_touch_together():
    corners = box(20.0, 0.0, 30.0, 10.0).requires_grad_()
    riou(corners, box(*SQUARE)).backward()
    assert corners.grad[0, 0] > 0


# --- the curve ------------------------------------------------------------------------------------------------------

#: b, slope at 0 → a, c, k, and so the slope just below and from beta = 0.95 on.
CURVES = {(1.2, 0.5): (0.59863, 0.00114, 47.9135), (1.1, 0.5): (0.40268, 0.13393, 56.3688),
          (1.2, 0.25): (0.88335, -0.48613, 60.9455)}  # fmt: skip


def slope(u, **options):
    at = torch.tensor(u, dtype=torch.float64, requires_grad=True)
    rectified(at, **options).backward()
    return -at.grad.item()


@pytest.mark.parametrize(("b", "start"), CURVES)
def test_curve(b, start):
    a, c, k = CURVES[b, start]
    options = {"b": b, "start": start}
    ends = rectified(torch.tensor([0.0, 1.0], dtype=torch.float64), **options).tolist()
    assert ends == pytest.approx([1.0, 0.0], abs=1e-12)
    assert slope(0.0, **options) == pytest.approx(start)
    for u in (0.1, 0.5, 0.9, 0.9499):
        assert slope(u, **options) == pytest.approx(a / (b - u) + c, rel=1e-4)
    for u in (0.95, 0.98, 1.0):
        assert slope(u, **options) == pytest.approx(k * (1 - u), rel=1e-4)
    assert slope(0.95 - 1e-9, **options) == pytest.approx(slope(0.95, **options), rel=1e-6)


def test_good_boxes_are_pulled_harder_than_bad_ones():
    assert slope(0.9) > slope(0.5) > slope(0.1)
    u = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert (rectified(u).diff() < 0).all()


@pytest.mark.parametrize("options", [{"beta": 1.0}, {"beta": 0.0}, {"b": 0.9}])
def test_a_curve_that_cannot_be(options):
    with pytest.raises(ValueError, match="rectified IoU"):
        rectified(torch.zeros(1), **options)
