"""TIFF slides OpenSlide does not read, or not whole: OME-TIFF, QPTIFF, WebP, JPEG XL, LERC, colours in separate planes.

Tags by tifffile, tiles by imagecodecs. 8-bit RGB and grey; anything else is refused by name.
"""

import builtins
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_detect.errors import DamagedSlideError, UnsupportedSlideError
from wsi_detect.slides import jpeg, pictures
from wsi_detect.slides.assemble import Sheet, TileCache, assemble, read_stream
from wsi_detect.slides.reader import MAX_REGION_PX, Pixels, SlideInfo, check_request
from wsi_detect.slides.tiff_series import Pages, Series, series_of
from wsi_detect.slides.tiff_tags import JPEG, MAGIC, check_shared, facts_of
from wsi_detect.slides.tiff_tiles import LevelSize, jpeg_tiles_of
from wsi_detect.slides.tiles import JpegTiles

_Image = NDArray[np.uint8]

#: None, LZW, deflate (two codes), PackBits, zstd: what they unfold to is bounded by the size of the tile.
_PLAIN = frozenset({1, 5, 8, 32946, 32773, 50000, 34926})
_LERC, _LERC_PARAMETERS = 34887, 50674
_PICTURES: dict[int, pictures.Codec] = {
    34712: "jpeg2000",
    _LERC: "lerc",
    34927: "webp",
    50001: "webp",
    50002: "jpegxl",
    52546: "jpegxl",
}
#: LERC's second compression: none, deflate, zstd.
_UNPACK: dict[int, Callable[..., bytes | bytearray]] = {1: imagecodecs.zlib_decode, 2: imagecodecs.zstd_decode}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """One level at one focal plane: a directory, or three of a colour each."""

    sheet: Sheet
    pages: Pages

    def streams(self, row: int, column: int) -> list[tuple[tifffile.TiffPage, int]]:
        """Return the directory and the number of each stream that makes up a tile."""
        rows, columns = self.sheet.shape
        number = row * columns + column
        page = self.pages[0]
        if len(self.pages) == 1 and _is_planar(page):
            return [(page, number + k * rows * columns) for k in range(page.samplesperpixel)]
        return [(page, number) for page in self.pages]


def accepts(path: Path) -> bool:
    """Whether the file begins like a TIFF."""
    with builtins.open(path, "rb") as stream:
        return stream.read(4) in MAGIC


def open(path: Path, slide_id: str) -> "TiffReader":  # noqa: A001 - the name every format has
    """Open a TIFF; see `TiffReader`."""
    return TiffReader(path, slide_id)


