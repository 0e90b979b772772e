"""Milliseconds a patch of every detector, to evaluate and to train on; beside torchvision's own of the same kind.

    python scripts/bench_detectors.py [--quick] [--json FILE] [--device cpu]

All have a ResNet-18 body from torchvision, a pyramid of 256 channels and six classes, all see the same patch of noise
with the same boxes. Weights are random and the score threshold is 1, so that suppression has nothing to do: what is
compared is the network and its decoding. Peers run in turn with ours; a ratio is ours over theirs.
"""

import time
from collections.abc import Callable

import bench_common
import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet18
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from wsi_detect.detectors import DETECTORS, build_detector

CLASSES = 6
CELLS = 40


def theirs(name: str, side: int) -> nn.Module | None:
    """Torchvision's detector of that name, if it has one."""
    if name == "faster_rcnn":
        body = _resnet_fpn_extractor(resnet18(), 5, returned_layers=[1, 2, 3, 4], extra_blocks=LastLevelMaxPool())
        return detection.FasterRCNN(body, CLASSES + 1, min_size=side, max_size=side, box_score_thresh=1.0)
    kinds = {"fcos": detection.FCOS, "retinanet": detection.RetinaNet}
    if name not in kinds:
        return None
    body = _resnet_fpn_extractor(resnet18(), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return kinds[name](body, num_classes=CLASSES, min_size=side, max_size=side, score_thresh=1.0)


def batch(side: int, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A patch of noise and cells of 20 to 100 px in it."""
    maker = torch.Generator().manual_seed(0)
    image = torch.rand(3, side, side, generator=maker)
    corner = torch.rand(CELLS, 2, generator=maker) * (side - 100)
    size = 20 + torch.rand(CELLS, 2, generator=maker) * 80
    labels = torch.randint(1, CLASSES, (CELLS,), generator=maker)
    target = {"boxes": torch.cat([corner, corner + size], dim=1), "labels": labels}
    return [image.to(device)], [{key: value.to(device) for key, value in target.items()}]


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1000


def cases(
    model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]], device: torch.device
) -> dict[str, Callable[[], float]]:
    """Evaluation and a training step of one model."""

    def evaluate() -> object:
        with torch.inference_mode():
            return model.eval()(images)

    def step() -> None:
        model.train().zero_grad()
        sum(model(images, targets).values()).backward()

    return {"evaluate": lambda: timed(evaluate, device), "step": lambda: timed(step, device)}


def main() -> None:
    """Measure, print, write."""
    options = bench_common.parser(__doc__)
    options.add_argument("--device", default="cpu", help="a PyTorch device (cpu)")
    options.add_argument("--side", type=int, default=512, help="side of the patch, px (512)")
    options.add_argument("--only", nargs="+", default=list(DETECTORS), choices=list(DETECTORS), help="detectors")
    given = options.parse_args()
    side, rounds = (128, 1) if given.quick else (given.side, 7)
    device = torch.device(given.device)
    images, targets = batch(side, device)
    figures: dict[str, float] = {}
    for name in given.only:
        torch.manual_seed(0)
        ours = build_detector(name, CLASSES, {"selection": {"score_threshold": 1.0}})
        models = {"ours": ours, "torchvision": theirs(name, side)}
        work = {
            f"{name}/{what}/{who}": case
            for who, model in models.items()
            if model is not None
            for what, case in cases(model.to(device), images, targets, device).items()
        }
        figures |= bench_common.medians(work, rounds)
        for what in ("evaluate", "step"):
            cell = f"{name}/{what}"
            figures |= bench_common.ratios(figures, [(f"{cell}/ratio", f"{cell}/ours", f"{cell}/torchvision")])
    columns = ("ours", "torchvision", "ratio")
    rows = [
        {"detector": name, "what": what, **{c: figures.get(f"{name}/{what}/{c}") for c in columns}}
        for name in given.only
        for what in ("evaluate", "step")
    ]
    print(f"{bench_common.machine()}; ms a patch of {side} px on {given.device}\n\n{bench_common.table(rows)}")
    bench_common.emit(figures, given.json)


if __name__ == "__main__":
    main()
