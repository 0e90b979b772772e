"""Slides made of arithmetic, for tests and for the processes they spawn: importable by name, no file behind them.

`Painted` is a slide format (`accepts`, `open`): the text of its "slide file" is `width height mpp`.
"""

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsi_detect.slides.reader import SlideInfo

GROUND = 240


class MemorySlide:
    """A reader over an array (H, W, 3)."""

    def __init__(self, rgb, mpp=0.25, path=Path("memory"), slide_id="S0123456789"):
        height, width = rgb.shape[:2]
        self.rgb = rgb
        self.info = SlideInfo(
            slide_id=slide_id,
            path=path,
            width_px=width,
            height_px=height,
            mpp=mpp,
            mpp_source="file",
            level_downsamples=(1.0,),
            bounds=None,
        )

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        step = round(self.info.level_downsamples[level])
        out = np.full((height, width, 3), 255, np.uint8)
        valid = np.zeros((height, width), bool)
        rgb = self.rgb[max(y_px, 0) : y_px + height * step : step, max(x_px, 0) : x_px + width * step : step]
        top, left = max(-y_px, 0) // step, max(-x_px, 0) // step
        out[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
        valid[top : top + rgb.shape[0], left : left + rgb.shape[1]] = True
        return out, valid

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def painted(width, height, every=96):
    """Clean ground with a dark nucleus of 24 px in the middle of every square of `every` px, and some texture."""
    y, x = np.mgrid[:height, :width]
    grey = np.where(np.hypot(x % every - every / 2, y % every - every / 2) < 12, 80, GROUND)
    rgb = np.stack([grey - (x * 7 + y * 3) % 5, grey - (x + y) % 3, grey], axis=-1)
    return rgb.astype(np.uint8)


@dataclass(frozen=True)
class Painted:
    """The format of painted slides; with a `trap` the first process to open one there is killed."""

    trap: Path | None = None

    def accepts(self, path):
        return path.suffix == ".painted"

    def open(self, path, slide_id):
        if self.trap is not None and os.environ.get("TRAP") and not self.trap.exists():
            self.trap.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        width, height, mpp = path.read_text().split()
        return MemorySlide(painted(int(width), int(height)), float(mpp), path, slide_id)


def write_slide(folder, width=1000, height=700, mpp=0.25):
    """Write a slide file; its name is one no output may hold."""
    path = folder / "Doe^Jane 1961.painted"
    path.write_text(f"{width} {height} {mpp}")
    return path


def double(task, state):
    return task * 2


def who(task, state):
    time.sleep(0.01)
    return os.getpid(), state


def fail_on_three(task, state):
    if task == 3:
        raise FileNotFoundError(2, "no such thing", "three")
    return task


def die_once(task, state):
    """Kill this process the first time a task names a file that is not there yet."""
    if task is not None and not task.exists():
        task.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


def die(task, state):
    os.kill(os.getpid(), task)


def extra_missing(task, state):
    from wsi_detect.errors import MissingExtraError

    raise MissingExtraError("task", "ray")


@contextmanager
def numbered():
    yield f"state of {os.getpid()}"


@contextmanager
def broken_setup():
    raise OSError(5, "the share is gone")
    yield


def write_pid_and_sleep(task, state):
    task.write_text(str(os.getpid()))
    time.sleep(60)
