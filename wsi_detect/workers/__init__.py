"""Map a function over slides: in this process, over spawned processes, or over an existing Ray cluster.

The supervisor is our own because the standard pools lose everything, or hang, when one child is killed: here a lost
child costs the one item it was working on. Children forward their log records and their progress, keep to a limit of
memory, leave interrupts to the parent, and end when the parent ends, however it ends.
"""

import os
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, TypeVar

from wsi_detect.workers.attempt import Outcome, attempt, environment_fault, one_line, outcome_of
from wsi_detect.workers.child import report, reporting_to
from wsi_detect.workers.processes import Limits, map_processes

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


def map_items(
    function: Callable[[S, T], R],
    items: Sequence[T],
    setup: Callable[[], S],
    *,
    workers: int | None = None,
    ray_address: str | None = None,
    limits: Limits | None = None,
    on_progress: Callable[[T, Any], None] | None = None,
) -> Generator[Outcome[T, R], None, None]:
    """Apply `function(state, item)` to every item; outcomes come in the order they finish.

    Args:
        function: importable by name, as everything that crosses to a spawned process.
        items: what to work on.
        setup: called once in each worker; gives the state, such as a loaded detector.
        workers: processes; 0 works in this process; None is one, or all CPUs of a Ray cluster.
        ray_address: map over the Ray cluster at this address instead (extra `ray`).
        limits: what an item may take. Only spawned processes keep to them: a cluster has limits of its own, and this
            process cannot be given up.
        on_progress: called here with the item and whatever the function passed to `report` while working on it; not
            over a cluster.

    Raises:
        EnvironmentFaultError: the function or `setup` met one, or `setup` failed: no item can be expected to go better.
        MissingExtraError: Ray is asked for and not installed.
    """
    if ray_address is not None:
        from wsi_detect.workers.cluster import map_ray

        return map_ray(function, items, setup, workers, ray_address)
    if workers == 0:
        return _map_here(function, items, setup, on_progress)
    return map_processes(
        function, items, setup, min(workers or 1, len(items)), limits=limits or Limits(), on_progress=on_progress
    )


def _map_here(
    function: Callable[[S, T], R],
    items: Sequence[T],
    setup: Callable[[], S],
    on_progress: Callable[[T, Any], None] | None,
) -> Generator[Outcome[T, R], None, None]:
    state = setup() if items else None
    for item in items:
        with reporting_to(partial(on_progress, item) if on_progress else None):
            status, value = attempt(function, state, item)
        yield outcome_of(item, status, value, f"process {os.getpid()}")


__all__ = ["Limits", "Outcome", "environment_fault", "map_items", "one_line", "report"]
