"""What a lab wants to know of a slide before it is tiled, in words."""

from wsi_detect.slides.brightfield import looks_bright
from wsi_detect.slides.reader import SlideInfo, SlideReader
from wsi_detect.slides.resample import overview

_OVERVIEW_PX = 512
_SOURCES = {"file": "from the file", "--mpp": "given with --mpp", "manifest": "from the manifest"}


def describe(reader: SlideReader) -> list[tuple[str, str]]:
    """Return facts of a slide as (name, value), in the order to print them.

    Neither the file's name nor the scanner's own remarks are among them, both of which can name a patient, and the
    label and macro pictures are not opened.

    Args:
        reader: the slide; its pyramid is read once at low resolution.
    """
    info = reader.info
    view = overview(reader, _OVERVIEW_PX)
    no_data, unreadable = f"{view.no_data:.1%} of the slide", f"{view.unreadable:.1%} of the slide"
    return [
        ("slide", info.slide_id),
        ("vendor", info.vendor),
        ("size", _size(info)),
        ("resolution", _resolution(info)),
        ("objective", f"{info.objective_power:g}x" if info.objective_power else "not stated"),
        *_levels(info),
        ("native tile", "not stated" if info.native_tile_px is None else _sides(*info.native_tile_px)),
        ("focal planes", _planes(info)),
        ("scanned area", _bounds(info)),
        ("without data", no_data),
        ("unreadable", unreadable),
        ("colour profile", "embedded" if info.icc else "none"),
        (
            "light",
            "bright field"
            if looks_bright(view)
            else "dark ground, as in fluorescence: the detectors know bright field only",
        ),
    ]


def _sides(width: float, height: float) -> str:
    return f"{width:g} x {height:g} px"


def _size(info: SlideInfo) -> str:
    size = f"{info.width_px} x {info.height_px} px"
    if info.mpp is None:
        return size
    return f"{size}, {info.width_px * info.mpp / 1e3:.3g} x {info.height_px * info.mpp / 1e3:.3g} mm"


def _resolution(info: SlideInfo) -> str:
    if info.mpp is None:
        return "unknown: the file does not say; give --mpp, or a column `mpp` in the manifest"
    text = f"{info.mpp:.4g} µm/px, {_SOURCES.get(info.mpp_source, info.mpp_source)}"
    if info.mpp_source == "file" or info.stated_mpp is None:
        return f"{text} ({info.mpp_key})" if info.mpp_key and info.stated_mpp else text
    x, y = info.stated_mpp
    return f"{text}; the file says {x:.4g}" + ("" if x == y else f" by {y:.4g}")


def _levels(info: SlideInfo) -> list[tuple[str, str]]:
    mpp = info.mpp
    return [
        (f"level {k}", f"1/{step:.4g}" + ("" if mpp is None else f", {mpp * step:.4g} µm/px"))
        for k, step in enumerate(info.level_downsamples)
    ]


def _planes(info: SlideInfo) -> str:
    return f"{info.focal_planes}" + ("" if info.focal_step_um is None else f", {info.focal_step_um:.4g} µm apart")


def _bounds(info: SlideInfo) -> str:
    if info.bounds is None:
        return "the whole slide"
    box = info.bounds
    return f"{_sides(box.width, box.height)} at ({box.x0:g}, {box.y0:g})"
