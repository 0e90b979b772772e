"""What a slide is to the rest of the package: facts, and pixels by level-0 position."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import MissingResolutionError
from wsi_detect.geometry import Box

Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]

#: Largest rectangle a reader serves at once. OpenSlide would obey a request for 60 000 x 60 000 px and take 14 GB.
MAX_REGION_PX = 1 << 26


@dataclass(frozen=True, slots=True)
class SlideInfo:
    """Facts of an open slide.

    Attributes:
        slide_id: names the slide in every output; never a file name.
        path: the file; stays in memory.
        width_px: of level 0.
        height_px: of level 0.
        mpp: µm per level-0 px; None if nobody knows.
        mpp_source: who said so: `file`, `--mpp`, `manifest`, or `missing`.
        level_downsamples: of every level, 1.0 first.
        bounds: the scanned area in slide px, None if the file does not say.
        focal_planes: number of planes of a z-stack.
        focal_step_um: µm between neighbouring planes; None if there is one, or the file does not say.
        objective_power: as the file says.
        vendor: as the reader recognised it.
        icc: whether a colour profile is embedded.
        native_tile_px: width and height of the file's own tiles at level 0.
        stated_mpp: µm per px along x and y as the file has it, plausible or not; None if it does not say.
        mpp_key: what in the file says `stated_mpp`: a tag's or a header field's name; None if it does not say.
        centre_um: where the centre of the picture lies, µm from the centre of the glass along x and y, as Hamamatsu's
            files say; None elsewhere.
    """

    slide_id: str
    path: Path
    width_px: int
    height_px: int
    mpp: float | None
    mpp_source: str
    level_downsamples: tuple[float, ...]
    bounds: Box | None = None
    focal_planes: int = 1
    objective_power: float | None = None
    vendor: str = "unknown"
    icc: bool = False
    native_tile_px: tuple[int, int] | None = None
    stated_mpp: tuple[float, float] | None = None
    mpp_key: str | None = None
    focal_step_um: float | None = None
    centre_um: tuple[float, float] | None = None

    def resolution(self) -> float:
        """Return µm per level-0 px.

        Raises:
            MissingResolutionError: the file does not say, and nobody gave it.
        """
        if self.mpp is None:
            raise MissingResolutionError(
                f"slide {self.slide_id}: the file does not say how large a pixel is; "
                "give --mpp, or a column `mpp` in the manifest"
            )
        return self.mpp


class SlideReader(Protocol):
    """All a slide format must offer. `testing.contracts.check_reader` is its executable meaning.

    Attributes:
        info: facts of the slide; `open_slide` replaces it when the resolution is stated from outside.
    """

    info: SlideInfo

    def read_region(self, x_px: int, y_px: int, level: int, width: int, height: int, *, plane: int = 0) -> Pixels:
        """Read a rectangle.

        Args:
            x_px: left edge, slide px (level 0); may lie outside the slide.
            y_px: top edge, slide px (level 0).
            level: pyramid level.
            width: px of that level.
            height: px of that level.
            plane: focal plane.

        Returns:
            (height, width, 3) uint8 RGB, and (height, width) bool where the slide has data (None: everywhere).
            Without data it is white.

        Raises:
            ValueError: no such level or plane, an empty or a huge rectangle, or the reader is closed.
            DamagedSlideError: the file cannot be decoded there; the reader stays usable.
        """
        ...

    def close(self) -> None:
        """Give the file back; closing twice is allowed."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Close."""
        ...


class SlideFormat(Protocol):
    """What opens slides of one kind: a module of this room, or an object from outside the package."""

    def accepts(self, path: Path) -> bool:
        """Whether the file, which exists and is not empty, is of this kind."""
        ...

    def open(self, path: Path, slide_id: str) -> SlideReader:
        """Open a slide.

        Raises:
            UnsupportedSlideError: the file is of this kind, but cannot be opened.
            DamagedSlideError: it can be told that the file is broken.
        """
        ...


def check_request(info: SlideInfo, level: int, width: int, height: int, plane: int) -> None:
    """Refuse a rectangle no reader can serve.

    Raises:
        ValueError: no such level or plane, a side below 1, or more than `MAX_REGION_PX` px.
    """
    if not 0 <= level < len(info.level_downsamples):
        raise ValueError(f"slide {info.slide_id} has levels 0 to {len(info.level_downsamples) - 1}, not {level}")
    if not 0 <= plane < info.focal_planes:
        raise ValueError(f"slide {info.slide_id} has {info.focal_planes} focal plane(s), not a plane {plane}")
    if width < 1 or height < 1:
        raise ValueError(f"a region has at least one pixel, got {width} x {height}")
    if width * height > MAX_REGION_PX:
        raise ValueError(f"a region has at most {MAX_REGION_PX} px, got {width} x {height}; read it in parts")
