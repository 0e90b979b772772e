"""What every training run of this package has from Lightning: loggers, checkpoints, averaged weights, quiet."""

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from wsi_detect import artifact
from wsi_detect.errors import StaleArtifactError
from wsi_detect.training.callbacks import ModelAverage, RandomState
from wsi_detect.training.config import OptimiserConfig, TrainingConfig
from wsi_detect.training.heatmap_config import EvidenceTrainingConfig

CHECKPOINTS = "checkpoints"
CONFIG = "config.json"
LAST = "last.ckpt"


def claim(out: Path, mine: Mapping[str, Any]) -> None:
    """Enter what a run is made of in its folder, or make sure that it is what is there.

    Raises:
        StaleArtifactError: the folder holds another run.
    """
    path = out / CONFIG
    if path.exists():
        theirs = artifact.read_json(path)
        if theirs != json.loads(json.dumps(mine)):
            raise StaleArtifactError(f"{out} holds a run of another configuration or index; give another folder")
        return
    artifact.write_json(path, dict(mine))


def checkpoint(out: Path) -> str | None:
    """Where a stopped run goes on from."""
    last = out / CHECKPOINTS / LAST
    return str(last) if last.exists() else None


def make_trainer(
    out: Path, config: TrainingConfig | EvidenceTrainingConfig, steps: int, validate_every: int | None
) -> Trainer:
    """A trainer.

    Args:
        out: folder of the run.
        config: how the loop runs.
        steps: of the run.
        validate_every: steps; None where there is nothing to validate on.
    """
    # One folder for each start: a logger given the folder of a stopped run empties it.
    figures = CSVLogger(out, name="logs")
    callbacks: list[Callback] = [
        ModelAverage(config.ema_decay),
        RandomState(),
        LearningRateMonitor("step"),
        ModelCheckpoint(
            out / CHECKPOINTS,
            filename="step{step:06d}",
            auto_insert_metric_name=False,
            train_time_interval=timedelta(minutes=config.checkpoint_minutes),
            save_last=True,
            enable_version_counter=False,
        ),
    ]
    on_screen = sys.stderr.isatty()
    if on_screen:
        callbacks.append(TQDMProgressBar(refresh_rate=5))
    return Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        precision=config.precision,
        max_steps=steps,
        # Steps decide, not epochs, so that the length of an epoch is nobody's concern.
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=config.clip_norm,
        log_every_n_steps=1,
        logger=[figures, TensorBoardLogger(out, name="logs", version=figures.version)],
        callbacks=callbacks,
        enable_progress_bar=on_screen,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )


def one_cycle(model: nn.Module, config: OptimiserConfig, steps: int) -> dict[str, Any]:
    """AdamW (no decay on norms and biases) under a one-cycle schedule over all steps, for Lightning."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=config.learning_rate, total_steps=steps, pct_start=config.warmup
    )
    return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@contextmanager
def without_lightnings_own_warnings() -> Iterator[None]:
    """Keep from the user what only Lightning could mend, or what is meant to be so; nothing else is hidden."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in (
            r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # its own call of torch
            r"You defined a `validation_step` but have no `val_dataloader`",  # all fields may be trained on
            r"The '\w+_dataloader' does not have many workers",  # the loader's processes are the user's to set
            r"Checkpoint directory .* exists and is not empty",  # a resumed run's is
            r"GPU available but not used",
            r"Found \d+ module\(s\) in eval mode at the start of training",  # a frozen part of a model
        ):
            warnings.filterwarnings("ignore", message)
        yield
