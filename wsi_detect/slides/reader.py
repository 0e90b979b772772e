"""What a slide is to the rest of the package: facts, and pixels by level-0 position."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsi_detect.errors import MissingResolutionError
from wsi_detect.geometry import Box

Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]


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
        objective_power: as the file says.
        vendor: as the reader recognised it.
        icc: whether a colour profile is embedded.
        native_tile_px: width and height of the file's own tiles at level 0.
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

    def resolution(self) -> float:
        """Return µm per level-0 px.

        Raises:
            MissingResolutionError: the file does not say, and nobody gave it.
        """
        if self.mpp is None:
            raise MissingResolutionError(
                f"slide {self.slide_id}: the file does not say its resolution; give --mpp, or a column `mpp` in the manifest"
            )
        return self.mpp


class SlideReader(Protocol):
    """All a slide format must offer. `testing.contracts.check_reader` is its executable meaning."""

    @property
    def info(self) -> SlideInfo:
        """Facts of the slide."""
        ...

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
            ValueError: no such level or plane, or an empty rectangle.
            DamagedSlideError: the file cannot be decoded there; the reader stays usable.
        """
        ...

    def close(self) -> None:
        """Give the file back."""
        ...

    def __enter__(self) -> Self:
        """Return itself."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Close."""
        ...


def check_request(info: SlideInfo, level: int, width: int, height: int, plane: int) -> None:
    """Refuse a rectangle no reader can serve.

    Raises:
        ValueError: no such level or plane, or a side below 1.
    """
    if not 0 <= level < len(info.level_downsamples):
        raise ValueError(f"slide {info.slide_id} has levels 0 to {len(info.level_downsamples) - 1}, not {level}")
    if not 0 <= plane < info.focal_planes:
        raise ValueError(f"slide {info.slide_id} has {info.focal_planes} focal plane(s), not a plane {plane}")
    if width < 1 or height < 1:
        raise ValueError(f"a region has at least one pixel, got {width} x {height}")
