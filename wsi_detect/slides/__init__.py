"""Pixels in: every slide format behind one door."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from wsi_detect import artifact
from wsi_detect.errors import ImplausibleResolutionError, MissingSlideError, SlideError, UnsupportedSlideError
from wsi_detect.slides import dicom, image, kfb, openslide, sdpc, tiff
from wsi_detect.slides.reader import SlideFormat, SlideInfo, SlideReader

#: In order of preference.
READERS: tuple[SlideFormat, ...] = (openslide, tiff, dicom, kfb, sdpc, image)

#: µm per px a cytology scan can have.
PLAUSIBLE_MPP = (0.05, 10.0)
#: Px of level 0 a slide may declare: 200 000 x 200 000, four times the largest scan in use.
MAX_PIXELS = 4 * 10**10
#: Relative difference of width and height up to which a pixel counts as square.
_SQUARE = 0.01

_REMEDY = "give the true one with --mpp, or in the column `mpp` of the manifest"


def open_slide(
    path: Path | str,
    *,
    mpp: float | None = None,
    mpp_source: str = "--mpp",
    slide_id: str | None = None,
    max_pixels: int = MAX_PIXELS,
    reader: SlideFormat | Callable[[Path, str], SlideReader] | None = None,
) -> SlideReader:
    """Open a slide.

    A slide whose file says nothing about its resolution opens; `info.resolution()` is what refuses.

    Args:
        path: the slide file; of a format of many files, the one the scanner's viewer opens.
        mpp: µm per level-0 px, overriding what the file says.
        mpp_source: who gave it: `--mpp` or `manifest`.
        slide_id: name in every output; None derives one from the content.
        max_pixels: of level 0; a slide that declares more is refused.
        reader: a format of one's own, or a class called with path and id; None asks `READERS` in turn.

    Raises:
        MissingSlideError: no such file, it is empty, or it may not be read.
        UnsupportedSlideError: no reader recognises it, or the one that does cannot open it; or it is too large.
        DamagedSlideError: a plain picture that is cut or broken.
        ImplausibleResolutionError: the resolution, given or the file's own, lies outside 0.05 to 10 µm per px, or the
            file's pixels are not square.
        EnvironmentFaultError: the OpenSlide library found on this machine is too old to be safe, or the extra `dicom`,
            which the slide needs, is not installed.
    """
    path = Path(path)
    _check_readable(path)
    name = slide_id or artifact.slide_id(path)
    opened = _choose(path, reader)(path, name)
    try:
        _check_size(opened.info, path, max_pixels)
        opened.info = _with_resolution(opened.info, mpp, mpp_source)
    except SlideError:
        opened.close()
        raise
    return opened


def _check_readable(path: Path) -> None:
    """Tell apart what OpenSlide has only one message for."""
    try:
        if path.is_dir():
            raise UnsupportedSlideError(f"{path}: a folder, not a slide; name the slide file in it")
        with path.open("rb") as stream:
            first = stream.read(1)
    except FileNotFoundError as error:
        raise MissingSlideError(f"{path}: no such file") from error
    except OSError as error:
        raise MissingSlideError(f"{path}: cannot be read: {error.strerror}") from error
    if not first:
        raise MissingSlideError(f"{path}: the file is empty")


def _choose(
    path: Path, reader: SlideFormat | Callable[[Path, str], SlideReader] | None
) -> Callable[[Path, str], SlideReader]:
    if reader is not None:
        return reader if callable(reader) else reader.open
    for entry in READERS:
        if entry.accepts(path):
            return entry.open
    raise UnsupportedSlideError(
        f"{path}: not a slide this version reads, or damaged where its format is told; "
        "a picture can be opened as PNG, JPEG or tiled TIFF"
    )


def _check_size(info: SlideInfo, path: Path, most: int) -> None:
    if info.width_px * info.height_px > most:
        raise UnsupportedSlideError(
            f"{path}: a file of {path.stat().st_size / 1e6:.3g} MB declares {info.width_px} x {info.height_px} px, "
            f"more than {most:.3g} px; if it is a slide all the same, raise --max-pixels"
        )


def _with_resolution(info: SlideInfo, mpp: float | None, source: str) -> SlideInfo:
    """Enter who says what of the resolution, and refuse what cannot be.

    Pixels that are 353 µm wide come from a dpi tag meant for printers, and look as certain as any other number.
    """
    if mpp is not None:
        _check_plausible(info.slide_id, source, mpp)
        return replace(info, mpp=mpp, mpp_source=source)
    if info.stated_mpp is not None:
        x, y = info.stated_mpp
        if abs(x - y) > _SQUARE * max(abs(x), abs(y)):
            raise ImplausibleResolutionError(
                f"slide {info.slide_id}: the file says its pixels are {x:g} by {y:g} µm, not square; {_REMEDY}"
            )
    if info.mpp is not None:
        _check_plausible(info.slide_id, "the file", info.mpp)
    return info


def _check_plausible(slide_id: str, who: str, mpp: float) -> None:
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        raise ImplausibleResolutionError(
            f"slide {slide_id}: {who} says {mpp:g} µm per px, a cytology scan has {low:g} to {high:g}; {_REMEDY}"
        )


__all__ = ["MAX_PIXELS", "PLAUSIBLE_MPP", "READERS", "SlideFormat", "SlideInfo", "SlideReader", "open_slide"]
