"""A look at a TIFF's tags before a native library decodes it; what it finds of tiles is kept, so it happens once.

Libtiff converts whatever is not JPEG or JPEG 2000 to RGB itself, and that code had memory errors for subsampled YCbCr
(CVE-2026-4775) and for PixarLog (CVE-2026-12912). No scanner writes such tiles, so they are refused unseen. Strips are
left alone: OpenSlide takes a pyramid from tiles only, and nothing else of a slide is ever decoded here.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_detect.errors import UnsupportedSlideError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: Baseline JPEG as TIFF has had it since 1995.
JPEG = 7
#: Decoded by the JPEG libraries: old and new JPEG, Aperio's JPEG 2000 codes, JPEG 2000.
_JPEG_2000 = 34712
_JPEG = frozenset({6, JPEG, 33003, 33004, 33005, _JPEG_2000})
#: None, LZW, deflate (two codes), PackBits, zstd.
_PLAIN = frozenset({1, 5, 8, 32946, 32773, 50000})

_GREY = frozenset({0, 1})
_RGB = 2
_YCBCR = 6

#: Baseline JPEG spends at least 2 bits on a block of 8 x 8 px, 256 px a byte, before headers.
_MOST_PX_PER_BYTE = 1000
#: Writers that store a blank tile once and point to it often stay below; a bomb is thousands of times above.
_MOST_SHARED = 2.0

_FILL_ORDER, _ORIENTATION, _TILE_DEPTH, _NDPI_FOCUS = 266, 274, 32998, 65424

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class TiledPage:
    """A tiled directory of a TIFF.

    Attributes:
        width: px.
        height: px.
        tile_width: px.
        tile_height: px.
        offsets: (tiles,) int64, byte at which each tile begins, as many as the file lists.
        lengths: (tiles,) int64, bytes of each tile; 0 where there is none.
        compression: TIFF's code.
        photometric: TIFF's code of the colour model.
        samples: a px.
        bits: a sample; 0 if they differ.
        usual: nothing says that px lie elsewhere than row by row from the top left, samples side by side, one depth.
        focus: distance from the focal plane the file is about, as NDPI has it; 0 elsewhere.
        tables: JPEG tables common to all tiles, or nothing.
        header: of NDPI, which cuts one JPEG at its restart markers: what makes a stream of each part.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    compression: int
    photometric: int
    samples: int
    bits: int
    usual: bool
    focus: int
    tables: bytes
    header: bytes


def is_for_openslide(path: Path) -> bool:
    """Whether a file OpenSlide recognises as a slide is one it reads whole.

    Not so OME-TIFF and QPTIFF, of whose pyramid, focal planes and channels it knows nothing, and what `check_tiff`
    refuses or OpenSlide cannot decode.
    """
    with path.open("rb") as stream:
        if stream.read(4) not in MAGIC:
            return True
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
            undecodable = any(_fault(page) or int(page.compression) == _JPEG_2000 for page in pages)
            return not (tiff.is_ome or tiff.is_qpi or undecodable)
    # OpenSlide recognised it all the same: `check_tiff` says what is wrong.
    except Exception as error:
        _log.debug("TIFF directories of a slide not read: %s", error)
        return True


def check_tiff(path: Path) -> tuple[TiledPage, ...]:
    """Return the tiled directories of a TIFF in their order, none of another file.

    Raises:
        UnsupportedSlideError: a tiled directory is such as only an attacker would write: the compression, the colour
            model or the sample size is none of those slides have, or many tiles share the same few bytes; or the
            directories cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(4) not in MAGIC:
            return ()
    try:
        with tifffile.TiffFile(path) as tiff:
            found = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
            faults = [_fault(page) for page in found]
            pages = tuple(facts_of(page) for page in found)
    # A broken file makes the parser fail in any of a dozen ways, and each means the same here.
    except Exception as error:
        raise UnsupportedSlideError(f"{path}: its TIFF directories cannot be read: {error}") from error
    for fault in faults:
        if fault:
            raise UnsupportedSlideError(f"{path}: {fault} is not among what slides are made of; convert the file")
    check_shared(path, pages)
    return pages


def _fault(page: tifffile.TiffPage) -> str:
    """Return what is wrong with a tiled directory, or nothing."""
    compression, photometric = int(page.compression), int(page.photometric)
    if compression not in _JPEG | _PLAIN:
        return f"TIFF compression {compression}"
    if photometric not in _GREY | {_RGB, _YCBCR}:
        return f"TIFF colour model {photometric}"
    if photometric == _YCBCR and compression not in _JPEG:
        return f"YCbCr colour with TIFF compression {compression}"
    if page.bitspersample not in (8, 16):
        return f"{page.bitspersample} bits a sample"
    if page.samplesperpixel > 1 and int(page.planarconfig) != 1:
        return "colour in separate planes"
    return ""


def facts_of(page: tifffile.TiffPage) -> TiledPage:
    """Return what is kept of a tiled directory."""
    tags = page.tags
    upright = all(tags.valueof(tag, 1) == 1 for tag in (_FILL_ORDER, _ORIENTATION, _TILE_DEPTH))
    return TiledPage(
        width=page.imagewidth,
        height=page.imagelength,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        offsets=_numbers(page.dataoffsets),
        lengths=_numbers(page.databytecounts),
        compression=int(page.compression),
        photometric=int(page.photometric),
        samples=page.samplesperpixel,
        bits=page.bitspersample if isinstance(page.bitspersample, int) else 0,
        usual=upright and int(page.planarconfig) == 1 and page.imagedepth == 1,
        focus=int(tags.valueof(_NDPI_FOCUS, 0)),
        tables=page.jpegtables or b"",
        header=page.jpegheader or b"",
    )


def _numbers(values: Sequence[int]) -> NDArray[np.int64]:
    """Return a tag's numbers; one beyond any file, as a flipped bit makes it, is cut to the largest there is."""
    try:
        return np.asarray(values, dtype=np.int64)
    except OverflowError:
        return np.asarray([min(value, np.iinfo(np.int64).max) for value in values], dtype=np.int64)


def check_shared(path: Path, pages: Sequence[TiledPage]) -> None:
    """Refuse a file whose tiles are the same bytes over and over: a small one can declare days of work.

    A slide that leaves tiles out passes: they are not counted.

    Raises:
        UnsupportedSlideError: the tiles are longer together than the file, or of fewer bytes than a JPEG needs.
    """
    size = path.stat().st_size
    # A single count may be nonsense in a damaged file, which then costs one tile and not the slide.
    claimed = sum(float(np.clip(page.lengths, 0, size).sum()) for page in pages)
    pixels = sum(
        float(np.count_nonzero(page.lengths)) * page.tile_width * page.tile_height
        for page in pages
        if page.compression == JPEG
    )
    if claimed > _MOST_SHARED * size or pixels > _MOST_PX_PER_BYTE * size:
        raise UnsupportedSlideError(
            f"{path}: its tiles share bytes: a file of {size / 1e6:.3g} MB declares {pixels / 1e6:.3g} megapixels of "
            f"JPEG in tiles of {claimed / 1e6:.3g} MB together; such a file can only waste time, and raising "
            "--max-pixels does not help; scan or convert the slide again"
        )
