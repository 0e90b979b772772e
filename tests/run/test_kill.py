"""`kill -9` of the process group: the same command finishes, nothing differs, at most one shard is redone."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "killed_program.py"
#: Larger than any number of steps: counts them without stopping.
NEVER = "kill:1000000"
FAST = 5
ALL = 20


@dataclass(frozen=True)
class Kill:
    """Kill k of a seeded series: odd ones by a timer, even ones at a write or rename; stores in turns of two."""

    number: int

    @property
    def store(self) -> str:
        return ("none", "jpeg")[self.number // 2 % 2]

    @property
    def share(self) -> float:
        """Where in the undisturbed run it falls, 0 to 1."""
        drawn = int.from_bytes(hashlib.sha256(f"kill {self.number}".encode()).digest()[:4], "big") / 2**32
        # The first half of the time goes to imports, where there is nothing to lose.
        return 0.5 + drawn / 2 if self.timed else drawn

    @property
    def timed(self) -> bool:
        return self.number % 2 == 1

    def __str__(self) -> str:
        return f"{self.store}-{'time' if self.timed else 'step'}-{self.share:.3f}"


@dataclass(frozen=True)
class Golden:
    """An undisturbed run: its results, how many writes and renames it took, and how long."""

    results: dict[str, bytes]
    steps: int
    seconds: float


@pytest.fixture(scope="module")
def command(four_slides, blobs):
    def make(out: Path, store: str) -> list[str]:
        return [sys.executable, str(PROGRAM), str(four_slides / "slide0.svs"), str(blobs), str(out), store]

    return make


@pytest.fixture(scope="module")
def golden(command, tmp_path_factory, results):
    """Undisturbed runs, made when first asked for."""
    made: dict[str, Golden] = {}

    def get(store: str) -> Golden:
        if store not in made:
            out = tmp_path_factory.mktemp("golden") / "out"
            started = time.monotonic()
            steps = finish(command(out, store))
            made[store] = Golden(results(out), steps, time.monotonic() - started)
        return made[store]

    return get


def start(command: list[str], fault: str = NEVER) -> subprocess.Popen[str]:
    environment = {**os.environ, "WSI_DETECT_FAULT": fault}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)


def finish(command: list[str]) -> int:
    """Run to the end; gives the number of writes and renames."""
    process = start(command)
    printed, _ = process.communicate()
    assert process.returncode == 0
    return int(printed)


def shards(out: Path) -> dict[Path, tuple[int, int]]:
    """Finished shards of every stage: file → (inode, time), which a file written again does not keep."""
    found = [*out.glob("*/patches.zarr/images/c/*/0/0/0"), *out.glob("*/detections/part-*.parquet")]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def run_and_kill(command: list[str], kill: Kill, undisturbed: Golden) -> None:
    step = max(1, round(kill.share * undisturbed.steps))
    process = start(command, NEVER if kill.timed else f"kill:{step}")
    if kill.timed:
        try:
            process.wait(kill.share * undisturbed.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # A timer can fall behind the end of a run that was faster than the undisturbed one.
    assert process.returncode == -signal.SIGKILL or kill.timed


@pytest.mark.parametrize(
    "kill",
    [pytest.param(Kill(k), id=str(Kill(k)), marks=[] if k < FAST else [pytest.mark.slow]) for k in range(ALL)],
)
def test_a_killed_run_is_finished_by_the_same_command(kill, command, golden, tmp_path, results):
    undisturbed = golden(kill.store)
    out = tmp_path / "out"
    run_and_kill(command(out, kill.store), kill, undisturbed)
    before = shards(out)
    finish(command(out, kill.store))
    assert results(out) == undisturbed.results
    after = shards(out)
    redone = [path for path in before if after[path] != before[path]]
    assert len(redone) <= 1
    assert not list(out.rglob("*.partial"))


def test_the_stages_have_shards_to_lose(golden):
    for store in ("none", "jpeg"):
        parts = [name for name in golden(store).results if "/detections/part-" in name]
        assert len(parts) >= 3
    assert sum("/images/c/" in name for name in golden("jpeg").results) >= 3


@pytest.mark.parametrize("store", ["none", "jpeg"])
def test_a_resume_finds_finished_shards(command, golden, tmp_path, store):
    """Killed in the middle of the detections: what lies before is kept, file by file."""
    for step in range(golden(store).steps // 2, golden(store).steps, 4):
        out = tmp_path / f"out{step}"
        process = start(command(out, store), f"kill:{step}")
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        before = shards(out)
        if any("part-" in path.name for path in before):
            break
    finish(command(out, store))
    after = shards(out)
    kept = [path for path in before if after[path] == before[path]]
    assert len(kept) >= max(len(before) - 1, 1)
    assert len(after) > len(before)
