"""Functions for worker processes: importable by name there."""

import errno
import logging
import os
import signal
import time
from pathlib import Path

from wsi_detect.errors import EnvironmentFaultError, MissingExtraError
from wsi_detect.workers import report


def pid_state():
    return f"state of {os.getpid()}"


def double(state, item):
    return 2 * item


def who(state, item):
    time.sleep(0.3)
    return os.getpid(), state


def odd_ones_fail(state, item):
    if item % 2:
        raise ValueError(f"item {item}\nis odd")
    return item


def seven_kills(state, item):
    if item == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def disk_full(state, item):
    raise OSError(errno.ENOSPC, "No space left on device", "some/folder/file")


def environment_fault(state, item):
    raise EnvironmentFaultError("the machine is tired")


def says_something(state, item):
    logging.getLogger("wsi_detect.jobs").info("item %d", item)
    logging.getLogger("another_library").info("not asked for")
    return item


def setup_fails():
    raise MissingExtraError("this", "detect")


def setup_dies():
    os.kill(os.getpid(), signal.SIGKILL)


def write_pid_and_wait(state, item):
    Path(item).write_text(str(os.getpid()))
    time.sleep(60)


def count_aloud(state, item):
    for k in range(item):
        report(k)
    return item


def seven_stops(state, item):
    if item == 7:
        os.kill(os.getpid(), signal.SIGSTOP)
    return item


def seven_sleeps(state, item):
    if item == 7:
        time.sleep(60)
    return item


def slow_but_talking(state, item):
    for k in range(6):
        time.sleep(0.4)
        report(k)
    return item


def takes_memory(state, item):
    """Return how much it got, megabytes."""
    return len(bytearray(item << 20)) >> 20


def hides_lack_of_memory(state, item):
    try:
        return takes_memory(state, item)
    except MemoryError as error:
        raise ValueError("cannot be decoded") from error


def no_thread(state, item):
    if item == 2000:
        raise RuntimeError("can't start new thread")
    return item


def aborts(state, item):
    if item == 7:
        os.abort()
    return item