class TiffReader:
    """An open TIFF; may be read from several threads.

    Attributes:
        info: facts of the slide.
        tiles: its JPEG tiles, levels as in `info`; None if none of its levels is made of such, or there are several
            focal planes.
    """

    def __init__(self, path: Path, slide_id: str) -> None:
        """Read the directories.

        Raises:
            UnsupportedSlideError: the directories cannot be read, or hold no bright-field slide of 8 bits a colour.
        """
        series = _read_directories(path)
        self._planes = [[_Layer(_sheet(pages[0]), pages) for pages in levels] for levels in series.planes]
        self.info = _facts(path, slide_id, series, self._planes[0][0].sheet)
        self.tiles = _native(path, series) if len(self._planes) == 1 else None
        self._cache = TileCache()
        self._file = os.open(path, os.O_RDONLY)

    def read_region(self, x_px: int, y_px: int, level: int, width: int, height: int, *, plane: int = 0) -> Pixels:
        """Read a rectangle; see `SlideReader.read_region`."""
        check_request(self.info, level, width, height, plane)
        if self._file < 0:
            raise ValueError(f"slide {self.info.slide_id} is closed")
        step, layer = self.info.level_downsamples[level], self._planes[plane][level]
        corner = math.floor(x_px / step + 0.5), math.floor(y_px / step + 0.5)

        def tile(row: int, column: int) -> _Image | None:
            streams = layer.streams(row, column)
            if any(page.databytecounts[number] == 0 for page, number in streams):
                return None
            try:
                return self._cache.get((plane, level, row, column), lambda: self._decode(layer, row, column))
            # A codec fails on damaged data in any of a dozen ways, and each means the same here.
            except Exception as error:
                raise DamagedSlideError(
                    f"slide {self.info.slide_id}: tile {column}, {row} of level {level} cannot be decoded: {error}"
                ) from error

        return assemble(layer.sheet, corner, (width, height), tile)

    def close(self) -> None:
        """Give the file back; closing twice is allowed."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self.tiles is not None:
            self.tiles.close()
        self._cache.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _decode(self, layer: _Layer, row: int, column: int) -> _Image:
        """Decode a tile to (h, w, 3), at least what of it lies on the level."""
        sheet = layer.sheet
        rest = sheet.height - row * sheet.tile_height, sheet.width - column * sheet.tile_width
        inside = min(rest[0], sheet.tile_height), min(rest[1], sheet.tile_width)
        parts = []
        for page, number in layer.streams(row, column):
            offset, length = int(page.dataoffsets[number]), int(page.databytecounts[number])
            data = read_stream(self._file, offset, length, sheet.tile_width * sheet.tile_height * page.samplesperpixel)
            parts.append(_decode_stream(page, number, data, inside))
        pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        if pixels.shape[-1] == 1:
            grey = 255 - pixels if int(layer.pages[0].photometric) == _WHITE_IS_ZERO else pixels
            return np.repeat(grey, 3, axis=-1)
        return np.ascontiguousarray(pixels)


def _decode_stream(page: tifffile.TiffPage, number: int, data: bytes, inside: tuple[int, int]) -> _Image:
    """Decode a tile or strip to (h, w, samples), of which `inside` lies on the level."""
    samples = 1 if _is_planar(page) else page.samplesperpixel
    compression = int(page.compression)
    full = (page.tilelength, page.tilewidth) if page.is_tiled else inside
    if compression == JPEG:
        return _decode_jpeg(page, data, inside, full)[..., :samples]
    if compression in _PLAIN:
        decoded = page.decode(data, number)[0]
        if decoded is None or decoded.shape[1:3] not in (inside, full):
            raise ValueError("it has another size than the file declares")
        return np.asarray(decoded[0, : inside[0], : inside[1]], dtype=np.uint8)
    if compression == _LERC:
        data = _unpacked(page, data, math.prod(full) * samples)
    return pictures.decode(_PICTURES[compression], data, (*full, samples))[: inside[0], : inside[1]]


def _decode_jpeg(page: tifffile.TiffPage, data: bytes, inside: tuple[int, int], full: tuple[int, int]) -> _Image:
    colour: jpeg.Colour = "grey" if page.samplesperpixel == 1 or _is_planar(page) else "rgb"
    if int(page.photometric) == _YCBCR:
        colour = "ycbcr"
    frame = jpeg.read_frame(data)
    if frame.height not in (inside[0], full[0]) or frame.width not in (inside[1], full[1]):
        raise ValueError(f"it declares {frame.width} x {frame.height} px")
    if frame.components != (1 if colour == "grey" else 3):
        raise ValueError(f"it has {frame.components} components")
    return jpeg.decode(jpeg.complete(data, frame, page.jpegtables or b"", colour))[: inside[0], : inside[1]]


def _unpacked(page: tifffile.TiffPage, data: bytes, raw: int) -> bytes:
    """Undo LERC's second compression; more than the raw px and a header is not taken."""
    unpack = _UNPACK.get(tuple(page.tags.valueof(_LERC_PARAMETERS, (0, 0)))[1])
    return data if unpack is None else bytes(unpack(data, out=2 * raw + 4096))


