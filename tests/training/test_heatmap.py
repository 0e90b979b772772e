"""Evidence models learn where lesions are from labels of slides alone; and the rules of both phases."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from wsi_detect.config import parse
from wsi_detect.data.bags import LabelledSlide
from wsi_detect.detectors.evidence_bundle import load_evidence
from wsi_detect.detectors.heatmap import build_evidence_model
from wsi_detect.errors import ConfigError, LabelError, StaleArtifactError
from wsi_detect.evaluation.pixel_ap import pixel_figures
from wsi_detect.geometry import PatchFrame
from wsi_detect.testing.lesions import paint_lesions
from wsi_detect.training import heatmap_trainer as stage
from wsi_detect.training.heatmap_config import EvidenceTrainingConfig
from wsi_detect.training.heatmap_module import bag_logits, chosen_patches, patch_logits, true_cam

SIDE = 112
#: PxAP that chance may be above the share of px that are lesion, percent of all.
MARGIN = 4
SETTINGS = {
    # Sees 7 px at stride 2, 11 at 4, 51 at the end of the second stage: a nucleus and its neighbours.
    "model": {"backbone": "timm/test_resnet", "last_stage": 2, "channels": [32, 16]},
    "bag": {"bags": 4, "patches": 2, "top": 1, "augmentation": "flip"},
    "classifier": {"steps": 80, "optimiser": {"learning_rate": 0.003}},
    "decoder": {"steps": 80, "optimiser": {"learning_rate": 0.003}},
    "seeds": {"seeder": "otsu", "erosion_px": 5, "region": 2, "background": 4},
    "loss": {"negative_weight": 4.0},
    "precision": "32-true",
    "ema_decay": 0.95,
    "accelerator": "cpu",
    "threads": 1,
}


class Pictures:
    """Painted pictures in the place of a patch store."""

    patch_px, mpp = SIDE, 1.0
    slide = SimpleNamespace(width_px=SIDE, height_px=SIDE)

    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def frame(self, i):
        return PatchFrame(0.0, 0.0, 1.0)

    def read(self, i, window=None):
        x0, y0, x1, y1 = window or (0, 0, SIDE, SIDE)
        return SimpleNamespace(rgb=self.pictures[i].rgb[y0:y1, x0:x1])


def paint(count, kind, seed):
    """Slides, every second one with lesions on half of its four patches."""
    slides = []
    for k in range(count):
        rng = np.random.default_rng([seed, k])
        lesions = [int(k % 2 == 0 and j % 2 == 0) for j in range(4)]
        pictures = [
            paint_lesions(SIDE, lesions=n, kind=kind, seed=int(rng.integers(2**31)), radius=26) for n in lesions
        ]
        slides.append(LabelledSlide(f"S{k}", Pictures(pictures), np.array([k % 2 == 0])))
    return slides


def shuffled(slides):
    """Labels that say nothing: half of the slides with lesions are called negative, half of the others not."""
    return [LabelledSlide(s.slide_id, s.store, np.array([k % 4 < 2])) for k, s in enumerate(slides)]


def train(slides, out, **changes):
    config = EvidenceTrainingConfig.model_validate({**SETTINGS, **changes})
    model = stage.train_classifier(slides, out, config)
    before = {name: value.clone() for name, value in model.classifier.state_dict().items()}
    stage.train_decoder(model, slides, out, config)
    return model.eval(), before


def measured(model, slides):
    """PxAP, its floor, and the mean evidence on negative slides."""
    pairs, calm = [], []
    for slide in slides:
        images = torch.from_numpy(np.stack([p.rgb.transpose(2, 0, 1) for p in slide.store.pictures]))
        with torch.no_grad():
            maps = model.evidence(images).numpy()
        pairs += [(shown, p.lesion) for shown, p in zip(maps, slide.store.pictures, strict=True)]
        if slide.negative:
            calm.append(maps.mean())
    found = pixel_figures(pairs)
    return found.pxap, found.prevalence, float(np.mean(calm))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    return train(paint(16, "size", 0), tmp_path_factory.mktemp("size"))


def test_lesions_of_the_same_colours_are_found_from_slide_labels_alone(learned):
    pxap, prevalence, calm = measured(learned[0], paint(8, "size", 1))
    assert prevalence < 6
    assert pxap >= 90
    assert calm < 0.05


def test_the_decoder_is_trained_alone(learned):
    model, before = learned
    after = model.classifier.state_dict()
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert len(before) == len(after)
    fresh = build_evidence_model(("region",), SETTINGS["model"]).decoder.state_dict()
    assert not any(torch.equal(value, fresh[name]) for name, value in model.decoder.state_dict().items())


def test_labels_that_say_nothing_teach_nothing(tmp_path):
    model, _ = train(shuffled(paint(16, "size", 0)), tmp_path)
    pxap, prevalence, _ = measured(model, paint(8, "size", 1))
    assert pxap < prevalence + MARGIN


@pytest.mark.slow
def test_texture_alone_is_enough_too(tmp_path):
    longer = {"steps": 150, "optimiser": {"learning_rate": 0.003}}
    slides, others = paint(16, "texture", 0), paint(8, "texture", 1)
    given = {"classifier": longer, "decoder": longer}
    pxap, prevalence, calm = measured(train(slides, tmp_path / "true", **given)[0], others)
    assert pxap >= 90
    assert calm < 0.05
    chance, _, _ = measured(train(shuffled(slides), tmp_path / "shuffled", **given)[0], others)
    assert chance < prevalence + MARGIN


def test_a_patch_is_the_mean_of_its_highest_places():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 10.0]]]])
    assert patch_logits(maps, 1.0).tolist() == [[4.0]]
    assert patch_logits(maps, 0.5).tolist() == [[6.5]]
    assert patch_logits(maps, 0.01).tolist() == [[10.0]]


def test_a_bag_is_the_mean_of_its_highest_patches_column_by_column():
    patches = torch.tensor([[[1.0, 9.0], [5.0, 1.0], [3.0, 4.0]]])
    assert bag_logits(patches, 1).tolist() == [[5.0, 9.0]]
    assert bag_logits(patches, 2).tolist() == [[4.0, 6.5]]
    # A field is a bag of one.
    assert bag_logits(patches[:, :1], 2).tolist() == [[1.0, 9.0]]


def test_the_highest_patches_of_a_bag_have_its_label_and_all_of_a_negative_one():
    patches = torch.tensor([[[1.0, 9.0], [5.0, 1.0], [3.0, 4.0]]]).expand(3, 3, 2)
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert chosen_patches(patches, targets, 1).tolist() == [[False, True, False], [True, False, False], [True] * 3]
    assert chosen_patches(patches, targets, 2).tolist() == [[False, True, True], [True, False, True], [True] * 3]


def test_the_map_of_the_true_class_is_normalised_and_of_a_negative_image_0():
    maps = torch.tensor([[[[0.0, 4.0]], [[7.0, 3.0]]]]).expand(3, 2, 1, 2)
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    assert true_cam(maps, targets).tolist() == [[[0.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]]]


SHORT = {
    "model": {"backbone": "timm/test_resnet", "last_stage": 1, "channels": [4]},
    "bag": {"bags": 2, "patches": 2, "top": 1, "crop_px": 64},
    "classifier": {"steps": 4},
    "decoder": {"steps": 4},
    "description": {"name": "short"},
    # Practically after every step.
    "checkpoint_minutes": 1e-6,
}


def make(slides, out, **changes):
    return stage.train_evidence(slides, out, EvidenceTrainingConfig.model_validate({**SETTINGS, **SHORT, **changes}))


class StopAt(Callback):
    """Fall over before the step of that number, as a machine would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


