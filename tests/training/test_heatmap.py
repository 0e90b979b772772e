"""Evidence models learn where lesions are from labels of slides alone; and the rules of both phases."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wsi_detect.data.bags import LabelledSlide
from wsi_detect.detectors.heatmap import build_evidence_model
from wsi_detect.evaluation.pixel_ap import pixel_figures
from wsi_detect.geometry import PatchFrame
from wsi_detect.testing.lesions import paint_lesions
from wsi_detect.training import heatmap_trainer as stage
from wsi_detect.training.heatmap_config import EvidenceTrainingConfig

SIDE = 112
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
