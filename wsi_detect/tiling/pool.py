"""A small supervisor: map a function over tasks in several spawned processes, where a lost process costs one task.

The standard pools do not survive a killed child (`ProcessPoolExecutor` gives up on every task, `multiprocessing.Pool`
waits for ever). Here each child holds one task at a time; when it dies its task is given once more to a fresh child.
"""

import contextlib
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from wsi_detect.errors import EnvironmentFaultError

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")

#: A task whose process dies this often is given up: it is the task, not the weather.
MAX_LOSSES = 2
_NATIVE_FAULTS = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
    if hasattr(signal, "SIGBUS")
    else {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
)


def map_shards(
    function: Callable[[T, S], R],
    tasks: Sequence[T],
    workers: int,
    *,
    setup: Callable[[], AbstractContextManager[S]] = nullcontext,  # type: ignore[assignment]
    on_result: Callable[[int, R], None] | None = None,
    crash_error: type[Exception] = EnvironmentFaultError,
) -> list[R]:
    """Call `function(task, state)` for every task and return the results in the order of the tasks.

    `function`, `setup`, tasks and results must be picklable: module-level functions, or `functools.partial` of them.
    With `workers` ≤ 1 everything runs in this process; otherwise in min(workers, tasks) spawned ones, each of which
    gets a task at once. Children ignore Ctrl-C (the parent ends them) and end when the parent does.

    Args:
        function: does one task; must not depend on which process runs it, or on what ran there before.
        tasks: what to do; may be empty.
        workers: number of processes.
        setup: called once in each process, returns a context manager whose value is passed as `state` (an open
            slide, a loaded model) and which is left when the process is done. Default: state is None.
        on_result: called in this process with the task's number and its result, in the order they finish.
        crash_error: raised when native code (a decoder) brought the process down twice on one task.

    Raises:
        EnvironmentFaultError: a process was lost twice on one task, for example to the out-of-memory killer.
        Exception: the first error `function` or `setup` raised, with the child's traceback as a note.
    """
    if not tasks:
        return []
    if workers <= 1:
        return _in_process(function, tasks, setup, on_result)
    results: dict[int, R] = {}
    with _Team(function, setup, crash_error, len(tasks)) as team:
        for number, result in team.run(tasks, workers):
            results[number] = result
            if on_result is not None:
                on_result(number, result)
    return [results[number] for number in range(len(tasks))]


def _in_process(
    function: Callable[[T, S], R],
    tasks: Sequence[T],
    setup: Callable[[], AbstractContextManager[S]],
    on_result: Callable[[int, R], None] | None,
) -> list[R]:
    results = []
    with setup() as state:
        for number, task in enumerate(tasks):
            results.append(function(task, state))
            if on_result is not None:
                on_result(number, results[-1])
    return results


@dataclass
class _Child:
    process: SpawnProcess
    connection: Connection
    task: int


class _Team:
    """The children of one `map_shards` call."""

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        setup: Callable[[], AbstractContextManager[Any]],
        crash_error: type[Exception],
        total: int,
    ) -> None:
        self._work = (function, setup)
        self._crash_error = crash_error
        self._total = total
        self._children: list[_Child] = []
        self._losses = [0] * total

    def __enter__(self) -> "_Team":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.process.terminate()
        for child in self._children:
            self._bury(child)

    def run(self, tasks: Sequence[Any], workers: int) -> Iterator[tuple[int, Any]]:
        """Yield (number, result) as tasks finish."""
        waiting = deque(range(self._total))
        finished = 0
        while finished < self._total:
            while waiting and len(self._children) < workers:
                self._hire(waiting.popleft(), tasks)
            for connection in wait([child.connection for child in self._children]):
                child = next(c for c in self._children if c.connection is connection)
                try:
                    outcome, value = child.connection.recv()
                except (EOFError, OSError):
                    waiting.appendleft(self._lost(child))
                    continue
                if not outcome:
                    raise value
                finished += 1
                yield child.task, value
                if waiting:
                    self._give(child, waiting.popleft(), tasks)
                else:
                    self._dismiss(child)

    def _hire(self, number: int, tasks: Sequence[Any]) -> None:
        # Spawn, not fork: an open slide handle or a running thread must never be copied into a child.
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self._work), daemon=True)
        process.start()
        theirs.close()
        child = _Child(process, ours, number)
        self._children.append(child)
        self._give(child, number, tasks)

    def _give(self, child: _Child, number: int, tasks: Sequence[Any]) -> None:
        child.task = number
        # A child that died between two tasks is noticed when its answer is awaited.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            child.connection.send(tasks[number])

    def _dismiss(self, child: _Child) -> None:
        self._children.remove(child)
        # Closing our end is the word to leave: the child's next recv ends.
        self._bury(child)

    def _lost(self, child: _Child) -> int:
        self._children.remove(child)
        code = self._bury(child)
        self._losses[child.task] += 1
        if self._losses[child.task] >= MAX_LOSSES:
            kind = self._crash_error if -code in _NATIVE_FAULTS else EnvironmentFaultError
            raise kind(
                f"a worker process died {MAX_LOSSES} times on piece {child.task + 1} of {self._total}: {_cause(code)}"
            )
        return child.task

    @staticmethod
    def _bury(child: _Child) -> int:
        child.connection.close()
        child.process.join()
        code = child.process.exitcode
        child.process.close()
        return code or 0


def _cause(code: int) -> str:
    if code >= 0:
        return f"it ended with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    hint = "; often the out-of-memory killer, try fewer workers" if name == "SIGKILL" else ""
    return f"signal {-code} ({name}){hint}"


def _serve(
    connection: Connection,
    function: Callable[[Any, Any], Any],
    setup: Callable[[], AbstractContextManager[Any]],
) -> None:
    """Life of a child: answer tasks until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError), _reporting(connection), setup() as state:
        while True:
            try:
                task = connection.recv()
            except EOFError:
                return
            connection.send((True, function(task, state)))


@contextmanager
def _reporting(connection: Connection) -> Iterator[None]:
    """Send what went wrong to the parent, which raises it there."""
    try:
        yield
    except Exception as error:
        connection.send((False, _portable(error)))


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        # The main thread may sit in native code; nothing of value is lost, results go by rename.
        os._exit(1)


def _portable(error: Exception) -> BaseException:
    """An equal error that survives the pipe, with the child's traceback as a note."""
    note = f"in worker process {os.getpid()}:\n{''.join(traceback.format_exception(error)).rstrip()}"
    for kind in type(error).__mro__:
        try:
            # An error whose constructor takes other arguments cannot be unpickled; its nearest ancestor can.
            candidate = error if kind is type(error) else kind(str(error))
            candidate.add_note(note)
            pickle.loads(pickle.dumps(candidate))  # noqa: S301 - our own bytes, made on this line
        except (TypeError, AttributeError, ValueError, pickle.PickleError):
            continue
        return candidate
    raise AssertionError("Exception itself always survives") from error
