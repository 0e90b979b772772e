"""The training step and its optimiser; knows torchvision's detector contract and no architecture."""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from wsi_detect.errors import NonFiniteError
from wsi_detect.evaluation.average_precision import ap50
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.training.config import OptimiserConfig
from wsi_detect.training.loop import one_cycle

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


class DetectionModule(LightningModule):
    """A detector in training: losses per step, AP50 per validation."""

    def __init__(self, model: nn.Module, classes: tuple[str, ...], config: OptimiserConfig) -> None:
        super().__init__()
        self.model = model
        self.classes = classes
        self.config = config
        self._predictions: list[FieldPrediction] = []
        self._truths: list[FieldTruth] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Sum of the detector's losses.

        Raises:
            NonFiniteError: a loss is NaN or infinite; the last checkpoint is untouched.
        """
        losses: dict[str, Tensor] = self.model(*batch)
        total = torch.stack(list(losses.values())).sum()
        if not bool(torch.isfinite(total)):
            values = {name: float(value.detach()) for name, value in losses.items()}
            raise NonFiniteError(f"step {self.global_step}: loss is not finite: {values}; lower training.learning_rate")
        size = len(batch[0])
        for name, value in losses.items():
            self.log(f"loss/{name}", value.detach(), batch_size=size)
        self.log("loss/total", total.detach(), prog_bar=True, batch_size=size)
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect detections and truth of a batch of patches."""
        images, targets = batch
        for k, (found, target) in enumerate(zip(self.model(images), targets, strict=True)):
            # The rank keeps patches of several devices apart.
            name = f"{self.global_rank}-{batch_idx}-{k}"
            height, width = images[k].shape[-2:]
            self._truths.append(
                FieldTruth(
                    name, width, height, target["boxes"].cpu().double().numpy(), self._names(target["labels"]),
                    target["ignore_boxes"].cpu().double().numpy(),
                )
            )  # fmt: skip
            self._predictions.append(
                FieldPrediction(
                    name, found["boxes"].cpu().double().numpy(), found["scores"].cpu().double().numpy(),
                    self._names(found["labels"]), found["class_scores"].cpu().double().numpy(),
                )
            )  # fmt: skip

    def on_validation_epoch_end(self) -> None:
        """Log AP50 per class and its mean over the classes present."""
        figures = ap50(self._predictions, self._truths, self.classes)
        self._predictions, self._truths = [], []
        for name, value in figures.items():
            if value is not None:
                self.log(f"ap50/{name}", value, prog_bar=name == "mean", sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW (no decay on norms and biases) under a one-cycle schedule over all steps."""
        return one_cycle(self.model, self.config, int(self.trainer.estimated_stepping_batches))

    def _names(self, labels: Tensor) -> list[str]:
        return [self.classes[k] for k in labels.tolist()]
