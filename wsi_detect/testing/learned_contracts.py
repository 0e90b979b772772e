"""The contract of detectors. Torch is imported when a check runs, not before."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wsi_detect.geometry import Box, box_iou
from wsi_detect.testing.painter import PaintedCell, boxes_of, paint_region
from wsi_detect.testing.promise import near, promise

if TYPE_CHECKING:
    from torch import Tensor, nn

_PATCH_PX = 128


def check_detector(build: Callable[[int], "nn.Module"], *, learning_rate: float = 2e-3, steps: int = 50) -> None:
    """Check a detector that keeps torchvision's contract; labels are 0 to K - 1.

    Losses are finite, with and without boxes, for uint8 and float alike; every parameter takes part; boxes without
    area and missing targets are refused; detections are well-formed, repeatable and independent of the rest of the
    batch; it learns two painted patches by heart; weights are saved and loaded; the part before
    suppression can be exported.

    Args:
        build: builds a tiny one for the given number of classes. The seed is set before each call.
        learning_rate: of the AdamW that over-fits it.
        steps: of that.

    Raises:
        ContractBrokenError: a clause does not hold.
    """
    images, targets = painted_patches()
    _check_training(build, images, targets)
    model = _overfitted(build, images, targets, learning_rate, steps)
    _check_answers(model, images)
    _check_learned(model, images, targets)
    _check_saving(build, model, images)
    _check_export(model, images)


def painted_patches() -> tuple[list["Tensor"], list[dict[str, "Tensor"]]]:
    """Two patches (3, 128, 128) uint8 of three cells each, classes 0 and 1."""
    import torch

    layouts = (
        (PaintedCell("NILM", Box(8, 10, 48, 50)), PaintedCell("HSIL", Box(70, 12, 114, 52)), _cell(36, 72)),
        (PaintedCell("HSIL", Box(14, 60, 58, 102)), PaintedCell("NILM", Box(66, 70, 108, 112)), _cell(50, 8)),
    )
    images, targets = [], []
    for cells in layouts:
        pixels = paint_region(cells, width=_PATCH_PX, height=_PATCH_PX)
        images.append(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
        labels = [int(cell.label == "HSIL") for cell in cells]
        targets.append({"boxes": torch.from_numpy(boxes_of(cells)).float(), "labels": torch.tensor(labels)})
    return images, targets


def _cell(x: float, y: float) -> PaintedCell:
    return PaintedCell("NILM", Box(x, y, x + 40, y + 40))


def _seeded(build: Callable[[int], "nn.Module"]) -> "nn.Module":
    import torch

    torch.manual_seed(0)
    return build(2)


def _check_training(
    build: Callable[[int], "nn.Module"], images: list["Tensor"], targets: list[dict[str, "Tensor"]]
) -> None:
    import torch

    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    cases = {"two patches": targets, "one patch without cells": [targets[0], nothing], "no cells": [nothing, nothing]}
    for what, case in cases.items():
        model = _seeded(build).train()
        losses = model(images, case)
        promise(isinstance(losses, dict) and bool(losses), "in training a detector returns a dict of losses")
        for name, value in losses.items():
            promise(value.ndim == 0 and bool(torch.isfinite(value)), f"loss {name} of {what} is not a finite scalar")
        sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        idle = [name for name, gradient in gradients.items() if gradient is None]
        promise(not idle, f"parameters that take no part break distributed training ({what}): {', '.join(idle[:3])}")
        finite = all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients.values())
        promise(finite, f"a gradient of {what} is not finite")
    as_float = _seeded(build).train()([image.float() / 255 for image in images], targets)
    as_bytes = _seeded(build).train()(images, targets)
    same = all(near(as_float[name].detach(), value.item()) for name, value in as_bytes.items())
    promise(same, "uint8 and float pixels differ")
    flat = {"boxes": torch.tensor([[5.0, 5.0, 5.0, 20.0]]), "labels": torch.tensor([0])}
    _refused(lambda: _seeded(build).train()(images[:1], [flat]), "a box without area")
    _refused(lambda: _seeded(build).train()(images), "training without targets")


def _refused(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except ValueError:
        return
    promise(False, f"{what} is not refused with a ValueError")


def _overfitted(
    build: Callable[[int], "nn.Module"],
    images: list["Tensor"],
    targets: list[dict[str, "Tensor"]],
    learning_rate: float,
    steps: int,
) -> "nn.Module":
    import torch

    model = _seeded(build).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    history = []
    for _ in range(steps):
        total = sum(model(images, targets).values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        history.append(total.item())
    promise(history[-1] < 0.5 * history[0], f"the loss fell only from {history[0]:.3f} to {history[-1]:.3f}")
    return model.eval()


def _answers(model: "nn.Module", images: Sequence["Tensor"]) -> list[dict[str, "Tensor"]]:
    import torch

    with torch.inference_mode():
        found: list[dict[str, Tensor]] = model(list(images))
    return found


def _check_answers(model: "nn.Module", images: list["Tensor"]) -> None:
    import torch

    found = _answers(model, images)
    promise(len(found) == len(images), "one answer for each image")
    for answer in found:
        boxes, scores, labels = answer["boxes"], answer["scores"], answer["labels"]
        count = len(scores)
        promise(boxes.shape == (count, 4) and labels.shape == (count,), "boxes, scores and labels differ in number")
        promise(labels.dtype == torch.int64 and bool(((labels >= 0) & (labels < 2)).all()), "labels are 0 to K - 1")
        promise(bool(((scores >= 0) & (scores <= 1)).all()), "scores lie in [0, 1]")
        promise(bool((scores[1:] <= scores[:-1]).all()), "detections are sorted, best first")
        promise(bool(((boxes >= 0) & (boxes <= _PATCH_PX)).all()), "boxes lie in the image")
        promise(bool((boxes[:, 2:] >= boxes[:, :2]).all()), "boxes are xyxy")
        promise(answer["class_scores"].shape == (count, 2), "class_scores are (N, K)")
    for image, together in zip(images, found, strict=True):
        (alone,) = _answers(model, [image])
        same = len(alone["scores"]) == len(together["scores"])
        close = same and bool(torch.allclose(alone["boxes"], together["boxes"], atol=0.05))
        promise(close, "an image is judged differently in company")
    again = _answers(model, images)
    promise(all(a["boxes"].equal(b["boxes"]) for a, b in zip(found, again, strict=True)), "answers are not repeatable")


def _check_learned(model: "nn.Module", images: list["Tensor"], targets: list[dict[str, "Tensor"]]) -> None:
    for answer, target in zip(_answers(model, images), targets, strict=True):
        cells = len(target["boxes"])
        # The best few only: among hundreds of boxes some fit anything.
        overlap = box_iou(target["boxes"].numpy(), answer["boxes"][: 2 * cells].numpy())
        right = target["labels"].numpy()[:, None] == answer["labels"][: 2 * cells].numpy()[None]
        missed = int((~((overlap >= 0.5) & right).any(axis=1)).sum())
        promise(missed == 0, f"after training on two patches, {missed} of {cells} cells are missed")


def _check_saving(build: Callable[[int], "nn.Module"], model: "nn.Module", images: list["Tensor"]) -> None:
    other = build(2).eval()
    other.load_state_dict(model.state_dict())
    pairs = zip(_answers(model, images), _answers(other, images), strict=True)
    promise(all(a["scores"].equal(b["scores"]) for a, b in pairs), "the weights do not hold the whole model")


def _check_export(model: "nn.Module", images: "list[Tensor]") -> None:
    """Suppression has an output of unknown size; everything before it must be one graph, for any number of images."""
    import torch

    from wsi_detect.detectors.dense import DensePart

    part = DensePart(model).eval()
    batch = torch.stack(list(images))
    graph = torch.export.export(part, (batch,), dynamic_shapes=({0: torch.export.Dim("images", max=64)},)).module()
    for given in (batch, batch[:1], torch.cat([batch, batch.flip(-1)])):
        with torch.inference_mode():
            pairs = zip(graph(given), part(given), strict=True)
            same = all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in pairs)
        promise(same, f"the exported graph gives other numbers for {len(given)} images")
