"""Map a function over slides: in this process, over spawned processes, or over an existing Ray cluster.

The supervisor is our own because the standard pools lose everything, or hang, when one child is killed: here a lost
child costs the one item it was working on. Children forward their log records, leave interrupts to the parent, and end
when the parent ends, however it ends.
"""

import errno
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wsi_detect.errors import EnvironmentFaultError, MissingExtraError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

#: The disk or its quota is full, or it cannot be written.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

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


def map_items(
    function: Callable[[S, T], R],
    items: Sequence[T],
    setup: Callable[[], S],
    *,
    workers: int | None = None,
    ray_address: str | None = None,
) -> Iterator[Outcome[T, R]]:
    """Apply `function(state, item)` to every item; outcomes come in the order they finish.

    Args:
        function: importable by name, as everything that crosses to a spawned process.
        items: what to work on.
        setup: called once in each worker; gives the state, such as a loaded detector.
        workers: processes; 0 works in this process; None is one, or all CPUs of a Ray cluster.
        ray_address: map over the Ray cluster at this address instead (extra `ray`).

    Raises:
        EnvironmentFaultError: the function or `setup` met one, or `setup` failed: no item can be expected to go better.
        MissingExtraError: Ray is asked for and not installed.
    """
    if ray_address is not None:
        return _map_ray(function, items, setup, workers, ray_address)
    if workers == 0:
        return _map_here(function, items, setup)
    return _map_processes(function, items, setup, min(workers or 1, len(items)))


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


def _map_here(function: Callable[[S, T], R], items: Sequence[T], setup: Callable[[], S]) -> Iterator[Outcome[T, R]]:
    state = setup() if items else None
    for item in items:
        status, value = _attempt(function, state, item)
        yield _outcome(item, status, value, f"process {os.getpid()}")


def _attempt(function: Callable[[Any, T], R], state: Any, item: T) -> tuple[str, Any]:
    """Return ("done", result), ("failed", one line) or ("fault", error the whole map ends with)."""
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
        return "failed", f"{type(error).__name__}: {one_line(error)}"


def _portable(error: EnvironmentFaultError) -> EnvironmentFaultError:
    # An extra's error takes other arguments than its message and would not survive the pipe.
    return EnvironmentFaultError(one_line(error)) if isinstance(error, MissingExtraError) else error


def _outcome(item: T, status: str, value: Any, worker: str) -> Outcome[T, R]:
    if status == "fault":
        raise value
    return Outcome(item, value if status == "done" else None, value if status == "failed" else None, worker)


class _ForwardingHandler(logging.Handler):
    """Sends log records to the parent."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None
        self.send(("log", record))

    def send(self, message: tuple[str, Any]) -> None:
        """Send anything; the handler's lock keeps messages of several threads apart."""
        with self.lock or threading.RLock():
            self._connection.send(message)


