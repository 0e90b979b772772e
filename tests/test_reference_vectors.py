"""Everything the field published a reference program for, against its numbers (tests/vectors/README.md).

`WSI_DETECT_VECTORS` names another folder with files of the same form, named alike; each is checked whole. A file
without a check, a key that a check does not read, or a kind of case it does not know is a failure.
"""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("WSI_DETECT_VECTORS", HERE / "vectors"))
FILES = sorted(FOLDER.rglob("*.json"))

#: The modules that hold the checks: each has a table CHECKS, file stem → check(content of the file, dtype).
MODULES = ("vector_checks_losses", "vector_checks_data", "vector_checks_detectors")


@pytest.fixture(scope="module")
def checks():
    sys.path.insert(0, str(HERE))
    try:
        tables = [importlib.import_module(name).CHECKS for name in MODULES]
    finally:
        sys.path.remove(str(HERE))
    return {stem: check for table in tables for stem, check in table.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file(path, dtype, checks):
    # More of a kind: `negev_2.json` is checked as `negev`.
    kinds = [stem for stem in checks if path.stem == stem or path.stem.startswith((f"{stem}_", f"{stem}-"))]
    assert kinds, f"nothing checks {path.name}"
    checks[max(kinds, key=len)](json.loads(path.read_text()), dtype)


def test_the_folder_has_files_for_every_check(checks):
    """A check without a file checks nothing; this one is of our own folder, another may hold fewer."""
    if FOLDER == HERE / "vectors":
        assert {path.stem for path in FILES} == set(checks)
    assert FILES, f"no vectors in {FOLDER}"


@pytest.mark.parametrize("path", sorted((HERE / "vectors").glob("*.json")), ids=lambda path: path.stem)
def test_what_a_check_does_not_know_is_a_failure(path, checks):
    """One more option in the file, and one in its first case: neither may be passed over."""
    content = json.loads(path.read_text())
    with pytest.raises(AssertionError, match="novelty"):
        checks[path.stem]({**content, "novelty": 1}, torch.float64)
    sections = [key for key, value in content.items() if isinstance(value, list) and isinstance(value[0], dict)]
    for key in sections:
        first, *others = content[key]
        with pytest.raises(AssertionError, match="novelty"):
            checks[path.stem]({**content, key: [{**first, "novelty": 1}, *others]}, torch.float64)


@pytest.mark.parametrize("path", sorted((HERE / "vectors").glob("*.json")), ids=lambda path: path.stem)
def test_another_number_is_a_failure(path, checks):
    """A check that compared nothing would pass any file: with one expected number changed, it must not."""
    content = json.loads(path.read_text())
    changed = _with_another_number(content)
    assert changed != content
    with pytest.raises(AssertionError):
        checks[path.stem](changed, torch.float64)


#: Names of what is expected, in the order in which one is looked for.
EXPECTED = (
    "loss", "loss_classes", "pxap_percent", "repeat_factor_per_image", "weights_sum_to_C", "num_pos", "pos_index",
    "normalised_logits",
)  # fmt: skip


def _with_another_number(content):
    """The content with the first expected number in it raised by a thousandth, or by one if it is whole."""
    for name in EXPECTED:
        text = json.dumps(content)
        start = text.find(f'"{name}": ')
        if start < 0:
            continue
        start += len(name) + 4
        start += text[start] == "["
        end = start + min(k for k in (text[start:].find(mark) for mark in ",]}") if k >= 0)
        number = json.loads(text[start:end].strip("["))
        other = number + 1 if isinstance(number, int) else number * 1.001 + 1e-3
        return json.loads(text[:start] + text[start:end].replace(str(number), repr(other)) + text[end:])
    raise AssertionError(f"none of {EXPECTED} in the file: name one of its expected numbers")
