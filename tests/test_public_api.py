"""The front door: what `__all__` names exists, is documented, and costs nothing until it is used."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wsi_detect

ROOT = Path(__file__).parents[1]


def test_the_list_is_sorted_and_complete():
    assert wsi_detect.__all__ == sorted(wsi_detect.__all__)
    assert {*wsi_detect._HOMES, "__version__"} == set(wsi_detect.__all__)
    assert dir(wsi_detect) == wsi_detect.__all__


@pytest.mark.parametrize("name", wsi_detect._HOMES)
def test_a_public_name_is_there_and_says_what_it_is(name):
    entry = getattr(wsi_detect, name)
    assert inspect.getdoc(entry)
    home = importlib.import_module(f"wsi_detect.{wsi_detect._HOMES[name]}")
    assert getattr(home, name) is entry


@pytest.mark.parametrize("name", [n for n in wsi_detect._HOMES if inspect.isfunction(getattr(wsi_detect, n))])
def test_a_public_function_is_fully_annotated(name):
    signature = inspect.signature(getattr(wsi_detect, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'opne_slide'"):
        wsi_detect.opne_slide  # noqa: B018 - looking it up is the test


def test_what_a_lab_pc_uses_loads_no_torch():
    """Opening, tiling, stitching, exporting and reporting, by their public names."""
    names = "open_slide tile_slide PatchStore TileGrid stitch_detections CellMap export_cells write_report read_info"
    program = (
        f"import sys, wsi_detect\nfor n in {names.split()}: getattr(wsi_detect, n)\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_version_is_that_of_the_changelog():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert wsi_detect.__version__ == versions[0]
    assert re.fullmatch(r"\d+\.\d+\.\d+", wsi_detect.__version__)
