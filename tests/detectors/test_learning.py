"""Every detector learns two painted patches by heart, and copes with patches that hold nothing or are to be ignored."""

import pytest
import torch

from wsi_detect.detectors import DETECTORS, build_detector
from wsi_detect.evaluation.average_precision import ap50
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.testing.learned_contracts import painted_patches
from wsi_detect.testing.tiny_detectors import RATES, STEPS, TINY

CLASSES = ("NILM", "HSIL")
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def some(*quick):
    """All detectors, those that are not named as slow tests."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in DETECTORS]


def learned(name, images, targets):
    torch.manual_seed(0)
    model = build_detector(name, 2, TINY[name]).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATES[name])
    for _ in range(STEPS[name]):
        total = sum(model(images, targets).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    return model.eval()


def names_of(labels):
    return [CLASSES[k] for k in labels.tolist()]


def ap50_of(model, images, targets):
    with torch.no_grad():
        found = model(images)
    predictions, truths = [], []
    for k, (answer, target) in enumerate(zip(found, targets, strict=True)):
        truths.append(FieldTruth(str(k), 128, 128, target["boxes"].double().numpy(), names_of(target["labels"])))
        predictions.append(
            FieldPrediction(
                str(k), answer["boxes"].double().numpy(), answer["scores"].double().numpy(),
                names_of(answer["labels"]), answer["class_scores"].double().numpy(),
            )
        )  # fmt: skip
    return ap50(predictions, truths, CLASSES)["mean"]


@pytest.mark.parametrize("name", some("fcos", "retinanet"))
def test_two_patches_are_learned_by_heart(name):
    images, targets = painted_patches()
    assert ap50_of(learned(name, images, targets), images, targets) >= 0.95


@pytest.mark.parametrize("name", DETECTORS)
def test_ignored_boxes_are_no_background(name):
    """Where everything is to be ignored, an empty patch costs nothing; a cell in it still counts."""
    torch.manual_seed(0)
    model = build_detector(name, 2, TINY[name]).train()
    images, targets = painted_patches()
    # Anchors hang over the edge of the patch; so does the box.
    everywhere = torch.tensor([[-500.0, -500.0, 700.0, 700.0]])
    with torch.no_grad():
        plain = model(images, [NOTHING, NOTHING])
        hidden = model(images, [{**NOTHING, "ignore_boxes": everywhere}] * 2)
        cells = model(images, [{**target, "ignore_boxes": everywhere} for target in targets])
    assert plain["classification"] > 0
    assert hidden["classification"] == 0
    assert sum(hidden.values()) == 0
    assert cells["classification"] > 0
    assert cells["bbox_regression"] > 0


@pytest.mark.parametrize("name", DETECTORS)
def test_a_frozen_backbone_norm_keeps_its_statistics(name):
    torch.manual_seed(0)
    model = build_detector(name, 2, {**TINY[name], "frozen_norm": True}).train()
    before = {key: value.clone() for key, value in model.backbone.body.state_dict().items()}
    images, targets = painted_patches()
    sum(model(images, targets).values()).backward()
    after = model.backbone.body.state_dict()
    assert all(value.equal(after[key]) for key, value in before.items())
    assert not any(".bn" in key for key, _ in model.backbone.body.named_parameters())


@pytest.mark.parametrize("name", some("fcos", "reppoints"))
def test_half_precision_gives_finite_losses_in_single(name):
    """What training asks for by default: convolutions in bfloat16, losses and scores in float32."""
    torch.manual_seed(0)
    model = build_detector(name, 2, TINY[name]).train()
    images, targets = painted_patches()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
        sum(losses.values()).backward()
        with torch.no_grad():
            found = model.eval()(images)
    assert all(value.dtype == torch.float32 and bool(torch.isfinite(value)) for value in losses.values())
    assert {answer["scores"].dtype for answer in found} == {torch.float32}
    assert all(bool(answer["finite"]) for answer in found)
