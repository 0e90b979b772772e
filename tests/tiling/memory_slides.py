"""Slides made of arithmetic, for tests and for the processes they spawn: importable by name, no file behind them.

`Painted` is a slide format (`accepts`, `open`): the text of its "slide file" is `width height mpp`.
"""

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


class Painted:
    """The format of painted slides."""

    def accepts(self, path):
        return path.suffix == ".painted"

    def open(self, path, slide_id):
        width, height, mpp = path.read_text().split()
        return MemorySlide(painted(int(width), int(height)), float(mpp), path, slide_id)


def write_slide(folder, width=1000, height=700, mpp=0.25):
    """Write a slide file; its name is one no output may hold."""
    path = folder / "Doe^Jane 1961.painted"
    path.write_text(f"{width} {height} {mpp}")
    return path
