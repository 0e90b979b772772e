"""Losses against numbers computed with the published reference programs (see the header of each file).

`WSI_DETECT_VECTORS` names another folder of the same files, to hold the losses against further cases.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from wsi_detect.losses import LOSSES

FOLDER = Path(os.environ.get("WSI_DETECT_VECTORS", Path(__file__).parent.parent / "vectors"))


def focal_cases():
    content = json.loads((FOLDER / "focal.json").read_text())
    return content.get("cases", [content])


@pytest.mark.parametrize("case", focal_cases())
def test_focal(case):
    logits = torch.tensor(case["logits"], dtype=torch.float64, requires_grad=True)
    rows, classes = logits.shape
    labels = torch.tensor(case["labels_bg_is_C"])
    targets = torch.nn.functional.one_hot(labels, classes + 1)[:, :classes].double()
    loss = LOSSES["focal"](alpha=case["alpha"], gamma=case["gamma"])
    value = loss(
        logits,
        targets,
        valid=torch.ones(rows, dtype=torch.bool),
        image=torch.zeros(rows, dtype=torch.int64),
        normaliser=case["avg_factor"],
    )
    # The reference adds 1.2e-7 to its divisor.
    assert value.item() == pytest.approx(case["loss"], rel=1e-6)
    value.backward()
    torch.testing.assert_close(
        logits.grad, torch.tensor(case["grad_logits"], dtype=torch.float64), rtol=1e-6, atol=1e-9
    )