def _read_directories(path: Path) -> Series:
    """Find the slide and see that each of its directories can be decoded."""
    try:
        with tifffile.TiffFile(path) as tiff:
            series = series_of(tiff)
            pages = [page for levels in series.planes for level in levels for page in level]
            faults = list(filter(None, (_fault(page) for page in pages)))
            for page in pages:
                # What is read from the file when it is asked for, asked for while it is open.
                _ = page.dataoffsets, page.databytecounts, page.jpegtables, page.tags.valueof(_LERC_PARAMETERS)
            facts = [facts_of(page) for page in pages]
    except UnsupportedSlideError as error:
        raise UnsupportedSlideError(f"{path}: {error}") from error
    # A broken file makes the parser fail in any of a dozen ways, and each means the same here.
    except Exception as error:
        raise UnsupportedSlideError(f"{path}: its TIFF directories cannot be read: {error}") from error
    if faults:
        raise UnsupportedSlideError(f"{path}: {faults[0]}; convert the slide to 8-bit RGB in tiles")
    check_shared(path, facts)
    return series


def _fault(page: tifffile.TiffPage) -> str:
    """Return why a directory cannot be read, or nothing."""
    compression, photometric, samples = int(page.compression), int(page.photometric), page.samplesperpixel
    if page.imagewidth < 1 or page.imagelength < 1:
        return "no picture in it"
    if compression not in _PICTURES.keys() | _PLAIN | {JPEG}:
        return f"TIFF compression {compression} is not among what slides are made of"
    if page.bitspersample != 8 or int(page.sampleformat) != 1:
        return f"{page.bitspersample} bits a sample, or not whole numbers from 0 to 255"
    if samples not in (1, 3):
        return f"{samples} samples a pixel, neither grey nor RGB"
    known = (_WHITE_IS_ZERO, _BLACK_IS_ZERO) if samples == 1 else (_RGB, _YCBCR) if compression == JPEG else (_RGB,)
    if photometric not in known:
        return f"TIFF colour model {photometric} with {samples} sample(s) and compression {compression}"
    if photometric == _YCBCR and _is_planar(page):
        return "YCbCr colour in separate planes"
    sheet = _sheet(page)
    if min(sheet.tile_width, sheet.tile_height) < 1 or sheet.tile_width * sheet.tile_height > MAX_REGION_PX:
        return f"a tile or strip of {sheet.tile_width} x {sheet.tile_height} px, at most {MAX_REGION_PX} px are decoded"
    count = math.prod(sheet.shape) * (samples if _is_planar(page) else 1)
    if not len(page.dataoffsets) == len(page.databytecounts) == count or page.imagedepth != 1:
        return f"{len(page.dataoffsets)} tiles or strips listed, {count} needed"
    return ""


def _is_planar(page: tifffile.TiffPage) -> bool:
    return page.samplesperpixel > 1 and int(page.planarconfig) == 2


def _sheet(page: tifffile.TiffPage) -> Sheet:
    if page.is_tiled:
        return Sheet(page.imagewidth, page.imagelength, page.tilewidth, page.tilelength)
    return Sheet(page.imagewidth, page.imagelength, page.imagewidth, min(page.rowsperstrip, page.imagelength))


def _facts(path: Path, slide_id: str, series: Series, sheet: Sheet) -> SlideInfo:
    stated = series.stated_mpp
    return SlideInfo(
        slide_id=slide_id,
        path=path,
        width_px=sheet.width,
        height_px=sheet.height,
        mpp=None if stated is None else sum(stated) / 2,
        mpp_source="missing" if stated is None else "file",
        mpp_key=series.mpp_key,
        level_downsamples=series.downsamples,
        focal_planes=len(series.planes),
        focal_step_um=series.focal_step_um,
        vendor=series.vendor,
        icc=series.icc,
        native_tile_px=(sheet.tile_width, sheet.tile_height) if series.planes[0][0][0].is_tiled else None,
        stated_mpp=stated,
    )


def _native(path: Path, series: Series) -> JpegTiles | None:
    """Return the JPEG tiles of a slide of one focal plane."""
    levels = [pages[0] for pages in series.planes[0] if len(pages) == 1 and pages[0].is_tiled]
    if len(levels) != len(series.planes[0]):
        return None
    sizes = [LevelSize(page.imagewidth, page.imagelength, page.tilewidth, page.tilelength) for page in levels]
    return jpeg_tiles_of(path, [facts_of(page) for page in levels], "generic-tiff", sizes)
