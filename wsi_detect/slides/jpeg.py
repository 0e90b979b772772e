"""One JPEG tile of a slide: looked at before a decoder sees it, then decoded in the colours the slide declares.

A decoder left to itself guesses the colour model from markers many scanners leave out, and obeys whatever size the
stream declares. Here the slide's own tags decide both. ITU-T T.81 names the markers.
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray

#: How the samples of a stream are meant: as the file's tags declare them, never guessed.
Colour = Literal["ycbcr", "rgb", "grey"]

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
#: Factors the decoder itself can shrink by.
REDUCTIONS = (1, 2, 4, 8)

_SOF0, _SOS, _APP0, _APP14, _APP15, _COM = 0xC0, 0xDA, 0xE0, 0xEE, 0xEF, 0xFE
#: Frames other than baseline: extended, progressive, lossless, arithmetic.
_OTHER_FRAMES = frozenset({0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
#: Adobe's marker: version 100, no flags, and in the last byte the transform, 0 RGB or 1 YCbCr.
_ADOBE = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00"
_STRAY_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_ZEROS = bytes(48)
#: DHT and DQT.
_TABLES = frozenset({0xC4, 0xDB})


class JpegFaultError(ValueError):
    """The stream is not the tile it should be; the text says how."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a stream says of itself before its data.

    Attributes:
        width: px.
        height: px.
        components: 1 or 3.
        ids: of the components.
        jfif: an APP0 marker is there, which decoders take for YCbCr.
        adobe: transform of the last APP14 marker, None if there is none.
        start: where the frame header begins, bytes from the start of the stream.
        data: where the entropy-coded data begin.
    """

    width: int
    height: int
    components: int
    ids: bytes
    jfif: bool
    adobe: int | None
    start: int
    data: int


#: The headers read last. Tiles of a slide mostly begin alike, and taking them apart costs as much as reading a tile.
_last: list[tuple[bytes, Frame]] = [(b"\0", Frame(0, 0, 1, b"", False, None, 0, 0))]


def read_frame(stream: bytes) -> Frame:
    """Read the headers of a whole tile stream; no pixel is decoded.

    Raises:
        JpegFaultError: it does not run from SOI to EOI, or is not 8-bit baseline with 1 or 3 components.
    """
    if stream[:2] != SOI:
        raise JpegFaultError("does not begin like a JPEG")
    # Some writers pad the tile with zeros, which is harmless; data cut short is not.
    if stream[-2:] != EOI and stream.rstrip(b"\0")[-2:] != EOI:
        raise JpegFaultError("has no end marker")
    head, frame = _last[0]
    if not stream.startswith(head):
        frame = _parse(stream)
        _last[0] = (stream[: frame.data], frame)
    return frame


def _parse(stream: bytes) -> Frame:
    place, jfif, adobe, frame = 2, False, None, None
    while True:
        marker, length = _segment(stream, place)
        if marker == _SOF0:
            frame = place
        elif marker in _OTHER_FRAMES:
            raise JpegFaultError(f"is not baseline (frame marker {marker:#x})")
        elif marker == _APP0:
            jfif = True
        elif marker == _APP14 and length >= 14 and stream[place + 4 : place + 9] == b"Adobe":
            adobe = stream[place + 15]
        place += 2 + length
        if marker == _SOS:
            break
    if frame is None:
        raise JpegFaultError("has no frame header")
    precision, components = stream[frame + 4], stream[frame + 9]
    if precision != 8 or components not in (1, 3):
        raise JpegFaultError(f"has {components} components of {precision} bits")
    height, width = int.from_bytes(stream[frame + 5 : frame + 7]), int.from_bytes(stream[frame + 7 : frame + 9])
    ids = bytes(stream[frame + 10 + 3 * k] for k in range(components))
    return Frame(width, height, components, ids, jfif, adobe, frame, place)


def _segment(stream: bytes, place: int) -> tuple[int, int]:
    """Marker and length of the segment at a place."""
    if place + 4 > len(stream) or stream[place] != 0xFF or stream[place + 1] == 0xFF:
        raise JpegFaultError("has damaged headers")
    length = stream[place + 2] << 8 | stream[place + 3]
    if length < 2 or place + 2 + length > len(stream):
        raise JpegFaultError("has damaged headers")
    return stream[place + 1], length


def looks_damaged(stream: bytes, frame: Frame) -> bool:
    """Whether the entropy-coded data hold what they should not: a long run of zeros, or a marker in their midst.

    A hint at no cost, not a verdict: a flat tile under unusual tables may hold zeros. What is suspected is decoded.
    """
    if stream.find(_ZEROS, frame.data) >= 0:
        return True
    found = _STRAY_MARKER.search(stream, frame.data)
    return found is None or stream[found.start() : found.start() + 2] != EOI


def tells(frame: Frame, colour: Colour) -> bool:
    """Whether a decoder left to guess takes the stream's samples for what they are."""
    if colour == "grey" or frame.components == 1:
        return True
    if colour == "rgb":
        return not frame.jfif and frame.adobe == 0
    return frame.jfif or frame.adobe == 1 or (frame.adobe is None and frame.ids == b"\x01\x02\x03")


