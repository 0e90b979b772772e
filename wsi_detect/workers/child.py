"""Life of a worker process: set up once, then one item after the other until the parent hangs up."""

import logging
import multiprocessing
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from wsi_detect.workers.attempt import attempt, set_up

#: Who hears what `report` is told; the last one does.
_listeners: list[Callable[[Any], None] | None] = []


def report(payload: Any) -> None:
    """Tell whoever called `map_items` how the item at hand is getting on; without one, nobody is told.

    May be called from any thread. In a spawned process it also is the sign of life that `Limits.stall_s` waits for.

    Args:
        payload: anything that can be pickled.
    """
    listener = _listeners[-1] if _listeners else None
    if listener is not None:
        listener(payload)


@contextmanager
def reporting_to(listener: Callable[[Any], None] | None) -> Iterator[None]:
    """Have `report` call a function of the payload while this lasts; None hears nothing."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


def serve(
    connection: "Connection[Any, Any]",
    level: int,
    memory_bytes: int | None,
    function: Callable[..., Any],
    setup: Callable[[], Any],
) -> None:
    """Answer items until the parent closes its end; messages are pairs of a kind and a value."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if memory_bytes is not None:
        _limit_memory(memory_bytes)
    handler = _ForwardingHandler(connection)
    # As the command line does: this package at the level asked for, everybody else's libraries at warnings.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("wsi_detect").setLevel(level)
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    ready, state = set_up(setup)
    handler.send(("ready", None) if ready == "done" else ("fault", state))
    with reporting_to(lambda payload: handler.send(("progress", payload))):
        while True:
            try:
                item = connection.recv()
            except EOFError:
                return
            handler.send(attempt(function, state, item))


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


def _limit_memory(limit: int) -> None:
    # Not the address space: files mapped for reading, and what threads reserve and never touch, cost no memory.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        # At once: the output folder is free for the next run from the moment the parent is gone.
        os._exit(1)
