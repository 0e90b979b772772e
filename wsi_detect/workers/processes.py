"""The supervisor of spawned processes."""

import logging
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TypeVar

from wsi_detect.errors import EnvironmentFaultError
from wsi_detect.workers.attempt import Outcome, outcome_of
from wsi_detect.workers.child import serve

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

#: How often the supervisor looks at the clock, seconds.
_TICK_S = 1.0
#: Ways in which native code ends that was denied memory.
_DENIED = frozenset({signal.SIGABRT, signal.SIGTRAP, signal.SIGSEGV})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one item may take; None is no limit.

    Attributes:
        stall_s: an item whose process neither finishes it nor calls `report` for this long is given up. Time in which
            the supervisor itself does not run (Ctrl-Z, a sleeping machine) does not count.
        memory_bytes: private memory of a process, the interpreter and its libraries (some 0.3 GB) included.
    """

    stall_s: float | None = None
    memory_bytes: int | None = None

    def shortage(self) -> str:
        """Say that an item needed more memory than it may take."""
        return (
            f"needs more than {(self.memory_bytes or 0) / 1e9:.3g} GB of memory; "
            "raise --max-memory or use fewer --threads"
        )


def map_processes(
    function: Callable[[S, T], R],
    items: Sequence[T],
    setup: Callable[[], S],
    workers: int,
    *,
    limits: Limits,
    on_progress: Callable[[T, Any], None] | None,
) -> Generator[Outcome[T, R], None, None]:
    """As `map_items`, over spawned processes."""
    waiting = deque(range(len(items)))
    crew = [_Worker(function, setup, limits) for _ in range(workers)]
    seen = time.monotonic()
    try:
        while waiting or any(worker.item is not None for worker in crew):
            for worker in crew:
                if worker.ready and worker.item is None and waiting:
                    number = waiting.popleft()
                    worker.give(number, items[number])
            by_connection = {id(worker.connection): worker for worker in crew}
            ready = wait([worker.connection for worker in crew], _TICK_S if limits.stall_s else None)
            seen, passed_s = time.monotonic(), min(time.monotonic() - seen, 2 * _TICK_S)
            for worker in crew:
                worker.silent_s += passed_s
            for worker in [by_connection[id(connection)] for connection in ready]:
                outcome = _listen(worker, items, on_progress)
                if outcome is not None:
                    yield outcome
            for worker in list(crew):
                if worker.is_stalled():
                    yield _give_up(worker, items)
                if worker.connection.closed:
                    crew.remove(worker)
                    crew.extend([_Worker(function, setup, limits)] if waiting else [])
    finally:
        for worker in crew:
            worker.stop()


class _Worker:
    """A child process, the pipe to it, and the item it is at."""

    def __init__(self, function: Callable[..., Any], setup: Callable[[], Any], limits: Limits) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        level = logging.getLogger("wsi_detect").getEffectiveLevel()
        arguments = (theirs, level, limits.memory_bytes, function, setup)
        self.process: SpawnProcess = context.Process(target=serve, args=arguments)
        self.process.start()
        theirs.close()
        self.limits = limits
        self.ready = False
        self.item: int | None = None
        self.silent_s = 0.0

    @property
    def name(self) -> str:
        """For the outcome."""
        return f"process {self.process.pid}"

    def give(self, number: int, item: Any) -> None:
        """Hand over an item; that a child is gone is noticed when its answer is awaited."""
        self.item, self.silent_s = number, 0.0
        with suppress(OSError):
            self.connection.send(item)

    def is_stalled(self) -> bool:
        """Whether nothing was heard of the item for too long."""
        limit = self.limits.stall_s
        return limit is not None and self.item is not None and self.silent_s > limit

    def stop(self) -> None:
        """End the child, whatever it is doing."""
        self.connection.close()
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()

    def last_words(self) -> str:
        """Say how a lost child ended."""
        self.process.join(5)
        code = self.process.exitcode or 0
        if code >= 0:
            return f"the worker process ended with code {code}"
        text = f"the worker process was killed by signal {-code} ({signal.Signals(-code).name})"
        if -code in _DENIED and self.limits.memory_bytes is not None:
            text += f"; a decoder that crashes so may be at fault, or {self.limits.shortage()}"
        return text


def _listen(
    worker: _Worker, items: Sequence[T], on_progress: Callable[[T, Any], None] | None
) -> Outcome[T, Any] | None:
    """Take one message of a child; an outcome if it finished, or lost, its item. A lost child's pipe is closed."""
    try:
        kind, value = worker.connection.recv()
    except (EOFError, OSError):
        kind, value = "failed", worker.last_words()
        worker.stop()
        if not worker.ready:
            raise EnvironmentFaultError(f"a worker cannot start: {value}") from None
        _log.error("%s", value)
    if kind == "log":
        logging.getLogger(value.name).handle(value)
        return None
    worker.silent_s = 0.0
    if kind == "ready":
        worker.ready = True
        return None
    if kind == "progress":
        if on_progress is not None and worker.item is not None:
            on_progress(items[worker.item], value)
        return None
    if kind == "memory" and worker.limits.memory_bytes is not None:
        value = worker.limits.shortage()
    number, worker.item = worker.item, None
    if number is None:
        if kind == "fault":
            raise value
        return None
    return outcome_of(items[number], kind, value, worker.name)


def _give_up(worker: _Worker, items: Sequence[T]) -> Outcome[T, Any]:
    """End a child that got stuck; a stopped one would not heed a request."""
    reason = f"no progress for {worker.limits.stall_s:g} s"
    _log.error("%s: %s", worker.name, reason)
    worker.process.kill()
    worker.stop()
    number = worker.item or 0
    worker.item = None
    return outcome_of(items[number], "failed", reason, worker.name)
