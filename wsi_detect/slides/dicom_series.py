"""Which files of a folder are a DICOM slide, and where in them the tiles lie.

A slide is a series: one file a level, in one folder. pydicom reads the headers, of which only the tags named here are
kept; the pixel data of label and overview files are never touched.
"""

import math
import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import MissingExtraError, UnsupportedSlideError
from wsi_detect.slides import jpeg, pictures
from wsi_detect.slides.assemble import Sheet, step_between

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_Places = NDArray[np.int64]

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
_SYNTAX = "1.2.840.10008.1.2"
_IMPLICIT, _EXPLICIT, JPEG = _SYNTAX, f"{_SYNTAX}.1", f"{_SYNTAX}.4.50"
PICTURES: dict[str, pictures.Codec] = {
    **{f"{_SYNTAX}.4.{code}": "jpegls" for code in (80, 81)},
    **{f"{_SYNTAX}.4.{code}": "jpeg2000" for code in (90, 91, 201, 202, 203)},
    **{f"{_SYNTAX}.4.{code}": "jpegxl" for code in (110, 112)},
}
#: JPEG 2000's own transforms, and JPEG XL's, are undone by the decoder.
_DECODED_TO_RGB = ("RGB", "YBR_ICT", "YBR_RCT", "XYB")
_TAGS = [
    "ImageType", "SOPClassUID", "SeriesInstanceUID", "DimensionOrganizationType", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "PixelRepresentation", "TotalPixelMatrixColumns", "TotalPixelMatrixRows", "TotalPixelMatrixFocalPlanes",
    "NumberOfOpticalPaths", "OpticalPathSequence", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_ITEM, _END, _PIXEL_DATA = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0", b"\xe0\x7f\x10\x00"
_UNDEFINED = 0xFFFFFFFF
#: Tiles of one level, all planes together.
_MOST_TILES = 1 << 22
_MOST_TILE_PX = 1 << 24


class _Header(NamedTuple):
    """A file's header: the tags named above, and the byte at which the pixel data begin."""

    path: Path
    tags: "Dataset"
    pixels: int


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One file of a slide's series.

    Attributes:
        path: the file.
        sheet: its size and tiles.
        syntax: how its frames are written.
        samples: a px.
        planar: the samples of native frames lie in planes.
        colour: as the file declares it.
        offsets: (planes, rows, columns), byte at which each frame begins.
        lengths: likewise, bytes; 0 where there is no frame.
        step_um: between focal planes, None if not stated.
        mpp: along x and y, None if not stated.
        power: of the objective, None if not stated.
        icc: whether a colour profile is embedded.
    """

    path: Path
    sheet: Sheet
    syntax: str
    samples: int
    planar: bool
    colour: jpeg.Colour
    offsets: _Places
    lengths: _Places
    step_um: float | None
    mpp: tuple[float, float] | None
    power: float | None
    icc: bool


def read_series(path: Path) -> tuple[tuple[float, ...], list[Level]]:
    """Return downsamples and levels of the slide a file belongs to, the finest first.

    Args:
        path: any file of the slide's pyramid; the others are looked for beside it.

    Raises:
        UnsupportedSlideError: the file is no level of a whole slide, or not of 8 bits in bright field.
        MissingExtraError: pydicom is not installed.
    """
    try:
        # pydicom's warnings, also those of a value looked at later, quote it; it may be a name.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _series(_read_header(path))
    except UnsupportedSlideError as error:
        raise UnsupportedSlideError(f"{path}: {error}") from error
    except MissingExtraError:
        raise
    # A broken header fails in any of a dozen ways. The text of the error may quote it, names included: it is not told.
    except Exception as error:
        raise UnsupportedSlideError(f"{path}: its DICOM header cannot be used ({type(error).__name__})") from None


def _series(own: _Header) -> tuple[tuple[float, ...], list[Level]]:
    kind = _kind(own)
    if kind is None:
        _refuse("a DICOM file, but no whole-slide image")
    if kind != "VOLUME":
        _refuse(f"the {kind.lower()} picture of a slide, not the slide; name a file of its pyramid")
    found = [own, *_beside(own)]
    sizes = [_size(entry) for entry in found]
    if len(set(sizes)) < len(sizes):
        _refuse("several files of the series hold the same level; join them into one")
    whole = max(sizes, key=math.prod)
    levels = {step_between(whole, size): entry for size, entry in zip(sizes, found, strict=True)}
    steps = sorted(step for step in levels if step is not None)
    return tuple(steps), _agreeing([_level(levels[step]) for step in steps])


def is_dicom(path: Path) -> bool:
    """Whether a file begins like DICOM."""
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _read_header(path: Path) -> _Header:
    try:
        import pydicom
    except ImportError as error:
        raise MissingExtraError(f"{path}: a DICOM slide that OpenSlide does not read", "dicom") from error
    with path.open("rb") as stream:
        tags = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(_TAGS))
        return _Header(path, tags, stream.tell())


def _beside(own: _Header) -> Iterator[_Header]:
    """Yield the other files of the slide's pyramid."""
    for path in sorted(own.path.parent.iterdir()):
        if path.is_file() and not path.samefile(own.path) and is_dicom(path):
            other = _read_header(path)
            if other.tags.get("SeriesInstanceUID") == own.tags.get("SeriesInstanceUID") and _kind(other) == "VOLUME":
                yield other


def _kind(header: _Header) -> str | None:
    """Return what a whole-slide file shows, such as `VOLUME`, `LABEL`, `OVERVIEW`; None of another file."""
    kind = header.tags.get("ImageType", [])
    if header.tags.get("SOPClassUID") != _WHOLE_SLIDE or len(kind) < 3:
        return None
    return str(kind[2])


def _size(header: _Header) -> tuple[int, int]:
    return int(header.tags.TotalPixelMatrixColumns), int(header.tags.TotalPixelMatrixRows)


def _agreeing(levels: list[Level]) -> list[Level]:
    counts = {len(level.offsets) for level in levels}
    if counts - {1, len(levels[0].offsets)}:
        _refuse(f"levels with {' and '.join(map(str, sorted(counts)))} focal planes")
    return levels


def _level(file: _Header) -> Level:
    header = file.tags
    samples, colour = _colour(header)
    sheet = Sheet(*_size(file), int(header.Columns), int(header.Rows))
    if min(sheet.width, sheet.height, sheet.tile_width, sheet.tile_height) < 1:
        _refuse("a level without a pixel")
    if sheet.tile_width * sheet.tile_height > _MOST_TILE_PX or math.prod(sheet.shape) > _MOST_TILES:
        _refuse(f"tiles of {sheet.tile_width} x {sheet.tile_height} px in a level of {sheet.width} x {sheet.height} px")
    planes, tiles, step_um = _order(header, sheet)
    frames = _frames(file, sheet.tile_width * sheet.tile_height * samples)
    if frames.shape[1] != len(tiles):
        _refuse(f"{frames.shape[1]} frames stored, {len(tiles)} declared; frames in several pieces are not read")
    tables = np.zeros((2, planes, *sheet.shape), dtype=np.int64)
    tables[:, tiles[:, 0], tiles[:, 1], tiles[:, 2]] = frames
    measures = _group(header, "PixelMeasuresSequence")
    spacing = None if measures is None else measures.get("PixelSpacing")
    paths = header.get("OpticalPathSequence") or []
    power = paths[0].get("ObjectiveLensPower") if paths else None
    return Level(
        path=file.path,
        sheet=sheet,
        syntax=str(header.file_meta.TransferSyntaxUID),
        samples=samples,
        planar=samples > 1 and int(header.get("PlanarConfiguration", 0)) == 1,
        colour=colour,
        offsets=tables[0],
        lengths=tables[1],
        step_um=step_um,
        mpp=None if not spacing else (float(spacing[1]) * 1e3, float(spacing[0]) * 1e3),
        power=None if power is None else float(power),
        icc=bool(paths) and "ICCProfile" in paths[0],
    )


def _colour(header: "Dataset") -> tuple[int, jpeg.Colour]:
    """Return samples a px, and how they are meant."""
    syntax, declared = str(header.file_meta.TransferSyntaxUID), str(header.PhotometricInterpretation)
    samples, bits = int(header.SamplesPerPixel), int(header.BitsAllocated)
    if syntax not in (_IMPLICIT, _EXPLICIT, JPEG) and syntax not in PICTURES:
        _refuse(f"transfer syntax {syntax}; convert it to JPEG, JPEG 2000 or no compression")
    if bits != 8 or int(header.get("PixelRepresentation", 0)) != 0:
        _refuse(f"{bits} bits a sample, 8 without a sign are read")
    if int(header.get("NumberOfOpticalPaths", 1)) > 1 or len(header.get("OpticalPathSequence") or []) > 1:
        _refuse("several optical paths; a slide in bright field has one, fluorescence is not read")
    if (samples, declared) == (1, "MONOCHROME2"):
        return samples, "grey"
    if samples == 3 and syntax == JPEG and declared in ("YBR_FULL", "YBR_FULL_422"):
        return samples, "ycbcr"
    if samples == 3 and (declared == "RGB" or (declared in _DECODED_TO_RGB and syntax in PICTURES)):
        return samples, "rgb"
    _refuse(f"colour model {declared} with {samples} sample(s) in transfer syntax {syntax}")


def _order(header: "Dataset", sheet: Sheet) -> tuple[int, NDArray[np.int64], float | None]:
    """Return the number of planes, (frames, 3) plane, row and column of each frame, and µm between planes."""
    rows, columns = sheet.shape
    frames = int(header.get("NumberOfFrames", 1))
    if header.get("DimensionOrganizationType") != "TILED_SPARSE" and "PerFrameFunctionalGroupsSequence" not in header:
        planes = int(header.get("TotalPixelMatrixFocalPlanes", 1))
        if not 1 <= planes * rows * columns <= _MOST_TILES:
            _refuse(f"{planes} focal plane(s) of {columns} x {rows} tiles")
        if planes * rows * columns != frames:
            _refuse(f"{frames} frames, where {planes} plane(s) of {columns} x {rows} tiles are declared")
        measures = _group(header, "PixelMeasuresSequence")
        between = None if measures is None else measures.get("SpacingBetweenSlices")
        places = np.stack(np.unravel_index(np.arange(frames), (planes, rows, columns)), axis=1)
        return planes, places.astype(np.int64), None if planes == 1 or not between else float(between) * 1e3
    positions = [group.PlanePositionSlideSequence[0] for group in header.PerFrameFunctionalGroupsSequence]
    x = np.array([int(entry.ColumnPositionInTotalImagePixelMatrix) - 1 for entry in positions], dtype=np.int64)
    y = np.array([int(entry.RowPositionInTotalImagePixelMatrix) - 1 for entry in positions], dtype=np.int64)
    depth = np.round([float(entry.get("ZOffsetInSlideCoordinateSystem", 0)) for entry in positions], 3)
    heights, plane = np.unique(depth, return_inverse=True)
    if len(positions) != frames or not frames:
        _refuse(f"{frames} frames, positions of {len(positions)}")
    if (x % sheet.tile_width).any() or (y % sheet.tile_height).any():
        _refuse("tiles that do not lie on a grid")
    places = np.stack([plane, y // sheet.tile_height, x // sheet.tile_width], axis=1)
    if places.min() < 0 or (places >= (len(heights), rows, columns)).any():
        _refuse("tiles beyond the edge of the slide")
    if len(heights) * rows * columns > _MOST_TILES:
        _refuse(f"{len(heights)} focal planes of {columns} x {rows} tiles")
    return len(heights), places, float(np.median(np.diff(heights))) if len(heights) > 1 else None


def _frames(header: _Header, frame_bytes: int) -> _Places:
    """Return (2, frames) where each frame begins in the file and how long it is; of one cut off, beyond the file's end.

    A frame in several pieces counts several times.
    """
    with header.path.open("rb") as stream:
        head = stream.seek(header.pixels) and stream.read(12)
        if not head or head[:4] != _PIXEL_DATA:
            _refuse("no pixel data, or not where they belong")
        implicit = header.tags.file_meta.TransferSyntaxUID == _IMPLICIT
        length = int(struct.unpack("<I", head[4:8] if implicit else head[8:12])[0])
        start = header.pixels + (8 if implicit else 12)
        declared = int(header.tags.get("NumberOfFrames", 1))
        if length != _UNDEFINED:
            count = min(declared, length // frame_bytes)
            return np.stack([start + np.arange(count) * frame_bytes, np.full(count, frame_bytes)])
        items, whole = _items(stream.fileno(), start)
    if not whole:
        items += [(header.path.stat().st_size, 1)] * (declared + 1 - len(items))
    return np.array(items[1:], dtype=np.int64).reshape(-1, 2).T  # the first item is the table of offsets


def _items(file: int, place: int) -> tuple[list[tuple[int, int]], bool]:
    """Return start and length of the items of encapsulated pixel data, and whether they end as they should."""
    items: list[tuple[int, int]] = []
    while True:
        head = os.pread(file, 8, place)
        if len(head) < 8 or head[:4] != _ITEM:
            return items, head[:4] == _END
        length = int(struct.unpack("<I", head[4:])[0])
        items.append((place + 8, length))
        place += 8 + length


def _group(header: "Dataset", name: str) -> "Dataset | None":
    """Return the functional group all frames share, or else the first frame's."""
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        groups = header.get(sequence) or []
        found = groups[0].get(name) if groups else None
        if found:
            entry: Dataset = found[0]
            return entry
    return None


def _refuse(what: str) -> NoReturn:
    raise UnsupportedSlideError(what)
