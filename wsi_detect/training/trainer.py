"""The stage train: an index of patches in, a model bundle out. A stopped run goes on to the same weights."""

import logging
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import nn

from wsi_detect import __version__, artifact
from wsi_detect.config import digest
from wsi_detect.data.augment import augmenter
from wsi_detect.data.cards import card_of
from wsi_detect.data.dataset import PatchDataset, make_loader
from wsi_detect.data.hard_negatives import read_hard_rows, with_hard_negatives
from wsi_detect.data.index import PatchIndex, read_index, read_labels
from wsi_detect.data.rates import rates_table, realised_rates
from wsi_detect.data.repeats import Counts, Weights
from wsi_detect.data.samplers import SAMPLERS, EpochSampler
from wsi_detect.detectors import build_detector
from wsi_detect.detectors.bundle import load_bundle, put_weights, save_bundle, trained_weights
from wsi_detect.detectors.info import DetectorInfo
from wsi_detect.errors import ConfigError, LabelError
from wsi_detect.losses import ClassCounts, with_class_counts
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.training.config import LoaderConfig, TrainingConfig
from wsi_detect.training.licence import check_start, with_card
from wsi_detect.training.loop import LAST, checkpoint, claim, make_trainer, without_lightnings_own_warnings
from wsi_detect.training.module import DetectionModule

BUNDLE = "bundle"

_log = logging.getLogger(__name__)


def train_detector(index: Path, out: Path, config: TrainingConfig | None = None) -> Path:
    """Train a detector.

    Args:
        index: `index.parquet` of a data set; its split `train` is trained on, its split `val`, if any, watched.
        out: folder of the run: `checkpoints/`, `logs/version_*`, `config.json`, `bundle/`. If it holds a stopped run of
            the same configuration, that run goes on.
        config: everything else.

    Returns:
        The bundle, with averaged weights and a first card.

    Raises:
        StaleArtifactError: `out` holds a run of another configuration or another index.
        ConfigError: unknown detector, sampler or augmentation, or a bundle to start from that does not fit; or the card
            of the data set is broken, or another than the configuration names.
        LicenceError: the licence on that card does not allow `config.use`, or the weights to start from were trained
            for less.
        NonFiniteError: a loss became NaN or infinite.
    """
    config = config or TrainingConfig()
    content = read_index(index)
    config = with_card(config, card_of(content.annotations))
    claim(out, _made_from(index, config))
    if config.threads:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed, verbose=False)
    model = _first_weights(content, config)
    module = DetectionModule(model, content.classes, config.optimiser)
    watched = "val" in content.splits
    resume = checkpoint(out)
    if resume:
        _log.info("train: going on from %s", LAST)
    with without_lightnings_own_warnings():
        trainer = make_trainer(out, config, config.steps, validate_every=config.validate_every if watched else None)
        train_loader = _train_loader(content, config, trainer)
        val_loader = _val_loader(content, config) if watched else None
        trainer.fit(module, train_loader, val_loader, ckpt_path=resume, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    info = describe(content, config)
    if trainer.is_global_zero:
        save_bundle(out / BUNDLE, module.model.cpu().eval(), info, first_card(info), half=config.description.half)
    return out / BUNDLE


def _first_weights(index: PatchIndex, config: TrainingConfig) -> nn.Module:
    model = build_detector(config.detector, len(index.classes), detector_options(index, config))
    if config.start_from:
        other, info = load_bundle(Path(config.start_from))
        check_start(info, config.use)
        if info.classes != index.classes:
            known, wanted = ", ".join(info.classes), ", ".join(index.classes)
            raise ConfigError(f"training.start_from: {info.model_id} knows {known}; the data set has {wanted}")
        if put_weights(model, trained_weights(other)):
            raise ConfigError(f"training.start_from: {info.model_id} is another detector than training.options")
    return model


def detector_options(index: PatchIndex, config: TrainingConfig) -> dict[str, Any]:
    """Options of the detector, with the class counts of the training patches if its loss needs them."""
    counts = index.counts[index.rows("train")]
    present = counts > 0
    if not counts.any():
        return dict(config.options)
    known = ClassCounts(tuple(counts.sum(axis=0).tolist()), tuple(present.sum(axis=0).tolist()), float(len(counts)))
    return with_class_counts(config.options, known)


def describe(index: PatchIndex, config: TrainingConfig) -> DetectorInfo:
    """Facts of the bundle, from the data and the configuration."""
    facts = config.description
    largest = facts.largest_cell_um or _largest_cell_um(index)
    return DetectorInfo(
        model_id=facts.name,
        classes=index.classes,
        patch_px=index.patch_px,
        mpp=index.mpp,
        mpp_assumed=facts.mpp_assumed,
        preparation=facts.preparation,
        largest_cell_um=largest,
        score_threshold=facts.score_threshold,
        detector={"name": config.detector, "options": detector_options(index, config)},
        data_card=facts.data_card,
        training={
            "config": config.model_dump(mode="json"),
            "digest": digest(config),
            "patches": len(index.rows("train")),
            "cells": _cells(index),
            "version": __version__,
        },
    )


def first_card(info: DetectorInfo) -> str:
    """A model card that claims nothing about accuracy: that is measured afterwards."""
    facts = {key: value for key, value in asdict(info).items() if key not in ("training", "detector")}
    lines = [f"- {key}: {value}" for key, value in facts.items()]
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            "library_name: wsi-detect",
            "tags: [cytology, object-detection]",
            "---",
            f"# {info.model_id}",
            "",
            "Research use only. Not a diagnosis. Accuracy: not measured yet (`wsi-detect evaluate`).",
            "",
            *lines,
            "",
        ]
    )


