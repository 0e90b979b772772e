"""One of two processes that train together: gradients of every detector after one step, to a file.

Called as `ddp_program.py RANK FOLDER`; without arguments it is a module that the test shares the batch with.
"""

import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from wsi_detect.detectors import DETECTORS, build_detector
from wsi_detect.testing.learned_contracts import painted_patches
from wsi_detect.testing.tiny_detectors import TINY

WORLD = 2
#: Drawing at random would differ between one process and two: draw everything.
EVERYTHING = {"sampled": 100_000, "proposals": {**TINY["faster_rcnn"]["head"]["proposals"], "sampled": 100_000}}


def options_of(name):
    options = {**TINY[name], "frozen_norm": True}
    if name == "faster_rcnn":
        options["head"] = {**options["head"], **EVERYTHING}
    return options


def batch():
    """Four patches: two with cells, one with none, one with a cell that is to be ignored; halves differ in number."""
    images, targets = painted_patches()
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    hidden = {"boxes": targets[0]["boxes"][:1], "labels": targets[0]["labels"][:1]}
    hidden["ignore_boxes"] = targets[0]["boxes"][1:]
    return [*images, images[0], images[1].flip(-1)], [*targets, hidden, nothing]


def gradients(name, part, wrap):
    """Gradients by name of one step on every `part`-th piece of the batch."""
    torch.manual_seed(0)
    model = build_detector(name, 2, options_of(name)).train()
    images, targets = batch()
    wrapped = wrap(model)  # kept: with the wrapper its exchange of gradients would go
    losses = wrapped(images[part], targets[part])
    sum(losses.values()).backward()
    return {key: value.grad for key, value in model.named_parameters() if value.requires_grad}


def main(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    part = slice(2 * rank, 2 * rank + 2)
    found = {name: gradients(name, part, DistributedDataParallel) for name in DETECTORS}
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
