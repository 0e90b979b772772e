"""Detector, neck and losses are one word each; what does not fit is refused with what does; bundles hold them all."""

import itertools
import math

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from wsi_detect.config import load
from wsi_detect.detectors import DETECTORS, build_detector
from wsi_detect.detectors import config as config_module
from wsi_detect.detectors.bundle import load_bundle, put_weights, save_bundle, trained_weights
from wsi_detect.detectors.info import DetectorInfo
from wsi_detect.detectors.necks import NECKS
from wsi_detect.errors import ConfigError, UnknownKeyError
from wsi_detect.inference.torch import load as load_torch
from wsi_detect.losses import BOX_LOSSES, LOSSES, extra_columns
from wsi_detect.losses.iif import CosineClassifier
from wsi_detect.testing.tiny_detectors import TINY
from wsi_detect.training.config import TrainingConfig


class Stages(nn.Module):
    """A backbone of four convolutions: these tests are about words, and build a hundred detectors."""

    def __init__(self, last):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if k == 0 else 4, 4, 3, 4 if k == 0 else 2, 1) for k in range(last))

    def forward(self, images):
        found = {}
        for k, conv in enumerate(self.convs):
            images = conv(images)
            found[f"layer{k + 1}"] = images
        return found


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(config_module, "stages", lambda name, weights, last, frozen_norm: (Stages(last), (4,) * last))


COUNTS = {"cells": [900, 20], "images": [90, 15], "total_images": 200}

#: One run as a file holds it; every test below changes a word of it.
RUN = """
detector: fcos
options:
  backbone: resnet18
  first_stage: 2
  last_stage: 3
  extra_levels: 1
  channels: 16
  tower_depth: 1
  neck: fpn
  loss: focal
  box_loss: giou
  input_scale: 0.5
"""


def built(tmp_path, *changes):
    """The detector of the run with words changed as the command line would change them."""
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    config = load(path, TrainingConfig, changes)
    return build_detector(config.detector, 2, config.options)


def with_counts(loss):
    needs = getattr(LOSSES[loss], "needs", ())
    return [f"options.loss_options={yaml.safe_dump({'class_counts': COUNTS}, default_flow_style=True).strip()}"] * (
        "class_counts" in needs
    )


@pytest.mark.parametrize(("detector", "neck"), list(itertools.product(DETECTORS, NECKS)))
def test_every_detector_takes_every_neck(quick, tmp_path, detector, neck):
    model = built(tmp_path, f"detector={detector}", f"options.neck={neck}")
    assert type(model.backbone.pyramid) is NECKS[neck]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_takes_the_losses_that_fit(quick, tmp_path, detector, loss):
    changes = f"detector={detector}", f"options.loss={loss}", *with_counts(loss)
    fits = detector == "faster_rcnn" or getattr(LOSSES[loss], "kind", "sigmoid") == "sigmoid"
    if not fits:
        with pytest.raises(ConfigError, match=rf"{loss}.*does not fit this detector; these do: .*focal"):
            built(tmp_path, *changes)
        return
    model = built(tmp_path, *changes)
    assert type(model.head.loss) is LOSSES[loss]
    if detector == "faster_rcnn":
        assert model.head.cls.out_features == 2 + extra_columns(model.head.loss)


@pytest.mark.parametrize(("detector", "box_loss"), list(itertools.product(DETECTORS, BOX_LOSSES)))
def test_every_detector_takes_every_box_loss(quick, tmp_path, detector, box_loss):
    model = built(tmp_path, f"detector={detector}", f"options.box_loss={box_loss}")
    assert model.head.box_loss.function is BOX_LOSSES[box_loss]


