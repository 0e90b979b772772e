"""One item, tried once: its result, its failure in one line, or the fault that ends everything."""

import errno
import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from wsi_detect.errors import EnvironmentFaultError, MissingExtraError

T = TypeVar("T")
R = TypeVar("R")

#: The disk or its quota is full, or it cannot be written.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

#: What Python says when there is no memory for a thread's stack.
_NO_THREAD = "can't start new thread"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T, R]):
    """What became of one item.

    Attributes:
        item: what the function was given.
        result: what it returned; None when it failed.
        error: one line saying why it failed; None when it did not.
        worker: which process did it.
    """

    item: T
    result: R | None
    error: str | None
    worker: str


def attempt(function: Callable[[Any, T], R], state: Any, item: T) -> tuple[str, Any]:
    """Return ("done", result), ("failed" or "memory", one line), or ("fault", error the whole map ends with)."""
    try:
        return "done", function(state, item)
    except EnvironmentFaultError as error:
        return "fault", _portable(error)
    except Exception as error:
        fault = environment_fault(error)
        if fault is not None:
            return "fault", fault
        # Recorded in the log and in the outcome: one bad item must not cost the others.
        _log.error("%s", traceback.format_exc())
        return "memory" if _ran_out_of_memory(error) else "failed", f"{type(error).__name__}: {one_line(error)}"


def outcome_of(item: T, status: str, value: Any, worker: str) -> Outcome[T, Any]:
    """Make an outcome of what `attempt` returned.

    Raises:
        EnvironmentFaultError: that is what it returned.
    """
    if status == "fault":
        raise value
    return Outcome(item, value, None, worker) if status == "done" else Outcome(item, None, value, worker)


def set_up(setup: Callable[[], Any]) -> tuple[str, Any]:
    """Return ("done", state) or ("fault", error the whole map ends with)."""
    status, value = attempt(lambda _, make: make(), None, setup)
    if status == "done" or isinstance(value, EnvironmentFaultError):
        return status, value
    return "fault", EnvironmentFaultError(f"a worker cannot start: {value}")


def one_line(error: BaseException) -> str:
    """Say in one line what went wrong."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def environment_fault(error: BaseException) -> EnvironmentFaultError | None:
    """Return what to raise instead of an error of the operating system that no other item will be spared; else None."""
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return None
    place = f" on {Path(error.filename).parent}" if isinstance(error.filename, str) else ""
    return EnvironmentFaultError(
        f"{(error.strerror or 'error').lower()}{place}; make room there, then run the same again"
    )


def _portable(error: EnvironmentFaultError) -> EnvironmentFaultError:
    # An extra's error takes other arguments than its message and would not survive the pipe.
    return EnvironmentFaultError(one_line(error)) if isinstance(error, MissingExtraError) else error


def _ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether a lack of memory is behind an error, whatever it was made into on its way."""
    while error is not None:
        if isinstance(error, MemoryError) or str(error) == _NO_THREAD:
            return True
        error = error.__cause__ or error.__context__
    return False
