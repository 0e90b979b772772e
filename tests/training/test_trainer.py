"""Training: a stopped run ends in the same weights, the bundle says how it was made, what is wrong is named."""

import csv

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from safetensors import safe_open

from wsi_detect import artifact, schema
from wsi_detect.data.index import build_index, read_index
from wsi_detect.detectors import DETECTORS
from wsi_detect.detectors.bundle import load_bundle
from wsi_detect.detectors.dense import DenseDetector
from wsi_detect.errors import ConfigError, LicenceError, NonFiniteError, StaleArtifactError
from wsi_detect.testing.painter import paint_slide
from wsi_detect.testing.tiny_detectors import TINY
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide
from wsi_detect.training import trainer as stage
from wsi_detect.training.config import TrainingConfig

CLASSES = ("NILM", "LSIL", "HSIL", "SCC")
SETTINGS = {
    "options": {
        "first_stage": 2,
        "last_stage": 2,
        "extra_levels": 0,
        "channels": 16,
        "tower_depth": 1,
        "norm": "batch",
        "input_scale": 0.5,
    },
    "loader": {"batch_size": 2, "crop_px": 128},
    "description": {"name": "tiny", "preparation": "painted"},
    "steps": 9,
    "validate_every": 100,
    # Practically after every step.
    "checkpoint_minutes": 1e-6,
    "precision": "32-true",
    "accelerator": "cpu",
    "devices": 1,
    "threads": 1,
    "seed": 3,
}


