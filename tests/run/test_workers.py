import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import crew_jobs as jobs
import pytest

from wsi_detect.errors import EnvironmentFaultError
from wsi_detect.workers import Limits, map_items, report


def outcomes(function, items, workers, setup=jobs.pid_state, **options):
    found = list(map_items(function, items, setup, workers=workers, **options))
    return sorted(found, key=lambda outcome: items.index(outcome.item))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_has_its_result(workers):
    assert [o.result for o in outcomes(jobs.double, [3, 1, 2], workers)] == [6, 2, 4]


@pytest.mark.parametrize("workers", [0, 3])
def test_nothing_to_do_starts_nothing(workers):
    assert outcomes(jobs.double, [], workers, jobs.setup_dies) == []


def test_each_process_sets_up_once_and_several_work():
    found = outcomes(jobs.who, list(range(6)), 2)
    pids = {o.result[0] for o in found}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert all(state == f"state of {pid}" for pid, state in (o.result for o in found))
    assert {o.worker for o in found} == {f"process {pid}" for pid in pids}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failed_item_costs_itself(workers):
    found = outcomes(jobs.odd_ones_fail, [1, 2, 3, 4], workers)
    assert [o.result for o in found] == [None, 2, None, 4]
    assert [o.error for o in found] == ["ValueError: item 1 is odd", None, "ValueError: item 3 is odd", None]


def test_a_lost_process_costs_one_item():
    found = outcomes(jobs.seven_kills, [5, 6, 7, 8, 9], 1)
    assert [o.result for o in found] == [5, 6, None, 8, 9]
    assert found[2].error == "the worker process was killed by signal 9 (SIGKILL)"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("function", "text"),
    [
        (jobs.disk_full, "no space left on device on some/folder"),
        (jobs.environment_fault, "the machine is tired"),
    ],
)
def test_a_fault_of_the_machine_ends_the_map(function, text, workers):
    with pytest.raises(EnvironmentFaultError, match=text):
        outcomes(function, [1, 2], workers)


@pytest.mark.parametrize(
    ("setup", "text"),
    [(jobs.setup_fails, r"wsi-detect\[detect\]"), (jobs.setup_dies, "cannot start: .*SIGKILL")],
)
def test_a_worker_that_cannot_start_ends_the_map(setup, text):
    with pytest.raises(EnvironmentFaultError, match=text):
        outcomes(jobs.double, [1], 1, setup)


def test_log_records_reach_the_parent(caplog):
    with caplog.at_level(logging.INFO, logger="wsi_detect"):
        outcomes(jobs.says_something, [4], 1)
    assert [record.getMessage() for record in caplog.records] == ["item 4"]


def test_log_records_nobody_asked_for_stay_in_the_child(caplog):
    with caplog.at_level(logging.WARNING, logger="wsi_detect"):
        outcomes(jobs.says_something, [4], 1)
    assert caplog.records == []


def test_children_end_with_a_killed_parent(tmp_path: Path):
    """A run that was killed must not go on writing while the next one starts."""
    mark = tmp_path / "pid"
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import crew_jobs as jobs; from wsi_detect.workers import map_items\n"
        "if __name__ == '__main__': list(map_items(jobs.write_pid_and_wait, [sys.argv[2]], jobs.pid_state, workers=1))"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    parent = subprocess.Popen([sys.executable, script, Path(jobs.__file__).parent, mark])
    while not (mark.exists() and mark.read_text()):
        assert parent.poll() is None
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    child = int(mark.read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    assert time.monotonic() < deadline


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_progress_is_told_with_its_item(workers):
    heard = []
    outcomes(jobs.count_aloud, [2, 0, 3], workers, on_progress=lambda item, payload: heard.append((item, payload)))
    assert sorted(heard) == [(2, 0), (2, 1), (3, 0), (3, 1), (3, 2)]


@pytest.mark.parametrize("workers", [0, 1])
def test_progress_nobody_listens_to(workers):
    assert [o.result for o in outcomes(jobs.count_aloud, [2], workers)] == [2]
    report("outside of any item")


@pytest.mark.parametrize("function", [jobs.seven_stops, jobs.seven_sleeps])
def test_an_item_without_progress_is_given_up(function):
    found = outcomes(function, [6, 7, 8], 1, limits=Limits(stall_s=1))
    assert [o.result for o in found] == [6, None, 8]
    assert found[1].error == "no progress for 1 s"
    assert len({o.worker for o in found}) == 2


def test_an_item_that_reports_may_take_longer():
    assert [o.result for o in outcomes(jobs.slow_but_talking, [1], 1, limits=Limits(stall_s=1.5))] == [1]


@pytest.mark.parametrize("function", [jobs.takes_memory, jobs.hides_lack_of_memory, jobs.no_thread])
def test_an_item_that_needs_too_much_memory_costs_itself(function):
    found = outcomes(function, [10, 2000, 20], 1, limits=Limits(memory_bytes=10**9))
    assert [o.result for o in found] == [10, None, 20]
    assert found[1].error == "needs more than 1 GB of memory; raise --max-memory or use fewer --threads"


def test_a_lack_of_memory_without_limit_is_an_error_like_others():
    found = outcomes(jobs.takes_memory, [1 << 40], 1)
    assert found[0].error == "MemoryError: MemoryError"


def test_native_code_that_aborts_under_a_limit_names_both_causes():
    found = outcomes(jobs.aborts, [6, 7, 8], 2, limits=Limits(memory_bytes=2 * 10**9))
    assert [o.result for o in found] == [6, None, 8]
    assert "killed by signal 6 (SIGABRT)" in found[1].error
    assert "needs more than 2 GB of memory" in found[1].error
