"""The stage that makes an evidence model: slides with labels in, a bundle out. A stopped run goes on."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, seed_everything
from safetensors.torch import load
from torch import Tensor

from wsi_detect import __version__, artifact
from wsi_detect.config import digest
from wsi_detect.data.augment import augmenter
from wsi_detect.data.bags import BagDataset, BagLoader, BagRule, LabelledSlide
from wsi_detect.data.slide_labels import LabelRule
from wsi_detect.detectors.bundle import packed
from wsi_detect.detectors.evidence_bundle import save_evidence
from wsi_detect.detectors.evidence_info import EvidenceInfo
from wsi_detect.detectors.heatmap import EvidenceModel, build_evidence_model
from wsi_detect.detectors.reach import margin_px
from wsi_detect.errors import LabelError
from wsi_detect.losses.negative_evidence import NegativeEvidenceLoss, SeedRule
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.training.heatmap_config import EvidenceTrainingConfig, PhaseConfig
from wsi_detect.training.heatmap_module import ClassifierModule, DecoderModule
from wsi_detect.training.licence import with_card
from wsi_detect.training.loop import checkpoint, claim, make_trainer, without_lightnings_own_warnings

BUNDLE = "bundle"
#: Weights of the first phase; their presence says that it is over.
CLASSIFIER = "classifier.safetensors"
#: Patches of slides may differ in µm per px by this share: a network cannot tell.
_MPP_TOLERANCE = 0.02

_log = logging.getLogger(__name__)


def train_evidence(
    slides: Sequence[LabelledSlide],
    out: Path,
    config: EvidenceTrainingConfig | None = None,
    card: Path | None = None,
) -> Path:
    """Train an evidence model: the classifier, then, with it frozen, the decoder.

    Args:
        slides: with and without region, their patch stores in folders.
        out: folder of the run. If it holds a stopped run of the same configuration and slides, that run goes on.
        config: everything else.
        card: folder of the data card of the slides.

    Returns:
        The bundle.

    Raises:
        LicenceError: the licence on that card does not allow `config.use`.
        StaleArtifactError: `out` holds a run of another configuration or other slides.
        ConfigError: an unknown option, a backbone whose maps cannot be joined, or a broken card.
        LabelError: no slide with, or none without a region, or their patches differ in size or resolution.
        NonFiniteError: a loss became NaN or infinite.
    """
    config = with_card(config or EvidenceTrainingConfig(), card)
    patch_px, mpp = patch_facts(slides)
    labels = {slide.slide_id: slide.targets.tolist() for slide in slides}
    claim(out, {"config": config.model_dump(mode="json"), "slides": labels, "patch_px": patch_px, "mpp": mpp})
    model = train_classifier(slides, out, config)
    margin = margin_px(model)  # before the longer phase: a backbone that has none is no use
    train_decoder(model, slides, out, config)
    info = describe(slides, config, model, margin)
    save_evidence(out / BUNDLE, model, info, first_card(info), half=config.description.half)
    return out / BUNDLE


def label_rule(config: EvidenceTrainingConfig) -> LabelRule:
    """What labels of slides mean to a training."""
    return LabelRule(config.region, config.per_class, config.negative)


def train_classifier(slides: Sequence[LabelledSlide], out: Path, config: EvidenceTrainingConfig) -> EvidenceModel:
    """First phase; a finished one is read from `out` instead.

    Returns:
        The model on the CPU, in evaluation mode, its decoder as it began.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed, verbose=False)
    model = build_evidence_model(label_rule(config).columns, config.model).train()
    kept = out / CLASSIFIER
    if not kept.exists():
        module = ClassifierModule(model, config.classifier.optimiser, config.bag, config.top_share)
        _fit(module, slides, out / "classifier", config, config.classifier)
        artifact.write_bytes(kept, packed(model.classifier.state_dict())[0])
    model.classifier.load_state_dict(load(kept.read_bytes()))
    return model.eval()


