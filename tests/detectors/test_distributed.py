"""Two processes with half of a batch each give the gradients of one with all of it (frozen batch norm)."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from programs import load_program

from wsi_detect.detectors import DETECTORS

PROGRAM = Path(__file__).parent / "ddp_program.py"
program = load_program("tests/detectors/ddp_program.py")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    started = [subprocess.Popen([sys.executable, str(PROGRAM), str(rank), str(folder)]) for rank in range(2)]
    assert [process.wait(timeout=600) for process in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_gradients(name, together):
    alone = program.gradients(name, slice(None), lambda model: model)
    first, second = (states[name] for states in together)
    assert set(first) == set(alone)
    assert any(bool(value.abs().max() > 0) for value in alone.values())
    for key, value in alone.items():
        assert first[key].equal(second[key])
        # A bias before a group norm has no gradient but what rounding leaves.
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-5 * float(value.abs().max()) + 1e-7)