def complete(stream: bytes, frame: Frame, tables: bytes, colour: Colour) -> bytes:
    """Return a stream that any decoder reads in the declared colours: tables in, markers that mislead out.

    Args:
        stream: the tile.
        frame: its headers.
        tables: the slide's common tables (SOI … EOI, as a TIFF keeps them), or nothing.
        colour: what the slide declares.
    """
    if not tables and tells(frame, colour):
        return stream
    adobe = b"" if colour == "grey" else _ADOBE + (b"\x00" if colour == "rgb" else b"\x01")
    return b"".join([SOI, adobe, _tables(tables), _body(stream, frame.data), stream[frame.data :]])


@functools.lru_cache(maxsize=64)
def _tables(stream: bytes) -> bytes:
    """The quantisation and Huffman tables of a tables stream; libjpeg, too, forgets all else at the next SOI."""
    return b"".join(part for marker, part in _segments(stream, len(stream)) if marker in _TABLES)


def _body(stream: bytes, end: int) -> bytes:
    """Header segments of a stream up to `end`, without those that say nothing or mislead about colour."""
    return b"".join(
        part for marker, part in _segments(stream, end) if not (_APP0 <= marker <= _APP15 or marker == _COM)
    )


def _segments(stream: bytes, end: int) -> Iterator[tuple[int, bytes]]:
    """Marker and bytes of each segment behind SOI, up to `end` or EOI."""
    place = 2
    while place < end and stream[place : place + 2] != EOI:
        marker, length = _segment(stream, place)
        yield marker, stream[place : place + 2 + length]
        place += 2 + length


def buffer(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return memory to decode into and copy from: uint8, not set, 16 bytes off a multiple of 32.

    Where a row begins on such a multiple the decoder writes past the processor's cache, and whoever reads the pixels
    next waits for the main memory: a fifth of the decoding.
    """
    size = math.prod(shape)
    memory = np.empty(size + 32, dtype=np.uint8)
    start = (16 - memory.ctypes.data) % 32
    return memory[start : start + size].reshape(shape)


def decode(
    stream: bytes, *, reduce: int = 1, shape: tuple[int, int] | None = None, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Decode a complete stream to (H, W, 3) RGB uint8.

    Data that end early are an error, as OpenSlide has it; libjpeg alone would paint the rest grey and go on. Bytes too
    many are let through, as OpenSlide does.

    Args:
        stream: as `complete` gives it.
        reduce: one of `REDUCTIONS`; the decoder leaves the finer detail out, which is faster than to average it away.
        shape: height and width the stream declares; needed to reduce.
        out: contiguous (H, W, 3) to decode into.

    Raises:
        JpegFaultError: the decoder refuses.
    """
    least = (0, 0) if shape is None or reduce == 1 else tuple(-(-side // reduce) for side in shape)
    options = {"colorspace": "RGB", "fastdct": False, "fastupsample": False, "buffer": out}
    try:
        return _decode(stream, least, options, strict=True)
    except ValueError as error:
        if "extraneous" not in str(error):
            raise JpegFaultError(f"cannot be decoded: {error}") from error
    try:
        return _decode(stream, least, options, strict=False)
    except ValueError as error:
        raise JpegFaultError(f"cannot be decoded: {error}") from error


def _decode(stream: bytes, least: tuple[int, ...], options: dict[str, object], *, strict: bool) -> NDArray[np.uint8]:
    rgb = simplejpeg.decode_jpeg(stream, min_height=least[0], min_width=least[1], strict=strict, **options)
    return np.asarray(rgb, dtype=np.uint8)
