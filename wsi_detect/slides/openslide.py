"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, Philips, DICOM, generic tiled TIFF and others.

OpenSlide says what the slide is. Pixels come straight from the file's JPEG tiles where their place is certain, which is
several times faster and the same to the last bit; everything else, and whatever looks odd, is left to OpenSlide.

Only the pyramid is read. Label, macro and thumbnail pictures, which may show a name, are never touched, and of the
file's properties only those named here.
"""

import logging
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_detect.errors import DamagedSlideError, EnvironmentFaultError, MissingSlideError, UnsupportedSlideError
from wsi_detect.geometry import Box
from wsi_detect.slides.jpeg import JpegFaultError
from wsi_detect.slides.reader import Pixels, SlideInfo, check_request
from wsi_detect.slides.tiff_tags import check_tiff, is_for_openslide
from wsi_detect.slides.tiff_tiles import LevelSize, jpeg_tiles_of

#: 4.0.1 fixes CVE-2026-48977, and no wheel of it holds the libtiff that returned memory it had not written.
_MINIMUM = (4, 0, 1)
#: Decoded tiles kept for each open slide: some two rows of patches of 1024 px.
_CACHE_BYTES = 64 << 20

#: Properties that OpenSlide takes the size of a pixel from, the first that a slide has.
_MPP_KEYS = (
    "aperio.MPP",
    "philips.DICOM_PIXEL_SPACING",
    "mirax.LAYER_0_LEVEL_0_SECTION.MICROMETER_PER_PIXEL_X",
    "ventana.ScanRes",
    "dicom.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing[0]",
    "tiff.XResolution",
)

_log = logging.getLogger(__name__)


def accepts(path: Path) -> bool:
    """Whether OpenSlide recognises the file and reads all that matters of it."""
    vendor = openslide.OpenSlide.detect_format(path)
    # Of DICOM it reads one focal plane, whole grids of tiles and some compressions: only trying tells.
    return vendor is not None and (_opens(path) if vendor == "dicom" else is_for_openslide(path))


def open(path: Path, slide_id: str) -> "OpenSlideReader":  # noqa: A001 - the name every format has
    """Open a slide; see `OpenSlideReader`."""
    return OpenSlideReader(path, slide_id)


def check_library(version: str) -> None:
    """Refuse an OpenSlide with known holes: a system library may be found instead of the one that was installed.

    Raises:
        EnvironmentFaultError: the version is older than 4.0.1, or is no version.
    """
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if found < _MINIMUM:
        raise EnvironmentFaultError(
            f"OpenSlide {version} is loaded, at least 4.0.1 is needed: a slide file can attack older ones; "
            'pip install --upgrade "openslide-bin>=4.0.1"'
        )


class OpenSlideReader:
    """An open slide; may be read from several threads.

    After an error the handle, which OpenSlide leaves unusable, is opened anew.

    Attributes:
        info: facts of the slide.
        tiles: its JPEG tiles, levels as in `info`; None if none of its levels is made of such.
    """

    def __init__(self, path: Path, slide_id: str) -> None:
        """Open the slide.

        Raises:
            UnsupportedSlideError: OpenSlide recognises the file but cannot open it, or its tags are suspect.
            EnvironmentFaultError: the OpenSlide library is too old to be safe.
        """
        check_library(openslide.__library_version__)
        pages = check_tiff(path)
        self._path = path
        self._closed = False
        self._lock = threading.Lock()
        try:
            handle = _open_handle(path)
        except openslide.OpenSlideError as error:
            raise UnsupportedSlideError(f"{path}: OpenSlide knows the format but cannot open it: {error}") from error
        self._handle: openslide.OpenSlide | None = handle
        self.info = _facts(handle, path, slide_id)
        self.tiles = jpeg_tiles_of(path, pages, self.info.vendor, _levels(handle))

    def read_region(self, x_px: int, y_px: int, level: int, width: int, height: int, *, plane: int = 0) -> Pixels:
        """Read a rectangle; see `SlideReader.read_region`.

        Raises:
            ValueError: the rectangle cannot be served, or the reader is closed.
            DamagedSlideError: it cannot be decoded; the file is opened anew for the next call.
            MissingSlideError: the file has gone.
        """
        # OpenSlide answers for a level that is not there with transparent pixels, and no error.
        check_request(self.info, level, width, height, plane)
        if self._closed:
            raise ValueError(f"slide {self.info.slide_id} is closed")
        pixels = self._from_tiles(x_px, y_px, level, width, height)
        return self._from_openslide(x_px, y_px, level, width, height) if pixels is None else pixels

    def close(self) -> None:
        """Give the file back."""
        self._closed = True
        self._handle = None
        if self.tiles is not None:
            self.tiles.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _from_tiles(self, x_px: int, y_px: int, level: int, width: int, height: int) -> Pixels | None:
        """Read a rectangle from the file's own tiles; None where only OpenSlide knows what belongs there."""
        step = self.info.level_downsamples[level]
        x, y = x_px / step, y_px / step
        table = None if self.tiles is None else self.tiles.levels[level]
        # Between two px OpenSlide interpolates.
        if self.tiles is None or table is None or not (x.is_integer() and y.is_integer()):
            return None
        # Strips as wide as the slide would be decoded again for each region beside the last; OpenSlide keeps them.
        if table.header and table.tile_width > 2 * width:
            return None
        # What is left out of a fine level may be left out of the coarser ones, or be painted from one to the other.
        if not self.tiles.certain(level, int(x), int(y), width, height):
            return None
        try:
            return self.tiles.read(level, int(x), int(y), width, height)
        except JpegFaultError as error:
            _log.debug("slide %s: %s; OpenSlide is asked", self.info.slide_id, error)
            return None

    def _from_openslide(self, x_px: int, y_px: int, level: int, width: int, height: int) -> Pixels:
        place, size = (x_px, y_px), (width, height)
        handle = self._live()
        try:
            return _on_white(np.asarray(handle.read_region(place, level, size)))
        except openslide.OpenSlideError:
            self._drop(handle)
        # The handle may have been spoilt by another thread's error: the verdict is that of one nobody else uses.
        with self._anew() as alone:
            try:
                return _on_white(np.asarray(alone.read_region(place, level, size)))
            except openslide.OpenSlideError as error:
                raise DamagedSlideError(
                    f"slide {self.info.slide_id}: {width} x {height} px at ({x_px}, {y_px}) of level {level}: "
                    f"not decoded: {error}"
                ) from error

    def _live(self) -> openslide.OpenSlide:
        with self._lock:
            if self._handle is None:
                self._handle = self._anew()
            return self._handle

    def _drop(self, handle: openslide.OpenSlide) -> None:
        """Forget a handle after an error. It is not closed: another thread may be in it, and the last one closes it."""
        with self._lock:
            if self._handle is handle:
                self._handle = None

    def _anew(self) -> openslide.OpenSlide:
        if not self._path.is_file():
            raise MissingSlideError(f"slide {self.info.slide_id}: the file has gone")
        try:
            return _open_handle(self._path)
        except openslide.OpenSlideError as error:
            raise DamagedSlideError(f"slide {self.info.slide_id}: cannot be opened again: {error}") from error


