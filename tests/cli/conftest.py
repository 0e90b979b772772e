import signal
import sys

import pytest

from wsi_detect.cli.main import main


@pytest.fixture
def cli(monkeypatch, capfd):
    """Run a command line in this process; gives exit code, standard output, standard error."""

    def go(*words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wsi-detect", *map(str, words)])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            main()
        signal.signal(signal.SIGTERM, before)
        out, err = capfd.readouterr()
        return int(caught.value.code or 0), out, err

    return go
