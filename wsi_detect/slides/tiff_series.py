"""Which directories of a TIFF are the slide: its planes, its levels, its resolution.

Three ways of saying so are known: OME-TIFF's XML, QPTIFF's XML, and TIFF's own tags. Whatever else is in the file, such
as a label, is not looked at, and of the XML only what is named here.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn
from xml.etree import ElementTree

import tifffile

from wsi_detect.errors import UnsupportedSlideError
from wsi_detect.slides.assemble import step_between

#: A level's directories at one focal plane: one, or three that hold a colour each.
Pages = tuple[tifffile.TiffPage, ...]

_MOST_PLANES = 256
_REDUCED, _MASK = 1, 4
_ICC, _X_RESOLUTION, _Y_RESOLUTION, _UNIT = 34675, 282, 283, 296
#: µm in TIFF's units: inch, centimetre.
_TIFF_UM = {2: 25_400.0, 3: 10_000.0}
_OME_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
#: OME's colours are signed 32-bit RGBA.
_RED_GREEN_BLUE = ["-16776961", "16711935", "65535"]
_FLUORESCENCE = "a slide in bright field has 3 colours; fluorescence and other channels are not read"


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The slide in a TIFF.

    Attributes:
        planes: for every focal plane its levels, the finest first; as many for each.
        downsamples: of the levels.
        vendor: the kind of TIFF.
        stated_mpp: µm per px along x and y, None if the file does not say.
        mpp_key: where it says so.
        focal_step_um: between focal planes, None if the file does not say.
        icc: whether a colour profile is embedded.
    """

    planes: tuple[tuple[Pages, ...], ...]
    downsamples: tuple[float, ...]
    vendor: str
    stated_mpp: tuple[float, float] | None
    mpp_key: str | None
    focal_step_um: float | None
    icc: bool


def series_of(tiff: tifffile.TiffFile) -> Series:
    """Find the slide in an open TIFF.

    Raises:
        UnsupportedSlideError: there is none, or it is fluorescence, a time series, or spread over several files. The
            text does not name the file.
    """
    if tiff.is_ome:
        return _ome(tiff)
    pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
    if tiff.is_qpi:
        return _qptiff(pages)
    wholes = [page for page in pages if not int(page.subfiletype) & (_REDUCED | _MASK)]
    if not wholes:
        _refuse("no picture in it")
    reduced = [page for page in pages if int(page.subfiletype) & (_REDUCED | _MASK) == _REDUCED]
    return _plain(wholes[0], [*reduced, *_subpages(wholes[0])], "generic-tiff")


def _qptiff(pages: Sequence[tifffile.TiffPage]) -> Series:
    kinds = [re.search(r"<ImageType>\s*(\w+)\s*</ImageType>", page.description[:100_000]) for page in pages]
    named = [(kind.group(1) if kind else "", page) for kind, page in zip(kinds, pages, strict=True)]
    full = [page for kind, page in named if kind == "FullResolution"]
    if not full:
        _refuse("a QPTIFF without a picture at full resolution")
    if len(full) > 1 or full[0].samplesperpixel != 3:
        _refuse(f"a QPTIFF of {len(full) * full[0].samplesperpixel} channel(s); {_FLUORESCENCE}")
    return _plain(full[0], [page for kind, page in named if kind == "ReducedResolution"], "qptiff")


def _plain(whole: tifffile.TiffPage, reduced: Sequence[tifffile.TiffPage], vendor: str) -> Series:
    mpp = _tiff_mpp(whole)
    levels = _levels((whole,), [(page,) for page in reduced])
    return Series(
        planes=(tuple(pages for _, pages in levels),),
        downsamples=tuple(step for step, _ in levels),
        vendor=vendor,
        stated_mpp=mpp,
        mpp_key=None if mpp is None else "tiff.XResolution",
        focal_step_um=None,
        icc=_ICC in whole.tags,
    )


def _ome(tiff: tifffile.TiffFile) -> Series:
    text = tiff.ome_metadata or ""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        _refuse("OME-XML with a document type, which no microscope writes")
    pixels = _largest(ElementTree.fromstring(text))  # noqa: S314 - entities, which expand, are refused above
    stacks = [
        _levels(pages, list(zip(*(_subpages(page) for page in pages), strict=False)))
        for pages in _ome_planes(pixels, tiff)
    ]
    # Should a plane lack a level, no plane has it.
    steps = [step for step, _ in stacks[0] if all(step in {other for other, _ in stack} for stack in stacks)]
    planes = tuple(tuple(pages for step, pages in stack if step in steps) for stack in stacks)
    first = planes[0][0][0]
    if any(len({_size(page) for pages in level for page in pages}) != 1 for level in zip(*planes, strict=True)):
        _refuse("focal planes of different size")
    x, y = _length(pixels, "PhysicalSizeX"), _length(pixels, "PhysicalSizeY")
    mpp = None if x is None and y is None else (x or y or 0.0, y or x or 0.0)
    return Series(
        planes=planes,
        downsamples=tuple(steps),
        vendor="ome-tiff",
        stated_mpp=mpp or _tiff_mpp(first),
        mpp_key="ome.PhysicalSizeX" if mpp else "tiff.XResolution" if _tiff_mpp(first) else None,
        focal_step_um=_length(pixels, "PhysicalSizeZ") if len(planes) > 1 else None,
        icc=_ICC in first.tags,
    )


