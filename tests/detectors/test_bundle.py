"""Bundles: what goes in comes out, and what is wrong is named."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from wsi_detect.detectors.bundle import load_bundle, read_info, save_bundle
from wsi_detect.detectors.fcos import fcos
from wsi_detect.detectors.info import DetectorInfo
from wsi_detect.errors import DamagedArtifactError, ForeignModelError, MissingArtifactError, ModelError
from wsi_detect.inference import RUNTIMES
from wsi_detect.inference.torch import load

OPTIONS = {"last_stage": 3, "extra_levels": 0, "keep_levels": 1, "channels": 32, "tower_depth": 1, "norm": "batch"}
INFO = DetectorInfo(
    model_id="tiny",
    classes=("NILM", "HSIL"),
    patch_px=64,
    mpp=0.27,
    mpp_assumed=True,
    preparation="conventional smear",
    largest_cell_um=22.5,
    score_threshold=0.05,
    detector={"name": "fcos", "options": OPTIONS},
    data_card="painted",
)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return fcos(2, OPTIONS)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 1e-3)])
def test_round_trip(tmp_path, model, half, tolerance):
    written = save_bundle(tmp_path, model, INFO, "# card", half=half)
    loaded, info = load_bundle(tmp_path)
    assert info == written == read_info(tmp_path)
    assert info.model_id.startswith("tiny@")
    assert not loaded.training
    for key, value in model.state_dict().items():
        assert loaded.state_dict()[key].dtype == value.dtype
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=tolerance, atol=tolerance)


def test_the_id_changes_with_the_weights(tmp_path, model):
    first = save_bundle(tmp_path / "a", model, INFO, "").model_id
    again = save_bundle(tmp_path / "b", model, INFO, "").model_id
    with torch.no_grad():
        model.head.cls.bias += 1
    other = save_bundle(tmp_path / "c", model, INFO, "").model_id
    assert first == again != other


def test_unseen_classes_are_listed_gravest_first():
    unseen = INFO.unseen_classes()
    assert unseen[0] == "ADC"
    assert "SCC" in unseen
    assert "HSIL" not in unseen


def test_missing_files(tmp_path, model):
    with pytest.raises(MissingArtifactError, match=r"config\.json is missing"):
        load_bundle(tmp_path)
    save_bundle(tmp_path, model, INFO, "")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingArtifactError, match=r"model\.safetensors is missing"):
        load_bundle(tmp_path)


def test_weights_that_are_not_safetensors(tmp_path, model):
    save_bundle(tmp_path, model, INFO, "")
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(ModelError, match="not a safetensors file"):
        load_bundle(tmp_path)


def test_weights_of_another_shape_or_not_finite(tmp_path, model):
    save_bundle(tmp_path, model, INFO, "")
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file({**state, "head.cls.bias": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"1 entries differ, first 'head\.cls\.bias'"):
        load_bundle(tmp_path)
    save_file({**state, "head.cls.bias": torch.full((2,), torch.nan)}, path)
    with pytest.raises(ModelError, match="not finite"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [({"classes": ["NILM", "ZZZ"]}, ForeignModelError), ({"colour": 1}, DamagedArtifactError)],
)
def test_configs_that_lie(tmp_path, model, change, error):
    save_bundle(tmp_path, model, INFO, "")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(error):
        read_info(tmp_path)


def test_a_model_of_other_material_is_taken_on_purpose_only(tmp_path, model):
    save_bundle(tmp_path, model, replace(INFO, classes=("RBC", "WBC"), data_card="blood"), "")
    with pytest.raises(ForeignModelError, match=r"finds RBC, WBC, which the Bethesda System does not have.*blood"):
        load_bundle(tmp_path)
    with pytest.raises(ForeignModelError, match="of no use on a slide"):
        RUNTIMES["torch"](tmp_path, "cpu")
    assert load_bundle(tmp_path, any_specimen=True)[1].classes == ("RBC", "WBC")
    assert load(tmp_path, "cpu", any_specimen=True).info.classes == ("RBC", "WBC")
