"""Items over the actors of an existing Ray cluster."""

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from wsi_detect.errors import EnvironmentFaultError, MissingExtraError
from wsi_detect.workers.attempt import Outcome, attempt, one_line, outcome_of, set_up

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")


def map_ray(
    function: Callable[[S, T], R], items: Sequence[T], setup: Callable[[], S], workers: int | None, address: str
) -> Generator[Outcome[T, R], None, None]:
    """As `map_items`, over a cluster."""
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
        self._ready, self._state = set_up(setup)

    def work(self, item: Any) -> tuple[str, Any]:
        """Do one item."""
        if self._ready != "done":
            return "fault", self._state
        return attempt(self._function, self._state, item)


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
            yield outcome_of(items[number], status, value, f"Ray actor {actor._actor_id.hex()[:8]}")
