"""Pixels in: every slide format behind one door."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from wsi_detect import artifact
from wsi_detect.errors import ImplausibleResolutionError, MissingSlideError, UnsupportedSlideError
from wsi_detect.slides import image, openslide
from wsi_detect.slides.reader import SlideInfo, SlideReader

#: In order of preference. Each offers `accepts(path) -> bool` and `open_reader(path, slide_id) -> SlideReader`.
READERS: tuple[ModuleType, ...] = (openslide, image)

#: µm per px a cytology scan can have.
PLAUSIBLE_MPP = (0.05, 10.0)


def open_slide(
    path: Path | str,
    *,
    mpp: float | None = None,
    mpp_source: str = "--mpp",
    slide_id: str | None = None,
    reader: Any = None,
) -> SlideReader:
    """Open a slide.

    Args:
        path: the slide file.
        mpp: µm per level-0 px, overriding what the file says.
        mpp_source: who gave it: `--mpp` or `manifest`.
        slide_id: name in every output; None derives one from the content.
        reader: anything with `open_reader(path, slide_id)`, or a class called that way; None asks `READERS` in turn.

    Raises:
        MissingSlideError: no such file, or it is empty.
        UnsupportedSlideError: no reader recognises it.
        ImplausibleResolutionError: the resolution, given or the file's own, lies outside 0.05 to 10 µm per px.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingSlideError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise MissingSlideError(f"{path}: the file is empty")
    name = slide_id or artifact.slide_id(path)
    if reader is not None:
        opened = reader.open_reader(path, name) if hasattr(reader, "open_reader") else reader(path, name)
    else:
        found = next((entry for entry in READERS if entry.accepts(path)), None)
        if found is None:
            raise UnsupportedSlideError(f"{path}: not a slide format this version reads, or its header is damaged")
        opened = found.open_reader(path, name)
    try:
        opened.info = _with_resolution(opened.info, mpp, mpp_source)
    except ImplausibleResolutionError:
        opened.close()
        raise
    return opened  # type: ignore[no-any-return]


def _with_resolution(info: SlideInfo, mpp: float | None, source: str) -> SlideInfo:
    value, said = (info.mpp, "the file") if mpp is None else (mpp, source)
    low, high = PLAUSIBLE_MPP
    if value is not None and not low <= value <= high:
        raise ImplausibleResolutionError(
            f"slide {info.slide_id}: {said} says {value:g} µm per px, outside {low} to {high:g}; give the true one with --mpp"
        )
    return info if mpp is None else replace(info, mpp=mpp, mpp_source=source)


__all__ = ["READERS", "SlideInfo", "SlideReader", "open_slide"]