def train_decoder(
    model: EvidenceModel, slides: Sequence[LabelledSlide], out: Path, config: EvidenceTrainingConfig
) -> None:
    """Second phase, in place; the classifier comes out as it went in, every weight and every statistic.

    Raises:
        RuntimeError: it did not, which would be a fault of this program.
    """
    seed_everything(config.seed, verbose=False)
    before = _digest(model.classifier.state_dict())
    module = DecoderModule(
        model,
        config.decoder.optimiser,
        config.bag,
        NegativeEvidenceLoss(**config.loss.model_dump()),
        SeedRule(**config.seeds.model_dump()),
        top_share=config.top_share,
        epoch_steps=max(1, len(slides) // config.bag.bags),
    )
    _fit(module, slides, out / "decoder", config, config.decoder)
    if _digest(model.classifier.state_dict()) != before:
        raise RuntimeError("the classifier changed while the decoder was trained")


def patch_facts(slides: Sequence[LabelledSlide]) -> tuple[int, float]:
    """Side of the patches, px, and µm per px.

    Raises:
        LabelError: there is no slide, one has no patch, or they are not alike.
    """
    stores = {s.slide_id: PatchStore.open(s.store) if isinstance(s.store, Path) else s.store for s in slides}
    if not stores:
        raise LabelError("there is no slide to learn from")
    empty = [name for name, store in stores.items() if not len(store)]
    if empty:
        raise LabelError(
            f"{len(empty)} slides to learn from have no patch ({', '.join(empty[:10])}); leave them out, or see their "
            "masks"
        )
    first, one = next(iter(stores.items()))
    for name, store in stores.items():
        if store.patch_px != one.patch_px or abs(store.mpp / one.mpp - 1) > _MPP_TOLERANCE:
            raise LabelError(
                f"patches of slide {name} have {store.patch_px} px of {store.mpp:.4g} µm, those of {first} "
                f"{one.patch_px} px of {one.mpp:.4g} µm; tile all at one patch_px and mpp"
            )
    return int(one.patch_px), float(one.mpp)


def describe(
    slides: Sequence[LabelledSlide], config: EvidenceTrainingConfig, model: EvidenceModel, margin: int
) -> EvidenceInfo:
    """Facts of the bundle, from the data and the configuration."""
    facts = config.description
    patch_px, mpp = patch_facts(slides)
    return EvidenceInfo(
        model_id=facts.name,
        columns=model.columns,
        region=config.region,
        patch_px=patch_px,
        mpp=mpp,
        mpp_assumed=facts.mpp_assumed,
        preparation=facts.preparation,
        margin_px=margin,
        stride_px=model.stride_px,
        threshold=facts.threshold,
        model=dict(config.model),
        data_card=facts.data_card,
        training={
            "config": config.model_dump(mode="json"),
            "digest": digest(config),
            "slides": len(slides),
            "negative_slides": sum(slide.negative for slide in slides),
            "version": __version__,
        },
    )


def first_card(info: EvidenceInfo) -> str:
    """A model card that claims nothing about accuracy."""
    facts = {key: value for key, value in info.to_json().items() if key not in ("training", "model")}
    lines = [f"- {key}: {value}" for key, value in facts.items()]
    return "\n".join(
        [
            "---",
            "license: apache-2.0",
            "library_name: wsi-detect",
            "tags: [cytology, weakly-supervised-localisation]",
            "---",
            f"# {info.model_id}",
            "",
            "Research use only. Not a diagnosis. Learned from labels of slides alone; accuracy not measured.",
            "",
            *lines,
            "",
        ]
    )


def _fit(
    module: LightningModule,
    slides: Sequence[LabelledSlide],
    out: Path,
    config: EvidenceTrainingConfig,
    phase: PhaseConfig,
) -> None:
    bag = config.bag
    augment = augmenter(bag.augmentation, bag.crop_px, aim=0.0)
    rule = BagRule(bag.bags, bag.patches, bag.positive_share)
    loader = BagLoader(BagDataset(slides, rule, phase.steps, augment=augment, seed=config.seed), workers=bag.workers)
    with without_lightnings_own_warnings():
        trainer = make_trainer(out, config, phase.steps)
        trainer.fit(module, loader, ckpt_path=checkpoint(out), weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    module.cpu().eval()


def _digest(state: dict[str, Tensor]) -> str:
    digest_of = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest_of.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest_of.hexdigest()
