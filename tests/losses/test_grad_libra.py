"""Grad-Libra: the written-out gradient, its limits, and what its two alphas do."""

import math

import numpy as np
import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from wsi_detect.losses import LOSSES, GradLibraLoss
from wsi_detect.losses.grad_libra import hardness_of

LOGITS = [-4.0, -1.0, 0.0, 0.5, 3.0]


def run(loss, logits, targets, valid=None, normaliser=1.0):
    rows = len(logits)
    valid = torch.ones(rows, dtype=torch.bool) if valid is None else valid
    return loss(logits, targets, valid=valid, image=torch.zeros(rows, dtype=torch.int64), normaliser=normaliser)


def hardness(g, a, kind):
    if kind == "sin":
        return g - a * math.sin(g), 1 - a * math.cos(g)
    return g - a * math.sin(2 * math.pi * g) / (2 * math.pi), 1 - a * math.cos(2 * math.pi * g)


@pytest.mark.parametrize("kind", ["sin", "sin2pi"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("y", [0.0, 1.0])
@pytest.mark.parametrize("z", LOGITS)
def test_gradient_is_the_one_written_down(z, y, detach, kind):
    logits = torch.tensor([[z]], dtype=torch.float64, requires_grad=True)
    loss = LOSSES["grad_libra"](alpha_pos=0.3, alpha_neg=0.8, detach_weight=detach, hardness=kind)
    run(loss, logits, torch.tensor([[y]], dtype=torch.float64)).backward()
    p = 1 / (1 + math.exp(-z))
    f, slope = hardness(1 - p if y else p, 0.3 if y else 0.8, kind)
    if detach:
        expected = f * (p - y)
    elif y:
        expected = (1 - p) * (p * slope * math.log(p) - f)
    else:
        expected = p * (f - (1 - p) * slope * math.log(1 - p))
    assert logits.grad.item() == pytest.approx(expected, rel=1e-9)


def test_alpha_zero_is_focal_with_gamma_one():
    torch.manual_seed(0)
    logits, targets = torch.randn(40, 6), (torch.rand(40, 6) < 0.1).float()
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=1, reduction="sum") / 7
    torch.testing.assert_close(run(GradLibraLoss(alpha_pos=0, alpha_neg=0), logits, targets, normaliser=7.0), expected)


def test_alpha_one_is_a_sixth_of_focal_with_gamma_three_when_easy():
    logits, targets = torch.full((1, 1), -4.0, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    focal = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=3, reduction="sum") / 6
    assert run(GradLibraLoss(alpha_pos=1, alpha_neg=1), logits, targets).item() == pytest.approx(focal.item(), rel=1e-3)


def test_lower_alpha_for_positives_raises_them():
    """With alphas (0, 1) a negative at p = 0.1 weighs 1.7e-4, a positive of the same hardness 0.1."""
    hard = math.log(0.1 / 0.9)
    negative = run(GradLibraLoss(alpha_pos=0, alpha_neg=1), torch.tensor([[hard]]), torch.zeros(1, 1))
    positive = run(GradLibraLoss(alpha_pos=0, alpha_neg=1), torch.tensor([[-hard]]), torch.ones(1, 1))
    entropy = -math.log(0.9)
    assert negative.item() / entropy == pytest.approx(1.666e-4, rel=1e-2)
    assert positive.item() / entropy == pytest.approx(0.1, rel=1e-5)


def test_sin2pi_keeps_the_scale():
    for alpha in (0.0, 0.5, 1.0):
        value = run(
            GradLibraLoss(alpha_pos=alpha, alpha_neg=alpha, hardness="sin2pi"), torch.zeros(1, 1), torch.ones(1, 1)
        )
        assert value.item() == pytest.approx(0.5 * math.log(2), rel=1e-6)


def test_per_class_alphas():
    loss = GradLibraLoss(per_class_alpha=([0.0, 1.0], [0.5, 0.5]))
    value = run(loss, torch.zeros(1, 2), torch.ones(1, 2))
    expected = (0.5 + 0.5 - math.sin(0.5)) * math.log(2)
    assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["weight", "gradient", "mean_weight"])
