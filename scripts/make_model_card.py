"""Measure a bundle on a split it was not trained on, and write its model card and figures.json.

    python scripts/make_model_card.py --bundle runs/all/bundle --coco val.json --images FIELDS --out models/NAME \
        --commit HASH [--floor runs/shuffled/bundle] [--input-scale 0.5]

The split is looked at here and nowhere before. The floor is the same detector trained on classes dealt out at random.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wsi_detect import artifact
from wsi_detect.detectors import build_detector
from wsi_detect.detectors.bundle import load_bundle, put_weights, save_bundle, trained_weights
from wsi_detect.detectors.info import CARD, WEIGHTS, DetectorInfo
from wsi_detect.evaluation.baseline import DarkBlobs
from wsi_detect.evaluation.evaluate import WholeImage, evaluate_fields
from wsi_detect.evaluation.fields import FieldDetector
from wsi_detect.evaluation.figures import EvaluationConfig
from wsi_detect.inference import RUNTIMES

SCALES = (0.8, 0.9, 1.1, 1.25)
SUMMARY = ("ap50/mean", "ap50/agnostic", "recall@1fppi/any_abnormal", "recall@4fppi/any_abnormal")
#: Average precision asks for the whole ranking, so nearly everything is kept.
THRESHOLD = 0.01
#: What runs on slides: one detection a cell, whatever the class.
#: At this score the recipe finds out of fold as many abnormal cells (84 %) as the one before it did at 0.25, with 9.5
#: false positives a field instead of 11.3 (scripts/operating_points.py).
SELECTION = {"nms": "agnostic", "nms_iou": 0.5, "score_threshold": 0.1}
#: Nothing in the network depends on the side of a patch; large ones have less overlap to examine twice.
PATCH_PX = 1024

Figures = dict[str, float | None]


def main(options: argparse.Namespace) -> None:
    """Write the bundle, its figures and its card."""
    model, info = load_bundle(options.bundle)
    changes: dict[str, Any] = {"selection": SELECTION}
    if options.input_scale != 1:
        changes["input_scale"] = options.input_scale
    detector = {**info.detector, "options": {**info.detector["options"], **changes}}
    how = {**info.training, "commit": options.commit, "command": options.command, "machine": options.machine}
    if options.input_scale != 1:
        # Same weights: what the tiler did to the patches in training, the network does to its input.
        scaled = build_detector(detector["name"], len(info.classes), detector["options"])
        if lost := put_weights(scaled, trained_weights(model)):
            raise SystemExit(f"{options.bundle}: {lost[0]} does not fit a network that shrinks its input")
        model, info = scaled, replace(info, mpp=info.mpp * options.input_scale)
    info = save_bundle(
        options.out,
        model,
        replace(info, detector=detector, training=how, patch_px=PATCH_PX, score_threshold=SELECTION["score_threshold"]),
        "",
        half=True,
    )
    figures: dict[str, Figures] = {"model": measure(_detector(options.out), options, 1.0)}
    figures |= {f"rescaled {scale:g}": measure(_detector(options.out), options, scale) for scale in SCALES}
    figures["dark blobs"] = measure(DarkBlobs(), options, 1.0)
    if options.floor:
        figures["shuffled classes"] = measure(_detector(options.floor), options, options.input_scale)
    artifact.write_json(options.out / "figures.json", figures)
    cost = {"gflop": gflop(model, 1024), "parameters": sum(p.numel() for p in model.parameters())}
    cost["megabytes"] = (options.out / WEIGHTS).stat().st_size / 1e6
    text = card(info, figures, cost, options)
    artifact.write_bytes(options.out / CARD, text.encode())
    print(text)


def measure(detector: FieldDetector, options: argparse.Namespace, scale: float) -> Figures:
    """Figures of one detector at one scale of the fields."""
    return evaluate_fields(detector, options.coco, options.images, EvaluationConfig(rescale=scale))


def gflop(model: nn.Module, side: int) -> float:
    """Billion floating-point operations for one patch, two a multiply-add, by torch's counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()([torch.zeros(3, side, side, dtype=torch.uint8)])
    return float(np.round(counter.get_total_flops() / 1e9, 1))


def card(info: DetectorInfo, figures: dict[str, Figures], cost: dict[str, float], options: argparse.Namespace) -> str:
    """Fill the model card's template."""
    truth = json.loads(options.coco.read_text())
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    text = environment.get_template("model_card.md.j2").render(
        info=info,
        training=info.training,
        options=info.detector["options"],
        cells=info.training["cells"],
        figures=figures,
        own=figures["model"],
        cost=cost,
        summary=SUMMARY,
        show=_with_interval,
        threshold=THRESHOLD,
        images=len(truth["images"]),
        annotations=len(truth["annotations"]),
        notes=options.note,
    )
    return f"{text}\n"


def _detector(bundle: Path) -> FieldDetector:
    return WholeImage(RUNTIMES["torch"](bundle, "cpu", score_threshold=THRESHOLD, nms="class"))


def _with_interval(figures: Figures, key: str) -> str:
    value, low, high = (figures[name] for name in (key, f"ci_low/{key}", f"ci_high/{key}"))
    if value is None:
        return "n/a"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.2f}–{high:.2f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--bundle", "--coco", "--images", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--floor", type=Path)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--command", default="python pipelines/train_on_fields.py --config configs/fcos_cric.yaml ...")
    parser.add_argument("--machine", default="2 CPU cores")
    parser.add_argument(
        "--input-scale", type=float, default=1.0,
        help="Let the network shrink its input by this factor, which the tiler did in training; mpp follows.",
    )  # fmt: skip
    parser.add_argument("--note", action="append", default=[], help="A line for the card: how settings were chosen.")
    main(parser.parse_args())
