"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, Philips, DICOM, generic tiled TIFF and others.

Only the pyramid is read. Label, macro and thumbnail pictures, which may show a name, are never touched, and of the
file's properties only those named here.
"""

import logging
from pathlib import Path
from typing import Self

import numpy as np
import openslide

from wsi_detect.errors import (
    DamagedSlideError,
    EnvironmentFaultError,
    ImplausibleResolutionError,
    UnsupportedSlideError,
)
from wsi_detect.geometry import Box
from wsi_detect.slides.reader import Pixels, SlideInfo, check_request

#: 4.0.1 fixes CVE-2026-48977.
_MINIMUM = (4, 0, 1)
_SQUARE = 0.01

_log = logging.getLogger(__name__)


def accepts(path: Path) -> bool:
    """Whether OpenSlide recognises the file."""
    return openslide.OpenSlide.detect_format(str(path)) is not None


class OpenSlideReader:
    """An open slide. After an error the handle, which OpenSlide leaves unusable, is opened anew."""

    def __init__(self, path: Path, slide_id: str) -> None:
        """Open the slide.

        Raises:
            UnsupportedSlideError: OpenSlide recognises the file but cannot open it.
            ImplausibleResolutionError: its pixels are not square.
            EnvironmentFaultError: the OpenSlide library is too old to be safe.
        """
        found = tuple(int(part) for part in openslide.__library_version__.split(".")[:3])
        if found < _MINIMUM:
            raise EnvironmentFaultError(
                f"OpenSlide {openslide.__library_version__} is loaded, at least 4.0.1 is needed; pip install -U openslide-bin"
            )
        self._path = path
        try:
            self._slide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise UnsupportedSlideError(f"{path}: OpenSlide cannot open it: {error}") from error
        properties = self._slide.properties
        self.info = SlideInfo(
            slide_id=slide_id,
            path=path,
            width_px=self._slide.dimensions[0],
            height_px=self._slide.dimensions[1],
            mpp=_mpp(path, properties),
            mpp_source="file" if openslide.PROPERTY_NAME_MPP_X in properties else "missing",
            level_downsamples=tuple(float(value) for value in self._slide.level_downsamples),
            bounds=_bounds(properties),
            objective_power=_number(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
            vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
            icc=self._slide.color_profile is not None,
            native_tile_px=_tile(properties),
        )

    def read_region(self, x_px: int, y_px: int, level: int, width: int, height: int, *, plane: int = 0) -> Pixels:
        """Read a rectangle; see `SlideReader.read_region`."""
        check_request(self.info, level, width, height, plane)
        try:
            rgba = np.asarray(self._slide.read_region((x_px, y_px), level, (width, height)))
        except openslide.OpenSlideError as error:
            self._reopen()
            raise DamagedSlideError(
                f"slide {self.info.slide_id}: cannot decode {width} x {height} px at ({x_px}, {y_px}), level {level}: {error}"
            ) from error
        valid = rgba[..., 3] > 0
        if bool(valid.all()):
            return np.ascontiguousarray(rgba[..., :3]), None
        return np.where(valid[..., None], rgba[..., :3], np.uint8(255)), valid

    def close(self) -> None:
        """Give the file back."""
        self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _reopen(self) -> None:
        self._slide.close()
        self._slide = openslide.OpenSlide(str(self._path))
        _log.debug("slide %s re-opened after an error", self.info.slide_id)


def open_reader(path: Path, slide_id: str) -> OpenSlideReader:
    """Open a slide."""
    return OpenSlideReader(path, slide_id)


def _number(properties: openslide._PropertyMap, name: str) -> float | None:  # type: ignore[name-defined]
    try:
        return float(properties[name])
    except (KeyError, ValueError):
        return None


def _mpp(path: Path, properties: openslide._PropertyMap) -> float | None:  # type: ignore[name-defined]
    x, y = (_number(properties, name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
    if x is None or y is None:
        return x or y
    if abs(x - y) > _SQUARE * max(abs(x), abs(y)):
        raise ImplausibleResolutionError(f"{path}: pixels are {x:g} by {y:g} µm; only square ones can be used")
    return x


def _bounds(properties: openslide._PropertyMap) -> Box | None:  # type: ignore[name-defined]
    names = ("X", "Y", "WIDTH", "HEIGHT")
    values = [_number(properties, getattr(openslide, f"PROPERTY_NAME_BOUNDS_{name}")) for name in names]
    x, y, width, height = values
    if x is None or y is None or width is None or height is None:
        return None
    return Box(x, y, x + width, y + height)


def _tile(properties: openslide._PropertyMap) -> tuple[int, int] | None:  # type: ignore[name-defined]
    width = _number(properties, "openslide.level[0].tile-width")
    height = _number(properties, "openslide.level[0].tile-height")
    return (int(width), int(height)) if width and height else None