def test_ignored_rows_do_not_count_even_when_infinite(form):
    logits = torch.tensor([[0.0], [math.inf]], requires_grad=True)
    valid = torch.tensor([True, False])
    value = run(GradLibraLoss(form=form), logits, torch.zeros(2, 1), valid=valid)
    value.backward()
    assert math.isfinite(value.item())
    assert logits.grad[0].item() != 0
    assert logits.grad[1].item() == 0


@pytest.mark.parametrize("kind", ["sin", "sin2pi"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("y", [0.0, 1.0])
@pytest.mark.parametrize("z", [-30.0, -4.0, -1.0, 0.0, 0.5, 3.0, 12.0])
def test_shaped_gradient_is_the_hardness_and_the_loss_its_integral(z, y, alpha, kind):
    def value(at):
        loss = GradLibraLoss(alpha_pos=alpha, alpha_neg=alpha, hardness=kind, form="gradient")
        return run(loss, at, torch.tensor([[y]], dtype=torch.float64))

    logits = torch.tensor([[z]], dtype=torch.float64, requires_grad=True)
    value(logits).backward()
    g = 1 / (1 + math.exp(z if y else -z))
    expected = hardness(g, alpha, kind)[0] * (-1 if y else 1)
    assert logits.grad.item() == pytest.approx(expected, rel=1e-9, abs=1e-15)
    # The integral, by Simpson's rule from where the loss is 0 (a correct logit of 40).
    grid = np.linspace(40.0 if y else -40.0, z, 20001)
    norms = 1 / (1 + np.exp(grid if y else -grid))
    slopes = np.array([hardness(norm, alpha, kind)[0] for norm in norms]) * (-1 if y else 1)
    assert value(logits).item() == pytest.approx(simpson(slopes, grid), rel=1e-7, abs=1e-12)


def simpson(values, grid):
    step = grid[1] - grid[0]
    return step / 3 * (values[0] + values[-1] + 4 * values[1:-1:2].sum() + 2 * values[2:-1:2].sum())


@pytest.mark.parametrize("kind", ["sin", "sin2pi"])
def test_shaped_gradient_with_alpha_zero_is_cross_entropy(kind):
    torch.manual_seed(0)
    logits, targets = torch.randn(40, 6) * 5, (torch.rand(40, 6) < 0.1).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / 7
    loss = GradLibraLoss(alpha_pos=0, alpha_neg=0, hardness=kind, form="gradient")
    torch.testing.assert_close(run(loss, logits, targets, normaliser=7.0), expected)


def test_hardness_of_easy_entries_is_not_lost_in_float32():
    """At alpha 1 it is g^3 / 6: of g - sin(g) in float32 nothing is left at g = 1e-4."""
    g = torch.tensor([1e-4, 1e-2, 1.0])
    assert hardness_of(g, torch.ones(3), "sin").tolist() == pytest.approx([1e-12 / 6, 1.66665e-7, 1 - math.sin(1)])


def test_mean_weight_keeps_the_scale_and_drops_the_hardness():
    """Positives at g = 0.5 and 0.25, negatives at 0.5 and 0.1 (alpha 0, so f = g): means 0.375 and 0.3."""
    logits = torch.tensor([[0.0], [math.log(3)], [0.0], [-math.log(9)], [50.0]], requires_grad=True)
    targets = torch.tensor([[1.0], [1.0], [0.0], [0.0], [0.0]])
    valid = torch.tensor([True, True, True, True, False])
    loss = GradLibraLoss(alpha_pos=0, alpha_neg=0, form="mean_weight")
    value = run(loss, logits, targets, valid=valid)
    half, quarter, tenth = math.log(2), -math.log(0.75), -math.log(0.9)
    assert value.item() == pytest.approx(0.375 * (half + quarter) + 0.3 * (half + tenth), rel=1e-6)
    value.backward()
    assert logits.grad[:, 0].tolist() == pytest.approx([-0.375 * 0.5, -0.375 * 0.25, 0.3 * 0.5, 0.3 * 0.1, 0], rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha_pos": -0.1},
        {"alpha_neg": 1.5},
        {"hardness": "cos"},
        {"form": "loss"},
        {"form": "gradient", "detach_weight": True},
    ],
)
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=r"alphas must lie|hardness must be|form must be|belongs to the form"):
        GradLibraLoss(**options)
