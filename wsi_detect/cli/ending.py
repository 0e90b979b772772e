"""How a program ends: what every kind of error looks like to the user and to the shell."""

import errno
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer

from wsi_detect.errors import (
    EXIT_BUG,
    EXIT_ENVIRONMENT,
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    MissingExtraError,
    WsiDetectError,
)

_ENVIRONMENT = {
    errno.ENOSPC: "there is no space left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
}


#: Module → the extra that brings it.
_EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "safetensors"), "detect"),
    **dict.fromkeys(("lightning", "albumentations", "cv2", "tensorboard"), "train"),
    "faster_coco_eval": "eval",
    "ray": "ray",
}


@contextmanager
def documented_exit() -> Iterator[None]:
    """Run a program's body; what it raises becomes one line and an exit code of `errors.py`.

    SIGTERM ends it too as an exception, so that half-written files are removed. The command line and the pipelines
    use it; `SystemExit` passes.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except WsiDetectError as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("stopped; run the same command to continue")
        sys.exit(EXIT_INTERRUPTED)
    except ModuleNotFoundError as error:
        _end_with_missing_module(error)
    except OSError as error:
        _end_with_os_error(error)
    except MemoryError:
        _say("there is not enough memory; try fewer --workers, or a smaller detection.batch_size")
        sys.exit(EXIT_ENVIRONMENT)
    except Exception as error:
        _end_with_bug(error)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # SystemExit runs every `finally` on the way, so workers are ended and half-written files removed.
    _say("terminated; run the same command to continue")
    sys.exit(EXIT_TERMINATED)


def _end_with_missing_module(error: ModuleNotFoundError) -> NoReturn:
    name = (error.name or "").partition(".")[0]
    if name not in _EXTRAS:
        _end_with_bug(error)
    missing = MissingExtraError(f"this command uses {name}, which", _EXTRAS[name])
    _say(str(missing))
    sys.exit(missing.exit_code)


def _end_with_os_error(error: OSError) -> NoReturn:
    cause = _ENVIRONMENT.get(error.errno or 0)
    if cause is None:
        _end_with_bug(error)
    place = error.filename if isinstance(error.filename, str) else "the output folder"
    folder = place if os.path.isdir(place) else os.path.dirname(place) or place
    _say(f"{cause} on {folder}")
    sys.exit(EXIT_ENVIRONMENT)


def _end_with_bug(error: Exception) -> NoReturn:
    """One line for the user, the traceback into a file."""
    with tempfile.NamedTemporaryFile("w", prefix="wsi-detect-", suffix=".log", delete=False) as log:
        log.write("".join(traceback.format_exception(error)))
    what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    _say(f"unexpected {what}; this is a bug, the details are in {log.name}")
    sys.exit(EXIT_BUG)


def _say(text: str) -> None:
    typer.echo(f"wsi-detect: {text}", err=True)
