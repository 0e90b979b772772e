"""DICOM whole slides OpenSlide does not read: focal planes, and compressions it has no decoder for."""

import math
import os
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import DamagedSlideError
from wsi_detect.slides import jpeg, pictures
from wsi_detect.slides.assemble import TileCache, assemble, read_stream
from wsi_detect.slides.dicom_series import JPEG, PICTURES, Level, is_dicom, read_series
from wsi_detect.slides.reader import Pixels, SlideInfo, check_request

_Image = NDArray[np.uint8]


def accepts(path: Path) -> bool:
    """Whether the file is a DICOM file."""
    return is_dicom(path)


def open(path: Path, slide_id: str) -> "DicomReader":  # noqa: A001 - the name every format has
    """Open a slide by any of its pyramid's files; see `DicomReader`."""
    return DicomReader(path, slide_id)


class DicomReader:
    """An open DICOM slide; may be read from several threads.

    A level that was stored for one focal plane alone serves all of them.
    """

    def __init__(self, path: Path, slide_id: str) -> None:
        """Read the headers of the series, which is looked for in the file's folder.

        Raises:
            UnsupportedSlideError: the file is no level of a whole slide, or not of 8 bits in bright field.
            MissingExtraError: pydicom is not installed.
        """
        steps, self._levels = read_series(path)
        self.info = _facts(path, slide_id, steps, self._levels[0])
        self._cache = TileCache()
        self._files: list[int] = []
        self._files.extend(os.open(level.path, os.O_RDONLY) for level in self._levels)

    def read_region(self, x_px: int, y_px: int, level: int, width: int, height: int, *, plane: int = 0) -> Pixels:
        """Read a rectangle; see `SlideReader.read_region`."""
        check_request(self.info, level, width, height, plane)
        if not self._files:
            raise ValueError(f"slide {self.info.slide_id} is closed")
        step, table = self.info.level_downsamples[level], self._levels[level]
        corner = math.floor(x_px / step + 0.5), math.floor(y_px / step + 0.5)
        kept = plane if len(table.offsets) > 1 else 0

        def tile(row: int, column: int) -> _Image | None:
            if table.lengths[kept, row, column] == 0:
                return None
            place = (kept, row, column)
            try:
                return self._cache.get((level, *place), lambda: _decode(table, self._files[level], place))
            # A codec fails on damaged data in any of a dozen ways, and each means the same here.
            except Exception as error:
                raise DamagedSlideError(
                    f"slide {self.info.slide_id}: tile {column}, {row} of level {level} cannot be decoded: {error}"
                ) from error

        return assemble(table.sheet, corner, (width, height), tile)

    def close(self) -> None:
        """Give the files back; closing twice is allowed."""
        while self._files:
            os.close(self._files.pop())
        self._cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _decode(level: Level, file: int, place: tuple[int, int, int]) -> _Image:
    """Decode a frame to (h, w, 3)."""
    height, width, samples = level.sheet.tile_height, level.sheet.tile_width, level.samples
    data = read_stream(file, int(level.offsets[place]), int(level.lengths[place]), height * width * samples)
    if level.syntax == JPEG:
        frame = jpeg.read_frame(data)
        if (frame.height, frame.width) != (height, width) or frame.components != samples:
            raise ValueError(f"it declares {frame.width} x {frame.height} px of {frame.components} samples")
        return jpeg.decode(jpeg.complete(data, frame, b"", level.colour))
    if level.syntax in PICTURES:
        pixels = pictures.decode(PICTURES[level.syntax], data, (height, width, samples))
    elif level.planar:
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(samples, height, width).transpose(1, 2, 0)
    else:
        pixels = np.frombuffer(data, dtype=np.uint8).reshape(height, width, samples)
    return np.repeat(pixels, 3, axis=-1) if samples == 1 else np.ascontiguousarray(pixels)


def _facts(path: Path, slide_id: str, steps: tuple[float, ...], level: Level) -> SlideInfo:
    return SlideInfo(
        slide_id=slide_id,
        path=path,
        width_px=level.sheet.width,
        height_px=level.sheet.height,
        mpp=None if level.mpp is None else sum(level.mpp) / 2,
        mpp_source="missing" if level.mpp is None else "file",
        level_downsamples=steps,
        focal_planes=len(level.offsets),
        focal_step_um=level.step_um,
        objective_power=level.power,
        vendor="dicom",
        icc=level.icc,
        native_tile_px=(level.sheet.tile_width, level.sheet.tile_height),
        stated_mpp=level.mpp,
        mpp_key=None if level.mpp is None else "dicom.PixelSpacing",
    )
