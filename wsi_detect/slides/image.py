"""A plain PNG or JPEG posing as a slide of one level. Its resolution must be given: such files rarely know it."""

import builtins
import warnings
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_detect.errors import DamagedSlideError, UnsupportedSlideError
from wsi_detect.slides.reader import Pixels, SlideInfo, check_request

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_MODES = ("RGB", "RGBA", "L", "LA", "P")


def accepts(path: Path) -> bool:
    """Whether the file begins like a PNG or a JPEG."""
    with builtins.open(path, "rb") as stream:
        return stream.read(8).startswith(_SIGNATURES)


def open(path: Path, slide_id: str) -> "ImageReader":  # noqa: A001 - the name every format has
    """Open a picture; see `ImageReader`."""
    return ImageReader(path, slide_id)


class ImageReader:
    """A picture held in memory. Coordinates are those of the stored pixels: an EXIF orientation is not applied."""

    def __init__(self, path: Path, slide_id: str) -> None:
        """Decode the picture.

        Raises:
            UnsupportedSlideError: not 8-bit colour or grey, or too large for a field of view.
            DamagedSlideError: the file is cut or broken.
        """
        rgba = _decode(path)
        valid = rgba[..., 3] > 0
        self._valid: NDArray[np.bool_] | None = None if bool(valid.all()) else valid
        self._rgb = np.where(valid[..., None], rgba[..., :3], np.uint8(255))
        self._closed = False
        self.info = SlideInfo(
            slide_id=slide_id,
            path=path,
            width_px=rgba.shape[1],
            height_px=rgba.shape[0],
            mpp=None,
            mpp_source="missing",
            level_downsamples=(1.0,),
            vendor="plain image",
        )

    def read_region(self, x_px: int, y_px: int, level: int, width: int, height: int, *, plane: int = 0) -> Pixels:
        """Read a rectangle; see `SlideReader.read_region`."""
        check_request(self.info, level, width, height, plane)
        if self._closed:
            raise ValueError(f"slide {self.info.slide_id} is closed")
        rgb = np.full((height, width, 3), 255, dtype=np.uint8)
        valid = np.zeros((height, width), dtype=np.bool_)
        x0, y0 = max(x_px, 0), max(y_px, 0)
        x1, y1 = min(x_px + width, self.info.width_px), min(y_px + height, self.info.height_px)
        if x1 > x0 and y1 > y0:
            window = (slice(y0 - y_px, y1 - y_px), slice(x0 - x_px, x1 - x_px))
            rgb[window] = self._rgb[y0:y1, x0:x1]
            valid[window] = True if self._valid is None else self._valid[y0:y1, x0:x1]
        return rgb, None if bool(valid.all()) else valid

    def close(self) -> None:
        """End the use; the memory goes with the reader."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _decode(path: Path) -> NDArray[np.uint8]:
    """Return the whole picture: (H, W, 4) RGBA."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of a decompression bomb before it refuses one of twice the size; we refuse at once.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["JPEG", "PNG"]) as image:
                mode = image.mode
                if mode in _MODES:
                    return np.asarray(image.convert("RGBA"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnsupportedSlideError(f"{path}: too large for a plain picture; convert it to a tiled TIFF") from error
    # What Pillow raises on a broken file depends on where it is broken.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DamagedSlideError(f"{path}: the picture cannot be decoded: {error}") from error
    raise UnsupportedSlideError(f"{path}: pixel format {mode}; 8-bit grey or RGB is needed")
