"""What a run needs besides the step: random states that survive a resume, and averaged weights."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class RandomState(Callback):
    """Random states travel in the checkpoint and are put back at the first batch after a resume.

    Not earlier: making a loader's iterator draws from the global generator once more after a resume, which would shift
    every later draw. Only tensors and plain values, so that the checkpoint loads with `weights_only`.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """States of torch (CPU and GPUs), numpy and Python."""
        name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        version, values, gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [
                str(name),
                torch.from_numpy(np.asarray(keys)).long(),
                int(position),
                int(has_gauss),
                float(cached),
            ],
            "python": [version, list(values), gauss],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the first batch."""
        self._waiting = state_dict

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the states back, once."""
        if self._waiting is None:
            return
        waiting, self._waiting = self._waiting, None
        torch.set_rng_state(waiting["torch"])
        if waiting["cuda"]:
            torch.cuda.set_rng_state_all(waiting["cuda"])
        name, keys, position, has_gauss, cached = waiting["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        version, values, gauss = waiting["python"]
        random.setstate((version, tuple(values), gauss))


class ModelAverage(WeightAveraging):
    """Exponential moving average of the weights and of batch norm's statistics; validation and the bundle use it.

    The decay rises with the steps, min(decay, (1 + n) / (10 + n)), so that the average of a short run is not held back
    by the random weights it began with. Lightning keeps the averaged weights as the checkpoint's `state_dict`, the raw
    ones beside them, and leaves the averaged ones in the module when training ends.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current
            steps = int(count)
            return averaged.lerp(current.to(averaged), 1 - min(decay, (1 + steps) / (10 + steps)))

        super().__init__(use_buffers=True, avg_fn=average)