def _opens(path: Path) -> bool:
    try:
        openslide.OpenSlide(path).close()
    except openslide.OpenSlideError as error:
        _log.debug("left to another reader: %s", error)
        return False
    return True


def _open_handle(path: Path) -> openslide.OpenSlide:
    handle = openslide.OpenSlide(path)
    handle.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
    return handle


def _on_white(rgba: NDArray[np.uint8]) -> Pixels:
    """Lay (H, W, 4) RGBA on white. Alpha 0 is where the scanner has no data, in between its edge on coarse levels."""
    alpha = rgba[..., 3:]
    if bool((alpha == 255).all()):
        return np.ascontiguousarray(rgba[..., :3]), None
    weight = alpha.astype(np.uint16)
    mixed = (rgba[..., :3] * weight + 255 * (255 - weight) + 127) // 255
    valid = alpha[..., 0] > 0
    return mixed.astype(np.uint8), None if bool(valid.all()) else valid


def _facts(handle: openslide.OpenSlide, path: Path, slide_id: str) -> SlideInfo:
    properties = handle.properties
    stated = _stated_mpp(properties)
    return SlideInfo(
        slide_id=slide_id,
        path=path,
        width_px=handle.dimensions[0],
        height_px=handle.dimensions[1],
        mpp=None if stated is None else sum(stated) / 2,
        mpp_source="missing" if stated is None else "file",
        level_downsamples=tuple(float(value) for value in handle.level_downsamples),
        bounds=_bounds(properties),
        objective_power=_number(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        # Only its presence: parsing a profile is work for a colour library, and a broken one must not stop a slide.
        icc="openslide.icc-size" in properties,
        native_tile_px=_tile(properties),
        stated_mpp=stated,
        mpp_key=None if stated is None else next((k for k in _MPP_KEYS if k in properties), "openslide.mpp-x"),
        centre_um=_centre(properties),
    )


def _levels(handle: openslide.OpenSlide) -> list[LevelSize]:
    tiles = [_tile(handle.properties, level) or (0, 0) for level in range(handle.level_count)]
    return [LevelSize(*size, *tile) for size, tile in zip(handle.level_dimensions, tiles, strict=True)]


def _number(properties: Mapping[str, str], name: str) -> float | None:
    try:
        return float(properties[name])
    except (KeyError, ValueError):
        return None


def _stated_mpp(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """µm per px along x and y; one that is not stated is taken to equal the other."""
    x = _number(properties, openslide.PROPERTY_NAME_MPP_X)
    y = _number(properties, openslide.PROPERTY_NAME_MPP_Y)
    if x is None or y is None:
        only = y if x is None else x
        return None if only is None else (only, only)
    return x, y


def _bounds(properties: Mapping[str, str]) -> Box | None:
    x = _number(properties, openslide.PROPERTY_NAME_BOUNDS_X)
    y = _number(properties, openslide.PROPERTY_NAME_BOUNDS_Y)
    width = _number(properties, openslide.PROPERTY_NAME_BOUNDS_WIDTH)
    height = _number(properties, openslide.PROPERTY_NAME_BOUNDS_HEIGHT)
    if x is None or y is None or width is None or height is None:
        return None
    return Box(x, y, x + width, y + height)


def _centre(properties: Mapping[str, str]) -> tuple[float, float] | None:
    """Centre of the picture, from nanometres to µm."""
    x = _number(properties, "hamamatsu.XOffsetFromSlideCentre")
    y = _number(properties, "hamamatsu.YOffsetFromSlideCentre")
    return None if x is None or y is None else (x / 1000, y / 1000)


def _tile(properties: Mapping[str, str], level: int = 0) -> tuple[int, int] | None:
    width = _number(properties, f"openslide.level[{level}].tile-width")
    height = _number(properties, f"openslide.level[{level}].tile-height")
    return (int(width), int(height)) if width and height else None
