"""The configurations in docs/detectors.md are valid, and every detector and neck is in it."""

import re
from pathlib import Path

import pytest
import yaml

from wsi_detect.detectors import DETECTORS, build_detector
from wsi_detect.detectors.necks import NECKS
from wsi_detect.losses import ClassCounts, with_class_counts
from wsi_detect.training.config import TrainingConfig

TEXT = (Path(__file__).parents[2] / "docs" / "detectors.md").read_text()
CONFIGS = [yaml.safe_load(text) for text in re.findall(r"<!-- config -->\n```yaml\n(.*?)```", TEXT, re.S)]


@pytest.mark.parametrize("values", CONFIGS, ids=lambda values: values["training"]["detector"])
def test_configurations_build(values):
    config = TrainingConfig.model_validate(values["training"])
    # As training does: counts come from its index.
    options = with_class_counts(config.options, ClassCounts((9.0,) * 6, (9.0,) * 6, 60.0))
    assert build_detector(config.detector, 6, options).selection.score_threshold == 0.05


def test_nothing_is_left_out():
    assert {values["training"]["detector"] for values in CONFIGS} == set(DETECTORS)
    assert all(f"| `{name}` |" in TEXT for name in DETECTORS)
    assert all(f"`{name}`" in TEXT for name in NECKS)