def _child(
    connection: "Connection[Any, Any]", level: int, function: Callable[..., Any], setup: Callable[[], Any]
) -> None:
    """Life of a worker process: set up once, then one item after the other until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    handler = _ForwardingHandler(connection)
    # As the command line does: this package at the level asked for, everybody else's libraries at warnings.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("wsi_detect").setLevel(level)
    ready, state = _attempt(lambda _, make: make(), None, setup)
    handler.send(("ready", None) if ready == "done" else ("fault", _setup_fault(state)))
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        handler.send(_attempt(function, state, item))


def _setup_fault(value: Any) -> EnvironmentFaultError:
    return (
        value if isinstance(value, EnvironmentFaultError) else EnvironmentFaultError(f"a worker cannot start: {value}")
    )


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        # At once: the output folder is free for the next run from the moment the parent is gone.
        os._exit(1)


class _Worker:
    """A child process, the pipe to it, and the item it is at."""

    def __init__(self, function: Callable[..., Any], setup: Callable[[], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        level = logging.getLogger("wsi_detect").getEffectiveLevel()
        self.process: SpawnProcess = context.Process(target=_child, args=(theirs, level, function, setup))
        self.process.start()
        theirs.close()
        self.ready = False
        self.item: int | None = None

    @property
    def name(self) -> str:
        """For the outcome."""
        return f"process {self.process.pid}"

    def give(self, number: int, item: Any) -> None:
        """Hand over an item; that a child is gone is noticed when its answer is awaited."""
        self.item = number
        with suppress(OSError):
            self.connection.send(item)

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
        if code < 0:
            return f"the worker process was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"the worker process ended with code {code}"


def _map_processes(
    function: Callable[[S, T], R], items: Sequence[T], setup: Callable[[], S], workers: int
) -> Iterator[Outcome[T, R]]:
    waiting = deque(range(len(items)))
    crew = [_Worker(function, setup) for _ in range(workers)]
    try:
        while waiting or any(worker.item is not None for worker in crew):
            for worker in crew:
                if worker.ready and worker.item is None and waiting:
                    number = waiting.popleft()
                    worker.give(number, items[number])
            by_connection = {id(worker.connection): worker for worker in crew}
            for connection in wait([worker.connection for worker in crew]):
                worker = by_connection[id(connection)]
                outcome = _listen(worker, items)
                if outcome is not None:
                    yield outcome
                if worker.connection.closed:
                    crew.remove(worker)
                    crew.extend([_Worker(function, setup)] if waiting else [])
    finally:
        for worker in crew:
            worker.stop()


def _listen(worker: _Worker, items: Sequence[T]) -> Outcome[T, Any] | None:
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
    if kind == "ready":
        worker.ready = True
        return None
    if kind == "fault":
        raise value
    number, worker.item = worker.item, None
    return None if number is None else _outcome(items[number], kind, value, worker.name)


def _map_ray(
    function: Callable[[S, T], R], items: Sequence[T], setup: Callable[[], S], workers: int | None, address: str
) -> Iterator[Outcome[T, R]]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("--ray", "ray") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EnvironmentFaultError(f"no Ray cluster answers at {address}: {one_line(error)}") from error
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        crew = min(workers or int(resources.get("CPU", 1)), len(items))
        share = min(1.0, resources.get("GPU", 0.0) / max(crew, 1))
        member = ray.remote(num_cpus=1, num_gpus=share, max_restarts=0)(_RayWorker)
        yield from _over_actors(ray, lambda: member.remote(function, setup), items, crew)
    finally:
        ray.shutdown()


class _RayWorker:
    """What a Ray actor runs: set up once, then one item after the other."""

    def __init__(self, function: Callable[[Any, Any], Any], setup: Callable[[], Any]) -> None:
        self._function = function
        self._ready, self._state = _attempt(lambda _, make: make(), None, setup)

    def work(self, item: Any) -> tuple[str, Any]:
        """Do one item."""
        if self._ready != "done":
            return "fault", _setup_fault(self._state)
        return _attempt(self._function, self._state, item)


def _over_actors(ray: Any, start: Callable[[], Any], items: Sequence[T], crew: int) -> Iterator[Outcome[T, Any]]:
    """Keep every actor busy with one item; a lost actor is replaced and costs its item."""
    waiting = deque(range(len(items)))
    busy: dict[Any, tuple[Any, int]] = {}
    idle = [start() for _ in range(crew)]
    while waiting or busy:
        while idle and waiting:
            actor, number = idle.pop(), waiting.popleft()
            busy[actor.work.remote(items[number])] = (actor, number)
        done, _ = ray.wait(list(busy))
        for reference in done:
            actor, number = busy.pop(reference)
            try:
                status, value = ray.get(reference)
            except ray.exceptions.RayActorError as error:
                status, value = "failed", f"the Ray worker was lost: {one_line(error)[:200]}"
                actor = start()
            idle.append(actor)
            yield _outcome(items[number], status, value, f"Ray actor {actor._actor_id.hex()[:8]}")
