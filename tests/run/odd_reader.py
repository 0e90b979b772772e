"""A slide format of the tests: a text file whose first word says what goes wrong while its pixels are read.

Importable by name in worker processes, as `crew_jobs`.
"""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Self

import numpy as np

from wsi_detect.slides.reader import Pixels, SlideInfo, check_request

#: The mask is found before; what is read then are patches.
_GOOD_READS = 6


class OddReader:
    """A slide of 1024 x 768 px with dark discs on clean glass."""

    def __init__(self, path: Path, slide_id: str) -> None:
        self.deed = path.read_text().split()[0]
        self.reads = 0
        if self.deed == "crash-on-opening":
            ctypes.string_at(0)
        self.info = SlideInfo(slide_id, path, 1024, 768, 0.25, "file", (1.0,), vendor="odd")

    def read_region(self, x_px: int, y_px: int, level: int, width: int, height: int, *, plane: int = 0) -> Pixels:
        check_request(self.info, level, width, height, plane)
        self.reads += 1
        if self.reads > _GOOD_READS:
            self._do()
        y, x = np.mgrid[y_px : y_px + height, x_px : x_px + width]
        rgb = np.full((height, width, 3), 240, np.uint8)
        rgb[(x % 128 - 64) ** 2 + (y % 128 - 64) ** 2 < 900] = (90, 60, 120)
        inside = (x >= 0) & (y >= 0) & (x < self.info.width_px) & (y < self.info.height_px)
        rgb[~inside] = 255
        return rgb, inside

    def _do(self) -> None:
        if self.deed == "segfault":
            ctypes.string_at(0)
        elif self.deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.deed == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.deed == "hang":
            time.sleep(60)
        elif self.deed == "memory":
            bytearray(8 << 30)
        elif self.deed == "slow":
            time.sleep(0.1)

    def close(self) -> None:
        self.deed = "closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
