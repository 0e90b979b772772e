"""How programs end: one line and the documented exit code, for the command line and for every pipeline."""

import errno
import signal
import sys

import pytest
from programs import ROOT

from wsi_detect.cli.ending import documented_exit
from wsi_detect.errors import LabelError

PIPELINES = sorted((ROOT / "pipelines").glob("*.py"))


@pytest.fixture(autouse=True)
def terminated_as_before():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (LabelError("labels.csv: line 3: no label"), 4, "labels.csv: line 3: no label"),
        (OSError(errno.ENOSPC, "No space left", "/data/out/cells.parquet"), 5, "there is no space left on /data/out"),
        (PermissionError(errno.EACCES, "denied", "/data/out/x"), 5, "permission is denied on /data/out"),
        (MemoryError(), 5, "there is not enough memory"),
        (ModuleNotFoundError("no lightning", name="lightning"), 5, "wsi-detect[train]"),
        (KeyboardInterrupt(), 130, "stopped; run the same command to continue"),
    ],
)
def test_what_ends_a_program_is_one_line_and_a_code(capsys, raised, code, says):
    with pytest.raises(SystemExit) as caught, documented_exit():
        raise raised
    assert caught.value.code == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1


def test_a_code_of_its_own_passes():
    with pytest.raises(SystemExit) as caught, documented_exit():
        sys.exit(3)
    assert caught.value.code == 3


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_pipeline_ends_so(path):
    body = path.read_text().partition('if __name__ == "__main__":')[2]
    assert "with documented_exit():" in body
    assert "except" not in body
