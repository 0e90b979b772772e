"""A look at a TIFF's tags before a native library decodes it.

Libtiff converts whatever is not JPEG or JPEG 2000 to RGB itself, and that code had memory errors for subsampled YCbCr
(CVE-2026-4775) and for PixarLog (CVE-2026-12912). No scanner writes such tiles, so they are refused unseen. Strips are
left alone: OpenSlide takes a pyramid from tiles only, and nothing else of a slide is ever decoded here.
"""

from pathlib import Path

import tifffile

from wsi_detect.errors import UnsupportedSlideError

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

#: Decoded by the JPEG libraries: old and new JPEG, Aperio's JPEG 2000 codes, JPEG 2000.
_JPEG = frozenset({6, 7, 33003, 33004, 33005, 34712})
#: None, LZW, deflate (two codes), PackBits, zstd.
_PLAIN = frozenset({1, 5, 8, 32946, 32773, 50000})

_GREY = frozenset({0, 1})
_RGB = 2
_YCBCR = 6


def check_tiff(path: Path) -> None:
    """Refuse a TIFF with tiles that only an attacker would write; other files pass.

    Raises:
        UnsupportedSlideError: the compression, the colour model or the sample size of a tiled directory is none of
            those slides have, or the directories cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(4) not in _MAGIC:
            return
    try:
        with tifffile.TiffFile(path) as tiff:
            faults = [_fault(page) for page in tiff.pages if isinstance(page, tifffile.TiffPage) and page.is_tiled]
    # A broken file makes the parser fail in any of a dozen ways, and each means the same here.
    except Exception as error:
        raise UnsupportedSlideError(f"{path}: its TIFF directories cannot be read: {error}") from error
    for fault in faults:
        if fault:
            raise UnsupportedSlideError(f"{path}: {fault} is not among what slides are made of; convert the file")


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