@pytest.fixture(scope="module")
def few():
    return paint(4, "size", 3)


@pytest.fixture(scope="module")
def undisturbed(few, tmp_path_factory):
    return make(few, tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize("phase", ["classifier", "decoder"])
def test_a_stopped_run_ends_in_the_same_weights(few, undisturbed, tmp_path, monkeypatch, phase):
    real = stage.make_trainer

    def with_stop(out, *arguments, **options):
        made = real(out, *arguments, **options)
        if out.name == phase:
            made.callbacks.insert(0, StopAt(2))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(stage, "make_trainer", with_stop)
        with pytest.raises(RuntimeError, match="power cut"):
            make(few, tmp_path)
    assert (tmp_path / phase / "checkpoints" / "last.ckpt").exists()
    weights = make(few, tmp_path) / "model.safetensors"
    assert weights.read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_the_bundle_says_how_it_was_made(undisturbed):
    model, info = load_evidence(undisturbed)
    assert (info.columns, info.region) == (("region",), ("1",))
    assert (info.patch_px, info.mpp, info.stride_px) == (SIDE, 1.0, model.stride_px)
    assert info.margin_px == stage.margin_px(model)
    assert (info.training["slides"], info.training["negative_slides"]) == (4, 2)
    assert info.training["config"]["decoder"]["steps"] == 4
    assert "accuracy not measured" in (undisturbed / "README.md").read_text()


def test_what_cannot_be_trained_on_is_named(few, undisturbed, tmp_path):
    with pytest.raises(StaleArtifactError, match="another configuration"):
        make(few, undisturbed.parent, seed=5)
    with pytest.raises(LabelError, match="no slide to learn from"):
        make([], tmp_path / "a")
    with pytest.raises(LabelError, match="of 2 slides 0 are fully negative"):
        make(few[::2], tmp_path / "b")
    coarse = Pictures(few[0].store.pictures)
    coarse.mpp = 2.0
    other = LabelledSlide("coarse", coarse, np.array([True]))
    with pytest.raises(LabelError, match=r"patches of slide coarse have 112 px of 2 µm, those of S0 112 px of 1 µm"):
        make([*few, other], tmp_path / "c")
    empty = LabelledSlide("empty", Pictures([]), np.array([False]))
    with pytest.raises(LabelError, match=r"1 slides to learn from have no patch \(empty\)"):
        make([*few, empty], tmp_path / "d")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": {"lambda": 1.0}}, "unknown key 'lambda' in 'loss'"),
        ({"loss": {"negative_weight": "much"}}, r"loss\.negative_weight"),
        ({"seeds": {"seeder": "otsuu"}}, r"seeds\.seeder"),
        ({"seeds": {"dilation_px": 4}}, r"seeds\.dilation_px: .*odd"),
    ],
)
def test_wrong_options_are_found_before_anything_is_trained(changes, says):
    with pytest.raises(ConfigError, match=rf"evidence_training: {says}"):
        parse(changes, EvidenceTrainingConfig, where="evidence_training")
