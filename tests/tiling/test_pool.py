import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import memory_slides as jobs
import pytest

from wsi_detect.errors import DamagedSlideError, EnvironmentFaultError, MissingExtraError
from wsi_detect.tiling.pool import map_shards


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_tasks(workers):
    seen = []
    assert map_shards(jobs.double, [3, 1, 2], workers, on_result=lambda k, r: seen.append((k, r))) == [6, 2, 4]
    assert sorted(seen) == [(0, 6), (1, 2), (2, 4)]


@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_to_do(workers):
    assert map_shards(jobs.double, [], workers) == []


def test_every_worker_gets_a_task_and_its_own_state():
    results = map_shards(jobs.who, list(range(5)), 3, setup=jobs.numbered)
    pids = {pid for pid, _ in results}
    assert len(pids) == 3
    assert os.getpid() not in pids
    assert all(state == f"state of {pid}" for pid, state in results)


def test_one_worker_is_this_process():
    assert map_shards(jobs.who, [0], 1, setup=jobs.numbered) == [(os.getpid(), f"state of {os.getpid()}")]


def test_a_lost_process_costs_one_task(tmp_path):
    tasks = [None, tmp_path / "mark", None, None]
    assert map_shards(jobs.die_once, tasks, 2) == ["survived"] * 4


@pytest.mark.parametrize(
    ("sent", "kind", "text"),
    [
        (signal.SIGKILL, EnvironmentFaultError, "died 2 times on piece 1 of 1: signal 9 .*out-of-memory"),
        (signal.SIGSEGV, DamagedSlideError, r"died 2 times on piece 1 of 1: signal 11 \(SIGSEGV\)"),
    ],
)
def test_a_task_that_kills_twice_is_an_error(sent, kind, text):
    with pytest.raises(kind, match=text):
        map_shards(jobs.die, [sent], 2, crash_error=DamagedSlideError)


def test_an_error_crosses_with_its_type_and_traceback():
    with pytest.raises(FileNotFoundError, match="no such thing") as caught:
        map_shards(jobs.fail_on_three, [1, 2, 3, 4], 2)
    assert caught.value.filename == "three"
    assert "in fail_on_three" in caught.value.__notes__[0]


def test_an_error_that_cannot_be_pickled_crosses_as_its_ancestor():
    with pytest.raises(EnvironmentFaultError, match="pip install") as caught:
        map_shards(jobs.extra_missing, [1, 2], 2)
    assert not isinstance(caught.value, MissingExtraError)


def test_a_setup_that_fails_is_an_error():
    with pytest.raises(OSError, match="the share is gone"):
        map_shards(jobs.double, [1, 2], 2, setup=jobs.broken_setup)


def test_children_die_with_a_killed_parent(tmp_path):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "import memory_slides as jobs; from wsi_detect.tiling.pool import map_shards\n"
        "if __name__ == '__main__': map_shards(jobs.write_pid_and_sleep, [Path(p) for p in sys.argv[2:]], 2)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    marks = [tmp_path / "a", tmp_path / "b"]
    parent = subprocess.Popen([sys.executable, script, Path(__file__).parent, *marks])
    children = [_wait_for(partial(_pid_in, mark)) for mark in marks]
    parent.kill()
    parent.wait()
    for pid in children:
        assert _wait_for(partial(_is_gone, pid))


def _wait_for(condition):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def _pid_in(path):
    return path.exists() and int(path.read_text() or 0)


def _is_gone(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    # A child nobody waits for stays as a zombie where process 1 does not reap.
    return state == "Z"
