import numpy as np
import pytest
import torch

from wsi_detect.errors import ConfigError
from wsi_detect.inference import RUNTIMES
from wsi_detect.inference.torch import load


@pytest.fixture(scope="module")
def patches():
    return np.random.default_rng(0).integers(0, 256, (5, 128, 128, 3), dtype=np.uint8)


def test_shapes_and_types(tiny_bundle, patches):
    found = load(tiny_bundle, "cpu")(patches)
    assert len(found) == 5
    first = found[0]
    count = len(first)
    assert count > 0
    assert (first.boxes.shape, first.boxes.dtype) == ((count, 4), np.float32)
    assert (first.scores.shape, first.scores.dtype) == ((count,), np.float32)
    assert (first.labels.shape, first.labels.dtype) == ((count,), np.int64)
    assert (first.class_scores.shape, first.class_scores.dtype) == ((count, 3), np.float32)
    assert first.is_finite()


def test_no_patches_no_answers(tiny_bundle, patches):
    assert load(tiny_bundle, "cpu")(patches[:0]) == []


def test_a_threshold_nothing_reaches_gives_typed_empties(tiny_bundle, patches):
    (found,) = load(tiny_bundle, "cpu", score_threshold=1.0)(patches[:1])
    assert (found.boxes.shape, found.class_scores.shape, len(found)) == ((0, 4), (0, 3), 0)
    assert found.is_finite()


def test_the_batch_size_does_not_matter(tiny_bundle, patches):
    detector = load(tiny_bundle, "cpu")
    together = detector(patches)
    alone = [detector(patches[k : k + 1])[0] for k in range(len(patches))]
    for a, b in zip(together, alone, strict=True):
        assert len(a) == len(b)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=0.05)


def test_a_value_that_is_no_number_is_noticed(tiny_bundle, patches):
    """It lies below every threshold, so without the check the patch would look empty."""
    detector = load(tiny_bundle, "cpu")
    bias = detector._model.head.cls.bias
    with torch.no_grad():
        bias.fill_(float("nan"))
    assert [found.is_finite() for found in detector(patches[:2])] == [False, False]


def test_memory_that_runs_out_halves_the_batch(tiny_bundle, patches, monkeypatch):
    detector = load(tiny_bundle, "cpu")
    expected = detector(patches)
    whole = detector._forward
    sizes = []

    def forward(batch):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("too much")
        return whole(batch)

    monkeypatch.setattr(detector, "_forward", forward)
    found = detector(patches)
    assert sizes == [5, 2, 3, 1, 2]
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_options_reach_the_model(tiny_bundle):
    detector = load(tiny_bundle, "cpu", nms="agnostic", threads=1)
    assert detector._model.selection.nms == "agnostic"
    assert detector._model.selection.score_threshold == 0.3
    assert torch.get_num_threads() == 1


def test_a_device_that_is_not_there(tiny_bundle):
    with pytest.raises(ConfigError, match="cuda:77"):
        load(tiny_bundle, "cuda:77")


def test_the_runtime_is_found_by_name(tiny_bundle):
    assert RUNTIMES["torch"](tiny_bundle, "cpu").info.classes == ("NILM", "LSIL", "HSIL")
