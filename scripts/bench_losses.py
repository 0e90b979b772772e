"""What a classification loss adds to a training step of FCOS, against the focal loss.

    python scripts/bench_losses.py

Two detectors, 6 classes, random pixels with 30 boxes a patch of 512 px, one thread, CPU milliseconds:

* `bundled`: the architecture of the bundled detector (half resolution inside, one level), 4 patches a step;
* `pyramid`: full resolution, five levels, 1 patch a step: five times the points a patch.

A step is forward and backward, without the optimiser. Losses take turns on the same weights and the same batch.
`against focal` compares whole steps. `added` compares the losses alone, forward and backward on the logits of that
step, with the step of the focal loss: the same quantity without the noise of the convolutions, and what the goal is
held against.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import bench_common
import torch
from torch import Tensor, nn

from wsi_detect.detectors import build_detector
from wsi_detect.losses import DENSE, LOSSES, ClassCounts, make_loss

CLASSES, BOXES, SIDE = 6, 30, 512
#: As of cervical cytology: the head class has 60 times the cells of the rarest.
COUNTS = ClassCounts((3000.0, 1200.0, 600.0, 300.0, 120.0, 50.0), (400.0, 250.0, 150.0, 80.0, 40.0, 15.0), 800.0)
GOAL = 3.0

#: Name → options of the detector, patches a step.
DETECTORS: dict[str, tuple[dict[str, Any], int]] = {
    "bundled": (
        {
            "first_stage": 2, "last_stage": 3, "extra_levels": 0, "keep_levels": 1, "channels": 128,
            "tower_depth": 2, "norm": "batch", "input_scale": 0.5,
        },
        4,
    ),
    "pyramid": ({"channels": 128, "tower_depth": 2}, 1),
}  # fmt: skip

#: Further forms of the loss the goal is about.
FORMS: dict[str, dict[str, Any]] = {
    "grad_libra, gradient": {"form": "gradient"},
    "grad_libra, detached": {"detach_weight": True},
    "grad_libra, sin2pi": {"hardness": "sin2pi"},
}


class Recorded(nn.Module):
    """Stands in a head's loss, and keeps what the head gave it."""

    def __init__(self) -> None:
        super().__init__()
        self.given: tuple[Tensor, Tensor, dict[str, Any]] | None = None

    def forward(self, logits: Tensor, targets: Tensor, **rest: Any) -> Tensor:
        """Keep the arguments; return something to go backward from."""
        self.given = logits.detach(), targets, rest
        return logits.sum() * 0


def losses() -> dict[str, nn.Module]:
    """Every loss that fits a dense head, focal first."""
    found: dict[str, nn.Module] = {}
    for name in sorted(LOSSES, key=lambda name: name != "focal"):
        if getattr(LOSSES[name], "kind", "sigmoid") in DENSE:
            needs = getattr(LOSSES[name], "needs", ())
            found[name] = make_loss(name, CLASSES, {"class_counts": COUNTS} if "class_counts" in needs else {})
    return found | {name: make_loss("grad_libra", CLASSES, options) for name, options in FORMS.items()}


def batch(size: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Patches of noise and boxes of 30 to 90 px, classes as frequent as in `COUNTS`."""
    maker = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, SIDE, SIDE), generator=maker, dtype=torch.uint8) for _ in range(size)]
    targets = []
    for _ in range(size):
        low = torch.rand(BOXES, 2, generator=maker) * (SIDE - 90)
        boxes = torch.cat([low, low + 30 + 60 * torch.rand(BOXES, 2, generator=maker)], dim=1)
        labels = torch.multinomial(torch.tensor(COUNTS.cells), BOXES, replacement=True, generator=maker)
        targets.append({"boxes": boxes, "labels": labels})
    return images, targets


def step(model: nn.Module, loss: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> float:
    """CPU milliseconds of forward and backward."""
    model.head.loss = loss  # type: ignore[union-attr]
    model.zero_grad()
    start = time.process_time()
    torch.stack(list(model(images, targets).values())).sum().backward()
    return (time.process_time() - start) * 1e3


def alone(loss: nn.Module, given: tuple[Tensor, Tensor, Mapping[str, Any]], repeats: int) -> float:
    """CPU milliseconds of the loss by itself, forward and backward, mean of several."""
    logits, targets, rest = given
    start = time.process_time()
    for _ in range(repeats):
        leaf = logits.clone().requires_grad_()
        loss(leaf, targets, **rest).backward()
    return (time.process_time() - start) * 1e3 / repeats


def measure(name: str, rounds: int, repeats: int, size: int) -> dict[str, float]:
    """Medians of one detector: `step/<detector>/<loss>` and `loss/<detector>/<loss>`, milliseconds."""
    options, _ = DETECTORS[name]
    torch.manual_seed(0)
    model = build_detector("fcos", CLASSES, options).train()
    images, targets = batch(size)
    recorder = Recorded()
    step(model, recorder, images, targets)
    if recorder.given is None:
        raise RuntimeError("the head did not call its loss")
    cases: dict[str, Callable[[], float]] = {}
    for loss_name, loss in losses().items():
        cases[f"step/{name}/{loss_name}"] = partial(step, model, loss, images, targets)
        cases[f"loss/{name}/{loss_name}"] = partial(alone, loss, recorder.given, repeats)
    return bench_common.medians(cases, rounds)


def compared(found: Mapping[str, float], name: str) -> dict[str, float]:
    """Percent of the focal loss's step: `against_focal/...` from whole steps, `added/...` from the losses alone."""
    base, focal = found[f"step/{name}/focal"], found[f"loss/{name}/focal"]
    results = {}
    for loss in losses():
        results[f"against_focal/{name}/{loss}"] = (found[f"step/{name}/{loss}"] / base - 1) * 100
        results[f"added/{name}/{loss}"] = (found[f"loss/{name}/{loss}"] - focal) / base * 100
    return results


def main() -> None:
    """Measure, print, write."""
    options = bench_common.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    rounds, repeats = (1, 3) if options.quick else (7, 10)
    results: dict[str, float] = {}
    print(bench_common.machine())
    for name in ("bundled",) if options.quick else DETECTORS:
        found = measure(name, rounds, repeats, 1 if options.quick else DETECTORS[name][1])
        results |= found | compared(found, name)
        rows = [
            {
                f"{name}: loss": loss,
                "step, ms": results[f"step/{name}/{loss}"],
                "against focal, %": f"{results[f'against_focal/{name}/{loss}']:+.1f}",
                "loss alone, ms": results[f"loss/{name}/{loss}"],
                "added, %": f"{results[f'added/{name}/{loss}']:+.2f}",
            }
            for loss in losses()
        ]
        print(bench_common.table(rows))
        worst = max(results[f"added/{name}/{loss}"] for loss in ("grad_libra", *FORMS))
        print(f"grad_libra adds to a step: goal < {GOAL:g} %: {worst:.2f} {'ok' if worst < GOAL else 'MISSED'}")
    bench_common.emit(results, options.json)


if __name__ == "__main__":
    main()