def _largest(root: ElementTree.Element) -> ElementTree.Element:
    """Return the `Pixels` of the largest image, the first of equals: labels and overviews are smaller."""
    found = [element for element in root.iter() if _tag(element) == "Pixels"]
    if not found:
        _refuse("OME-XML without an image")
    return max(found, key=lambda element: int(element.attrib["SizeX"]) * int(element.attrib["SizeY"]))


def _ome_planes(pixels: ElementTree.Element, tiff: tifffile.TiffFile) -> list[Pages]:
    """Return the directories of each focal plane at full resolution."""
    channels = [element for element in pixels if _tag(element) == "Channel"]
    samples = int(channels[0].attrib.get("SamplesPerPixel", 1)) if channels else 1
    depth, count = int(pixels.attrib["SizeZ"]), int(pixels.attrib["SizeC"])
    if int(pixels.attrib["SizeT"]) > 1:
        _refuse("a series of points in time")
    colours = [channel.attrib.get("Color", "") for channel in channels]
    separate = (count, samples) == (3, 1) and colours == _RED_GREEN_BLUE
    if not separate and (count, samples) not in ((1, 1), (3, 3)):
        _refuse(f"{count} channel(s) of {samples} sample(s), not declared as red, green and blue; {_FLUORESCENCE}")
    if not 1 <= depth <= _MOST_PLANES:
        _refuse(f"{depth} focal planes, at most {_MOST_PLANES} are read")
    sizes = {"Z": depth, "C": count // samples, "T": 1}
    order = [axis for axis in pixels.attrib["DimensionOrder"] if axis in sizes]
    places = _places(pixels, [sizes[axis] for axis in order], order)
    planes = []
    for z in range(depth):
        keys = [tuple({"Z": z, "C": c, "T": 0}[axis] for axis in order) for c in range(sizes["C"])]
        if any(key not in places for key in keys):
            _refuse(f"no directory for focal plane {z}")
        planes.append(tuple(tiff.pages[places[key]].aspage() for key in keys))
    return planes


def _places(pixels: ElementTree.Element, sizes: Sequence[int], order: Sequence[str]) -> dict[tuple[int, ...], int]:
    """Return which directory each plane is: position along the axes, the fastest first → number of the directory."""
    total = math.prod(sizes)
    every: list[tuple[int, ...]] = [
        (index % sizes[0], index // sizes[0] % sizes[1], index // sizes[0] // sizes[1] % sizes[2])
        for index in range(total)
    ]
    entries = [element for element in pixels if _tag(element) == "TiffData"]
    files = {uuid.attrib.get("FileName") for entry in entries for uuid in entry if _tag(uuid) == "UUID"}
    if len(files) > 1:
        _refuse(f"a slide in {len(files)} files; convert it to one OME-TIFF")
    if not entries:
        return dict(zip(every, range(total), strict=True))
    places: dict[tuple[int, ...], int] = {}
    for entry in entries:
        start = every.index(tuple(int(entry.attrib.get(f"First{axis}", 0)) for axis in order))
        number = int(entry.attrib.get("PlaneCount", 1 if "IFD" in entry.attrib else total))
        first = int(entry.attrib.get("IFD", 0))
        for offset, key in enumerate(every[start : start + max(number, 0)]):
            places[key] = first + offset
    return places


def _levels(whole: Pages, candidates: Sequence[Pages]) -> list[tuple[float, Pages]]:
    """Return (downsample, directories) of the levels, the finest first; what is no smaller copy of `whole` is left."""
    found = {1.0: whole}
    for pages in candidates:
        step = step_between(_size(whole[0]), _size(pages[0]))
        alike = all(
            (page.samplesperpixel, page.bitspersample, page.planarconfig)
            == (whole[0].samplesperpixel, whole[0].bitspersample, whole[0].planarconfig)
            for page in pages
        )
        if step is not None and step > 1 and alike:
            found.setdefault(step, pages)
    return sorted(found.items())


def _size(page: tifffile.TiffPage) -> tuple[int, int]:
    return page.imagewidth, page.imagelength


def _subpages(page: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    return [sub.aspage() for sub in page.pages] if page.subifds and page.pages is not None else []


def _tiff_mpp(page: tifffile.TiffPage) -> tuple[float, float] | None:
    unit = _TIFF_UM.get(int(page.tags.valueof(_UNIT, 2)))
    values = [page.tags.valueof(tag) for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
    found = [unit * below / above for above, below in filter(None, values) if unit and above and below]
    return (found[0], found[-1]) if found else None


def _length(pixels: ElementTree.Element, name: str) -> float | None:
    """Return a length of OME-XML in µm, its default unit; None if it is not stated, or in px."""
    unit = _OME_UM.get(pixels.attrib.get(f"{name}Unit", "µm"))
    value = float(pixels.attrib.get(name, "nan"))
    return value * unit if unit and math.isfinite(value) and value > 0 else None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _refuse(what: str) -> NoReturn:
    raise UnsupportedSlideError(what)