class StopAt(Callback):
    """Fall over before the step of that number, as a machine would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    root = tmp_path_factory.mktemp("dataset")
    stores, rows = {}, []
    for name, seed in (("A", 1), ("B", 2)):
        slide = paint_slide(root / f"{name}.svs", width=512, height=384, n_cells=14, seed=seed)
        config = TilingConfig(patch_px=256, overlap_px=96, mask={"preparation": "none"})
        stores[name] = tile_slide(slide.path, root / name, config)
        for k, cell in enumerate(slide.cells):
            box = dict(zip(schema.BOX_COLUMNS, cell.box, strict=True))
            rows.append({"slide_id": name, "annotation_id": str(k), "label": cell.label, "source_label": "x", **box})
    annotations = root / "annotations.parquet"
    artifact.write_table(annotations, artifact.table_of(rows, schema.ANNOTATIONS), schema.ANNOTATIONS)
    return build_index(stores, annotations, {"A": "train", "B": "val"}, root / "dataset", CLASSES)


def train(index, out, **changes):
    return stage.train_detector(index, out, TrainingConfig.model_validate({**SETTINGS, **changes}))


def interrupted(index, out, monkeypatch, step, **changes):
    make = stage.make_trainer

    def with_stop(*arguments, **options):
        made = make(*arguments, **options)
        made.callbacks.insert(0, StopAt(step))
        return made

    with monkeypatch.context() as patch:
        patch.setattr(stage, "make_trainer", with_stop)
        with pytest.raises(RuntimeError, match="power cut"):
            train(index, out, **changes)


@pytest.fixture(scope="module")
def undisturbed(index, tmp_path_factory):
    return train(index, tmp_path_factory.mktemp("undisturbed"))


def weights(bundle):
    return (bundle / "model.safetensors").read_bytes()


@pytest.mark.parametrize("step", [2, 5])
def test_a_stopped_run_ends_in_the_same_weights(index, undisturbed, tmp_path, monkeypatch, step):
    interrupted(index, tmp_path, monkeypatch, step)
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert not (tmp_path / "bundle").exists()
    assert weights(train(index, tmp_path)) == weights(undisturbed)


def test_another_seed_gives_other_weights(index, undisturbed, tmp_path):
    assert weights(train(index, tmp_path, seed=4)) != weights(undisturbed)


def test_the_bundle_says_how_it_was_made(undisturbed):
    _, info = load_bundle(undisturbed)
    assert info.classes == CLASSES
    assert info.mpp == 0.25
    assert 5 < info.largest_cell_um <= 20.1
    assert info.training["config"]["steps"] == 9
    assert sum(info.training["cells"].values()) == 14
    assert "not measured yet" in (undisturbed / "README.md").read_text()


def test_ap50_is_watched(index, tmp_path):
    train(index, tmp_path, steps=4, validate_every=2)
    log = tmp_path / "logs" / "version_0"
    with (log / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["step"]) for row in rows if row["ap50/mean"]] == [1, 3]
    assert list(log.glob("events.out.tfevents.*"))


def test_pixels_reach_the_model_as_they_were_stored(index, tmp_path, monkeypatch):
    prepare, seen = DenseDetector.prepare, []

    def watched(self, images):
        seen.extend((image.dtype, image.is_contiguous(), tuple(image.shape)) for image in images)
        return prepare(self, images)

    monkeypatch.setattr(DenseDetector, "prepare", watched)
    train(index, tmp_path, steps=1, validate_every=1)
    # Bytes, a quarter of what floats would be to move; the model makes floats of them.
    assert set(seen) == {(torch.uint8, True, (3, 128, 128)), (torch.uint8, True, (3, 256, 256))}


def test_a_run_can_begin_with_the_weights_of_another(index, undisturbed, tmp_path):
    start = {"start_from": str(undisturbed), "steps": 1}
    frozen = train(index, tmp_path / "same", optimiser={"learning_rate": 1e-12}, **start)
    before, after = (load_bundle(bundle)[0].state_dict() for bundle in (undisturbed, frozen))
    torch.testing.assert_close(after["head.cls.weight"], before["head.cls.weight"], rtol=0, atol=1e-9)
    with pytest.raises(ConfigError, match="is another detector"):
        train(index, tmp_path / "other", options={**SETTINGS["options"], "channels": 32}, **start)


def with_loss(name, **changes):
    return {"options": {**SETTINGS["options"], "loss": name}, **changes}


def with_sampler(name, **options):
    return {"loader": {**SETTINGS["loader"], "sampler": name, "sampler_options": options}}


@pytest.mark.parametrize(
    "name", ["eqlv2", pytest.param("efl", marks=pytest.mark.slow), pytest.param("ghm", marks=pytest.mark.slow)]
)
def test_what_a_loss_has_counted_survives_a_stop(index, tmp_path, monkeypatch, name):
    """It must be the raw figure: the averaged weights of a run are not what its loss has seen."""
    whole = train(index, tmp_path / "whole", **with_loss(name, steps=4))
    interrupted(index, tmp_path / "stopped", monkeypatch, 2, **with_loss(name, steps=4))
    assert weights(train(index, tmp_path / "stopped", **with_loss(name, steps=4))) == weights(whole)


def test_counts_of_the_training_patches_reach_the_loss_and_the_bundle(index, tmp_path):
    bundle = train(index, tmp_path, **with_loss("class_balanced", steps=1))
    model, info = load_bundle(bundle)
    known = read_index(index)
    rows = known.counts[known.rows("train")]
    counts = info.detector["options"]["loss_options"]["class_counts"]
    assert counts["cells"] == rows.sum(axis=0).tolist()
    assert counts["images"] == (rows > 0).sum(axis=0).tolist()
    assert counts["total_images"] == len(rows)
    assert info.training["config"]["options"]["loss"] == "class_balanced"
    assert model.head.loss.class_weights.argmax() == rows.sum(axis=0).argmin()


def test_a_run_can_begin_with_weights_that_another_loss_has_trained(index, undisturbed, tmp_path):
    bundle = train(index, tmp_path, start_from=str(undisturbed), **with_loss("eqlv2", steps=1))
    with safe_open(bundle / "model.safetensors", "pt") as state:
        assert not [name for name in state.keys() if "loss" in name]  # noqa: SIM118 - it is no mapping
    assert load_bundle(bundle)[0].head.loss.pos_grad.sum() == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (with_loss("seesaw"), "does not fit this detector; these do: bce, class_balanced"),
        (with_loss("fokal"), "unknown loss 'fokal'"),
        (with_sampler("uniform", threshold=1), "sampler 'uniform': .*threshold"),
        (with_sampler("repeat_factor", threshold=0), "positive"),
        (with_sampler("class_awair"), "unknown sampler 'class_awair'"),
    ],
)
def test_a_wrong_pairing_is_refused(index, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        train(index, tmp_path, **changes)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "faster_rcnn" else pytest.param(name, marks=pytest.mark.slow)
        for name in DETECTORS
        if name != "fcos"
    ],
)
def test_every_detector_is_trained_watched_and_kept(index, tmp_path, name):
    """Whatever type the model is of: patches with ignored boxes, validation, a bundle that loads."""
    bundle = train(index, tmp_path, detector=name, options=TINY[name], steps=2, validate_every=1)
    model, info = load_bundle(bundle)
    assert info.detector == {"name": name, "options": TINY[name]}
    assert not model.training
    image = torch.randint(0, 255, (3, 256, 256), dtype=torch.uint8)
    with torch.no_grad():
        (found,) = model([image])
    assert found["class_scores"].shape[1] == len(CLASSES)


def test_another_configuration_does_not_continue_a_run(index, undisturbed):
    with pytest.raises(StaleArtifactError, match="another configuration"):
        train(index, undisturbed.parent, steps=10)


def test_without_a_card_nothing_but_research_is_allowed(index, tmp_path):
    with pytest.raises(LicenceError, match="nothing allows the use 'commercial'"):
        train(index, tmp_path / "run", use="commercial")
    assert not (tmp_path / "run").exists()


def test_an_infinite_loss_stops_the_run(index, tmp_path, monkeypatch):
    from wsi_detect.losses import LOSSES, FocalLoss

    class Broken(FocalLoss):
        def forward(self, logits, targets, **rest):
            return super().forward(logits, targets, **rest) * torch.inf

    monkeypatch.setitem(LOSSES, "focal", Broken)
    with pytest.raises(NonFiniteError, match="step 0: loss is not finite"):
        train(index, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loader": {"sampler": "lottery"}}, "unknown sampler 'lottery'; known: class_aware"),
        ({"loader": {"augmentation": "none", "batch_size": 2, "crop_px": 64, "background_share": 0.0}}, None),
        ({"detector": "yolo"}, "unknown detector 'yolo'"),
    ],
)
def test_names_are_checked(index, tmp_path, change, message):
    if message is None:
        assert train(index, tmp_path, steps=1, **change).is_dir()
        return
    with pytest.raises(ConfigError, match=message):
        train(index, tmp_path, **change)


def test_the_average_follows_the_weights_of_a_short_run():
    from wsi_detect.training.callbacks import ModelAverage

    callback = ModelAverage(0.998)
    average = callback._kwargs["avg_fn"]
    value = torch.zeros(())
    for step in range(1, 50):
        value = average(value, torch.ones(()), torch.tensor(step))
    assert value > 0.99
    assert average(torch.tensor(3), torch.tensor(5), 1) == 5


def test_random_states_survive_the_trip():
    from wsi_detect.training.callbacks import RandomState

    torch.manual_seed(1)
    np.random.seed(1)
    state = RandomState().state_dict()
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist())
    callback = RandomState()
    callback.load_state_dict(state)
    callback.on_train_batch_start(None, None, None, 0)
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == expected
