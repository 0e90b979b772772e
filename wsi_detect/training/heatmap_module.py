"""The two training steps of an evidence model: the classifier from labels of bags, then the decoder alone."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional as F

from wsi_detect.data.bags import BagBatch
from wsi_detect.detectors.activation_maps import normalised
from wsi_detect.detectors.heatmap import EvidenceModel
from wsi_detect.errors import NonFiniteError
from wsi_detect.losses.negative_evidence import NegativeEvidenceLoss, SeedRule, draw_seeds
from wsi_detect.training.config import OptimiserConfig
from wsi_detect.training.heatmap_config import BagConfig
from wsi_detect.training.loop import one_cycle


def patch_logits(maps: Tensor, top_share: float) -> Tensor:
    """Activation maps (N, K, h, w) → logits (N, K): the mean of the highest places, of all with a share of 1."""
    places = maps.flatten(2)
    count = max(1, math.ceil(top_share * places.shape[2]))
    return places.topk(count, dim=2).values.mean(dim=2) if count < places.shape[2] else places.mean(dim=2)


def bag_logits(patches: Tensor, top: int) -> Tensor:
    """Logits of patches (G, n, K) → of bags (G, K): the mean of the `top` highest of each column."""
    return patches.topk(min(top, patches.shape[1]), dim=1).values.mean(dim=1)


def chosen_patches(patches: Tensor, targets: Tensor, top: int) -> Tensor:
    """Patches whose label is taken to be their slide's: all of a fully negative bag, the highest of any other.

    Args:
        patches: logits (G, n, K).
        targets: (G, K).
        top: this many of a bag with a region, by the highest logit of the kinds its slide has.

    Returns:
        (G, n) bool.
    """
    has = targets > 0
    ranked = patches.masked_fill(~has[:, None], -torch.inf).amax(dim=2)
    best = ranked.topk(min(top, patches.shape[1]), dim=1).indices
    return torch.zeros_like(ranked, dtype=torch.bool).scatter(1, best, True) | ~has.any(dim=1)[:, None]


def true_cam(maps: Tensor, targets: Tensor) -> Tensor:
    """Activation maps (N, K, H, W) → map of the true class (N, H, W) in [0, 1]; of several, the highest at each px.

    Args:
        maps: of the classifier.
        targets: (N, K); of an image without a region the map is 0.
    """
    shown = normalised(maps) * (targets > 0)[:, :, None, None]
    return shown.amax(dim=1)


class ClassifierModule(LightningModule):
    """First phase: encoder and logits from labels of bags."""

    def __init__(self, model: EvidenceModel, optimiser: OptimiserConfig, bag: BagConfig, top_share: float) -> None:
        super().__init__()
        self.model = model
        self.optimiser, self.bag, self.top_share = optimiser, bag, top_share

    def training_step(self, batch: BagBatch, batch_idx: int) -> Tensor:
        """Binary cross-entropy of the bags' logits.

        Raises:
            NonFiniteError: it is NaN or infinite; the last checkpoint is untouched.
        """
        logits = patch_logits(self.model.activation(batch.images), self.top_share)
        bags = bag_logits(logits.view(len(batch.targets), -1, logits.shape[1]), self.bag.top).float()
        loss = F.binary_cross_entropy_with_logits(bags, batch.targets)
        _check(self, loss, "evidence_training.classifier")
        size = len(batch.targets)
        self.log("classifier/loss", loss.detach(), prog_bar=True, batch_size=size)
        right = ((bags > 0) == (batch.targets > 0)).float().mean()
        self.log("classifier/right", right, prog_bar=True, batch_size=size)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW over the classifier."""
        return one_cycle(self.model.classifier, self.optimiser, int(self.trainer.estimated_stepping_batches))


class DecoderModule(LightningModule):
    """Second phase: the decoder from seeds of the frozen classifier's maps and from fully negative slides."""

    def __init__(
        self,
        model: EvidenceModel,
        optimiser: OptimiserConfig,
        bag: BagConfig,
        loss: NegativeEvidenceLoss,
        seeds: SeedRule,
        *,
        top_share: float = 1.0,
        epoch_steps: int = 1,
    ) -> None:
        """Make it, and freeze the classifier.

        Args:
            model: its classifier is trained.
            optimiser: of the decoder.
            bag: what a step is made of.
            loss: NEGEV's terms.
            seeds: how seeds are drawn, anew at every step.
            top_share: as the classifier was trained with.
            epoch_steps: steps after which the size barrier hardens.
        """
        super().__init__()
        model.freeze_classifier()
        model.train()
        self.model, self.loss = model, loss
        self.optimiser, self.bag, self.seeds = optimiser, bag, seeds
        self.top_share, self.epoch_steps = top_share, epoch_steps

    def training_step(self, batch: BagBatch, batch_idx: int) -> Tensor:
        """Sum of the terms.

        Raises:
            NonFiniteError: it is NaN or infinite; the last checkpoint is untouched.
        """
        logits, maps = self.model.taught(batch.images)
        groups, (count, columns) = len(batch.targets), maps.shape[:2]
        targets = batch.targets.repeat_interleave(count // groups, dim=0)
        patches = patch_logits(maps, self.top_share).view(groups, -1, columns)
        chosen = chosen_patches(patches, batch.targets, self.bag.top).flatten()
        seeds = draw_seeds(true_cam(maps, targets), self.seeds)
        negative = ~(targets > 0).any(dim=1)
        terms: dict[str, Tensor] = self.loss(logits, seeds, negative=negative, vouched=chosen)
        total = torch.stack(list(terms.values())).sum()
        _check(self, total, "evidence_training.decoder")
        for name, value in {**terms, "total": total}.items():
            self.log(f"decoder/{name}", value.detach(), prog_bar=name == "total", batch_size=count)
        return total

    def on_train_batch_end(self, *arguments: Any) -> None:
        """Harden the size barrier once an epoch."""
        if self.global_step % self.epoch_steps == 0:
            self.loss.end_epoch()

    def configure_optimizers(self) -> Any:
        """AdamW over the decoder."""
        return one_cycle(self.model.decoder, self.optimiser, int(self.trainer.estimated_stepping_batches))


def _check(module: LightningModule, loss: Tensor, section: str) -> None:
    if not bool(torch.isfinite(loss)):
        raise NonFiniteError(
            f"step {module.global_step}: loss is not finite: {float(loss.detach())}; lower {section}.optimiser."
            "learning_rate"
        )