@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in ("focal",)])
def test_two_stage_losses_train_and_score(quick, tmp_path, loss):
    """Every column a loss wants, and none of them a class that is reported."""
    torch.manual_seed(0)
    model = built(tmp_path, "detector=faster_rcnn", f"options.loss={loss}", *with_counts(loss))
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[5.0, 5.0, 45.0, 45.0]]), "labels": torch.tensor([1])}
    losses = model.train()([image], [target])
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    model.selection = model.selection.model_copy(update={"score_threshold": 0.0})
    (found,) = model.eval()([image])
    assert found["class_scores"].shape[1] == 2
    assert set(found["labels"].tolist()) <= {0, 1}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_cosine_classifier_takes_softmax_losses(quick, tmp_path, loss):
    changes = "detector=faster_rcnn", "options.head={classifier: cosine}", f"options.loss={loss}", *with_counts(loss)
    if getattr(LOSSES[loss], "kind", "sigmoid") == "sigmoid":
        with pytest.raises(
            ConfigError, match=rf"loss '{loss}'.*does not fit the classifier 'cosine'.*: ce, iif, seesaw$"
        ):
            built(tmp_path, *changes)
        return
    model = built(tmp_path, *changes)
    assert type(model.head.cls) is CosineClassifier
    assert model.head.cls.weight.shape[0] == 2 + extra_columns(model.head.loss)
    assert model.head.cls.temperature == 8
    logits, _ = model.head([torch.rand(1, 16, 8, 8)] * 2, [torch.tensor([[0.0, 0.0, 30.0, 30.0]])], [(64, 64)])
    assert logits.abs().max() <= 8


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("{classifier: cosin}", "detector 'faster_rcnn': unknown classifier 'cosin'; known: cosine, linear"),
        ("{temperature: 20}", "temperature is of the classifier 'cosine', not 'linear'"),
        ("{classifier: cosine, temperature: 0}", "temperature"),
    ],
)
def test_classifiers_that_are_refused(quick, tmp_path, head, message):
    with pytest.raises(ConfigError, match=message):
        built(tmp_path, "detector=faster_rcnn", "options.loss=ce", f"options.head={head}")


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_iif_after_training_alone_in_two_stages(quick, tmp_path, classifier):
    """Trained as cross-entropy is, asked with the weights: the same network, its scores softmax(u z)."""
    common = "detector=faster_rcnn", f"options.head={{classifier: {classifier}}}"
    given = f"{{class_counts: {COUNTS}, post_hoc: true}}"
    plain = built(tmp_path, *common, "options.loss=ce")
    after = built(tmp_path, *common, "options.loss=iif", f"options.loss_options={given}")
    assert put_weights(after, trained_weights(plain)) == []
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[5.0, 5.0, 45.0, 45.0]]), "labels": torch.tensor([1])}
    trained = []
    for model in (plain, after):
        torch.manual_seed(0)  # proposals are sampled
        trained.append({name: value.item() for name, value in model.train()([image], [target]).items()})
    assert trained[0] == trained[1]
    u = torch.tensor([math.log10(920 / 900), math.log10(920 / 20), 1.0])
    logits = torch.tensor([[2.0, 1.0, 0.5]])
    _, scores = after.head.decode(logits, torch.zeros(1, 2, 4), [torch.tensor([[0.0, 0.0, 9.0, 9.0]])])
    torch.testing.assert_close(scores, torch.softmax(u * logits, dim=1)[:, :2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("options.neck=pan", ConfigError, "unknown neck 'pan'; known: fpn, two_pronged"),
        ("options.loss=ce", ConfigError, "does not fit this detector; these do: "),
        ("options.loss=foo", ConfigError, "unknown loss 'foo'; known: "),
        ("options.loss_options={beta: 1}", ConfigError, "loss 'focal': .*beta"),
        ("options.box_loss=iou", ConfigError, "unknown box loss 'iou'; it takes giou, l1, riou, smooth_l1"),
        ("options.neck=none", ConfigError, "unknown neck 'none'"),
        ("options.nekc=fpn", UnknownKeyError, "did you mean 'neck'"),
        ("options.head={nearest: 3}", UnknownKeyError, "detector 'fcos': section 'head'"),
        ("options.first_stage=4", ConfigError, "first_stage 4 lies after 3"),
    ],
)
def test_what_does_not_fit_is_refused(quick, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        built(tmp_path, change)


@pytest.mark.parametrize("name", DETECTORS)
def test_bundles_hold_and_run_every_detector(tmp_path, name):
    """Saved, loaded and asked through the runtime: the same answers; a weight that is no number is noticed."""
    torch.manual_seed(0)
    options = {**TINY[name], "prior": 0.3, "weights": None}
    model = build_detector(name, 2, options).eval()
    info = DetectorInfo(
        model_id="tiny", classes=("NILM", "HSIL"), patch_px=128, mpp=0.25, mpp_assumed=False, preparation="painted",
        largest_cell_um=12.0, score_threshold=0.05, detector={"name": name, "options": options}, data_card="none",
    )  # fmt: skip
    save_bundle(tmp_path / "bundle", model, info, "# tiny\n")
    loaded, _ = load_bundle(tmp_path / "bundle")
    patches = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model([torch.from_numpy(patch).permute(2, 0, 1) for patch in patches])
    runtime = load_torch(tmp_path / "bundle", "cpu")
    found = runtime(patches)
    assert type(loaded) is type(model)
    for want, have in zip(expected, found, strict=True):
        assert have.is_finite()
        assert len(have) == len(want["scores"])
        np.testing.assert_allclose(have.boxes, want["boxes"].numpy(), atol=1e-4)
    with torch.no_grad():
        runtime._model.head.cls.bias.fill_(float("nan"))
    assert not any(answer.is_finite() for answer in runtime(patches))


@pytest.mark.parametrize(
    ("loss", "said", "by_image"),
    [("focal", None, True), ("focal", "batch", False), ("ghm", None, False), ("eqlv2", None, False)],
)
def test_retinanet_counts_by_batch_where_a_loss_keeps_statistics(loss, said, by_image):
    own = {} if said is None else {"normaliser": said}
    assert build_detector("retinanet", 2, {**TINY["retinanet"], "loss": loss, "head": own}).head.by_image is by_image


def test_statistics_of_single_images_are_refused():
    options = {**TINY["retinanet"], "loss": "ghm", "head": {"normaliser": "image"}}
    with pytest.raises(ConfigError, match="'ghm' keeps statistics of whole batches"):
        build_detector("retinanet", 2, options)
