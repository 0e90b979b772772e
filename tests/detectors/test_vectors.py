"""Assigners and codings against the project's copy of the reference vectors."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("WSI_DETECT_VECTORS", HERE / "vectors"))

_spec = importlib.util.spec_from_file_location("vector_checks_detectors", HERE / "vector_checks_detectors.py")
checks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(checks)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", checks.CHECKS)
def test_file(name, dtype):
    checks.CHECKS[name](json.loads((FOLDER / f"{name}.json").read_text()), dtype)
