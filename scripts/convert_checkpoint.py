"""A checkpoint of a run that is still going, or was stopped → a bundle with the averaged weights it holds.

python scripts/convert_checkpoint.py runs/first dataset/index.parquet bundle
"""

import sys
from pathlib import Path

import torch

from wsi_detect import artifact
from wsi_detect.config import parse
from wsi_detect.data.index import read_index
from wsi_detect.detectors import build_detector
from wsi_detect.detectors.bundle import save_bundle
from wsi_detect.training.config import TrainingConfig
from wsi_detect.training.loop import CHECKPOINTS, CONFIG, LAST
from wsi_detect.training.trainer import describe, first_card


def main(run: Path, index: Path, out: Path) -> None:
    """Write the bundle of the last checkpoint of a run."""
    config = parse(artifact.read_json(run / CONFIG)["config"], TrainingConfig, where=str(run / CONFIG))
    content = read_index(index)
    model = build_detector(config.detector, len(content.classes), config.options)
    checkpoint = torch.load(run / CHECKPOINTS / LAST, map_location="cpu", weights_only=True)
    state = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
    model.load_state_dict(state)
    info = save_bundle(out, model, describe(content, config), first_card(describe(content, config)), half=True)
    print(f"{info.model_id} after {checkpoint['global_step']} of {config.steps} steps")


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:4]))