def _made_from(index: Path, config: TrainingConfig) -> dict[str, Any]:
    """Return what a run's folder is claimed for."""
    mine = {"config": config.model_dump(mode="json"), "index": artifact.fingerprint(index)}
    if config.loader.hard_negatives is not None:
        # Found anew, they would make another order of what is left of an epoch.
        mine["hard_negatives"] = artifact.fingerprint(Path(config.loader.hard_negatives))
    return mine


def _train_loader(index: PatchIndex, config: TrainingConfig, trainer: Trainer) -> Any:
    rule = config.loader
    augment = augmenter(rule.augmentation, rule.crop_px, aim=rule.aim)
    dataset = PatchDataset(index, "train", augment=augment, seed=config.seed)
    weights = _sampling_weights(dataset.counts, rule)
    if rule.hard_negatives is not None:
        hard = read_hard_rows(Path(rule.hard_negatives), index)
        weights = with_hard_negatives(weights, dataset.counts, hard, rule.hard_share)
        _log.info("train: %d hard negatives get %.1f %% of the background draws", len(hard), 100 * rule.hard_share)
    draws = max(len(dataset), rule.batch_size * trainer.world_size)
    sampler = EpochSampler(weights, draws, config.seed, rank=trainer.global_rank, world=trainer.world_size)
    drawn = np.bincount(sampler.order(0), minlength=len(dataset)).astype(np.float64)
    _log.info(
        "train: what the first epoch draws\n%s", rates_table(realised_rates(dataset.counts, drawn, index.classes))
    )
    return make_loader(dataset, rule.batch_size, sampler=sampler, workers=rule.workers)


def _sampling_weights(counts: Counts, rule: LoaderConfig) -> Weights:
    if rule.sampler not in SAMPLERS:
        raise ConfigError(f"unknown sampler {rule.sampler!r}; known: {', '.join(sorted(SAMPLERS))}")
    try:
        return SAMPLERS[rule.sampler](counts, rule.background_share, **rule.sampler_options)
    except TypeError as error:
        raise ConfigError(f"sampler {rule.sampler!r}: {error}; see training.loader.sampler_options") from error


def _val_loader(index: PatchIndex, config: TrainingConfig) -> Any:
    return make_loader(PatchDataset(index, "val"), config.loader.batch_size, workers=config.loader.workers)


def _largest_cell_um(index: PatchIndex) -> float:
    """Longest side of a labelled box, µm, rounded up to a tenth."""
    longest = 0.0
    for slide, known in read_labels(index.annotations, index.classes).items():
        if slide in index.stores and len(known.boxes):
            sides = known.boxes[:, 2:] - known.boxes[:, :2]
            longest = max(longest, float(sides.max()) * PatchStore.open(index.stores[slide]).slide.resolution())
    if longest == 0:
        raise LabelError("the data set has no labelled cell to learn from")
    return math.ceil(longest * 10) / 10


def _cells(index: PatchIndex) -> dict[str, int]:
    """Labelled cells of each class on the slides of the training split."""
    slides = {index.slide_ids[row] for row in index.rows("train")}
    labels = read_labels(index.annotations, index.classes)
    counts = np.zeros(len(index.classes), dtype=np.int64)
    for slide in sorted(slides & set(labels)):
        known = labels[slide].labels
        counts += np.bincount(known[known >= 0], minlength=len(counts))
    return dict(zip(index.classes, counts.tolist(), strict=True))
