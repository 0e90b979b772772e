"""Augmentation: one random window of a patch, turned, flipped, coloured. The only file that knows albumentations.

The window is drawn before a pixel is read, so that a store decodes no more than it needs. Geometry is done here and
colour in `colour.py`, each in one pass over the picture; blur and compression are the library's.

A sample's randomness comes from one seed, made of the run's seed, the epoch and the place in the epoch
(`sample_seed`). It does not depend on which worker process makes the sample, so workers do not repeat each other
and a resumed run sees what an undisturbed one would have seen.
"""

import importlib.metadata
import math
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_detect.data.colour import ColourRange, draw, opencv, recoloured
from wsi_detect.data.targets import MIN_VISIBLE, PatchTargets, cut_to_window
from wsi_detect.errors import ConfigError, EnvironmentFaultError, MissingExtraError
from wsi_detect.geometry import Box

Image = NDArray[np.uint8]

#: x0, y0, x1, y1 in whole px of a patch.
Window = tuple[int, int, int, int]

#: Gives the pixels (h, w, 3) of a window that lies inside the patch; the next call may use the array again.
Read = Callable[[Window], Image]

#: What lies beyond the edge of a patch is drawn as empty glass, as everywhere in this package.
_GLASS = 255

#: Share of the samples whose colours change, where a preset changes colours.
_COLOURED = 0.8

#: Shrinking further than this would skip pixels, so they are averaged, which takes five times as long.
_SKIPS_PIXELS = 1.5


@dataclass(frozen=True, slots=True)
class Preset:
    """Which changes a preset makes.

    Attributes:
        turn: one of the eight flips and quarter turns, all equally likely.
        zoom: range of the magnification, drawn log-uniformly.
        colour: how far the colours of four samples in five are changed; None for not at all.
        blur: probability of a mild Gaussian blur (focus).
        jpeg: probability of a compression at quality 50 to 90.
    """

    turn: bool = False
    zoom: tuple[float, float] = (1.0, 1.0)
    colour: ColourRange | None = None
    blur: float = 0.0
    jpeg: float = 0.0


#: The menu. `cytology`: focus, colour and scanner vary between laboratories, the orientation of a cell means nothing.
#: `stain`: the same, and the strength of each dye too; for data from one laboratory.
PRESETS = {
    "none": Preset(),
    "flip": Preset(turn=True),
    "cytology": Preset(turn=True, zoom=(0.8, 1.25), colour=ColourRange(0.2, 0.2, 0.2, 0.03), blur=0.15, jpeg=0.15),
    "stain": Preset(
        turn=True, zoom=(0.8, 1.25), colour=ColourRange(0.2, 0.2, 0.2, 0.03, stain=0.15), blur=0.15, jpeg=0.15
    ),
}


class Augmenter(Protocol):
    """A patch and the boxes on it → a picture and its targets."""

    def __call__(
        self,
        read: Read,
        size_px: tuple[int, int],
        boxes: NDArray[np.floating],
        labels: NDArray[np.integer],
        seed: int,
    ) -> tuple[Image, PatchTargets]:
        """Make one sample, (3, H, W) uint8.

        Args:
            read: reads a window of the patch.
            size_px: width and height of the patch.
            boxes: (A, 4) xyxy px of the patch, which may reach beyond it.
            labels: (A,) class indices, or `IGNORED_LABEL`.
            seed: of the sample.
        """
        ...


def sample_seed(run_seed: int, epoch: int, position: int) -> int:
    """Seed of the sample at a place of an epoch, 32 bits: a hash, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence([run_seed, epoch, position]).generate_state(1)[0])


def augmenter(
    preset: str, crop_px: int | None = None, *, aim: float = 0.5, min_visible: float = MIN_VISIBLE
) -> Augmenter:
    """Build an augmenter by name.

    Args:
        preset: a name of `PRESETS`.
        crop_px: side of the picture made, px; None keeps the size of the patch.
        aim: probability that the window is laid over a cell, its class drawn evenly from those in the patch, instead
            of anywhere. Without it, a patch drawn for its one rare cell would often be cropped beside that cell.
        min_visible: share of a box that must be in the window for the box to count; see `targets`.

    Raises:
        ConfigError: there is no such preset, or a value is out of range.
    """
    if preset not in PRESETS:
        raise ConfigError(f"unknown augmentation preset {preset!r}; known: {', '.join(PRESETS)}")
    if crop_px is not None and crop_px < 1:
        raise ConfigError(f"augmentation crop_px must be at least 1, got {crop_px}")
    if not (0 <= aim <= 1 and 0 <= min_visible <= 1):
        raise ConfigError(f"augmentation aim and min_visible lie in [0, 1], got {aim} and {min_visible}")
    return WindowAugmenter(preset, crop_px, aim, min_visible)


@dataclass(frozen=True, slots=True)
class WindowAugmenter:
    """Cut a window, cut the boxes to it, then turn and colour. Plain values only: it travels to workers."""

    preset: str
    crop_px: int | None
    aim: float
    min_visible: float

    def __call__(
        self,
        read: Read,
        size_px: tuple[int, int],
        boxes: NDArray[np.floating],
        labels: NDArray[np.integer],
        seed: int,
    ) -> tuple[Image, PatchTargets]:
        """Make one sample; equal arguments give equal samples.

        Raises:
            LabelError: a box is not finite or has no area.
            MissingExtraError: OpenCV or albumentations is not installed.
        """
        plan = PRESETS[self.preset]
        rng = np.random.default_rng(seed)
        side = self.crop_px or max(size_px)
        low, high = plan.zoom
        zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
        # Cropping in whole px keeps the pixels that no change was asked for exactly as they were.
        window_px = max(1, round(side / zoom))
        window = self._window(rng, size_px, boxes, labels, window_px)
        shown = _shared(window, (0, 0, *size_px))
        targets = cut_to_window(boxes, labels, Box(*window), visible=Box(*shown), min_visible=self.min_visible)
        turn = int(rng.integers(8)) if plan.turn else 0
        pixels = _resized(_padded(read(shown), shown, window), side)
        if plan.colour and rng.random() < _COLOURED:
            pixels = recoloured(pixels, draw(plan.colour, rng))
        for step, probability in (("blur", plan.blur), ("jpeg", plan.jpeg)):
            if rng.random() < probability:
                pixels = _by_library(step, pixels, rng)
        return _turned(pixels, turn), _moved(targets, side / window_px, turn, side)

    def _window(
        self,
        rng: np.random.Generator,
        size_px: tuple[int, int],
        boxes: NDArray[np.floating],
        labels: NDArray[np.integer],
        window_px: int,
    ) -> Window:
        """Place a square; it leaves the patch only where the patch is smaller."""
        centre = _aimed_at(rng, boxes, labels) if rng.random() < self.aim else None
        corner = []
        for axis, length in enumerate(size_px):
            room = length - window_px
            if room <= 0:
                corner.append(room // 2)
            elif centre is None:
                corner.append(int(rng.integers(0, room + 1)))
            else:
                # The cell may lie anywhere in the middle three fifths: a network must not learn that cells are central.
                place = centre[axis] - window_px * rng.uniform(0.2, 0.8)
                corner.append(int(min(max(round(place), 0), room)))
        x0, y0 = corner
        return x0, y0, x0 + window_px, y0 + window_px


def modules_needed() -> list[str]:
    """Names of the modules augmentation will import, for a server that imports once for many loading processes."""
    # Otherwise the library asks the network for a newer version when it is imported.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    return ["albumentations"]


def limit_threads() -> None:
    """Keep OpenCV to the calling thread; for loader processes, which are already one a core.

    Raises:
        MissingExtraError: OpenCV, which comes with albumentations, is not installed.
    """
    opencv().setNumThreads(0)


def _aimed_at(
    rng: np.random.Generator, boxes: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[float, float] | None:
    known = np.asarray(labels) >= 0
    if not known.any():
        return None
    label = rng.choice(np.unique(labels[known]))
    x0, y0, x1, y1 = boxes[rng.choice(np.flatnonzero(labels == label))]
    return float(x0 + x1) / 2, float(y0 + y1) / 2


def _shared(a: Window, b: Window) -> Window:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _padded(pixels: Image, shown: Window, window: Window) -> Image:
    """Lay the part that was read onto a window's glass."""
    if shown == window:
        return pixels
    canvas = np.full((window[3] - window[1], window[2] - window[0], 3), _GLASS, np.uint8)
    canvas[shown[1] - window[1] : shown[3] - window[1], shown[0] - window[0] : shown[2] - window[0]] = pixels
    return canvas


def _resized(pixels: Image, side: int) -> Image:
    if len(pixels) == side:
        return pixels
    cv2 = opencv()
    method = cv2.INTER_AREA if len(pixels) > _SKIPS_PIXELS * side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=method), dtype=np.uint8)


def _turned(pixels: Image, turn: int) -> Image:
    """Turn a square (H, W, 3) into one of its eight positions, and its colours into planes: a new (3, H, W).

    Bit 0 of `turn` exchanges x and y; after that bit 1 mirrors y, and bit 2 x.
    """
    cv2 = opencv()
    if turn & 1:
        pixels = cv2.transpose(pixels)
    if turn >> 1:
        # OpenCV's names: 0 mirrors y, 1 mirrors x, -1 both.
        pixels = cv2.flip(pixels, (0, 1, -1)[(turn >> 1) - 1])
    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
    return planes


def _moved(targets: PatchTargets, scale: float, turn: int, side: int) -> PatchTargets:
    """Targets of a window → targets of the picture made of it."""
    return PatchTargets(
        _moved_boxes(targets.boxes, scale, turn, side),
        targets.labels,
        _moved_boxes(targets.ignore_boxes, scale, turn, side),
    )


def _moved_boxes(boxes: NDArray[np.float32], scale: float, turn: int, side: int) -> NDArray[np.float32]:
    # Cutting only takes back float32 rounding: every box was cut to the window before.
    x0, y0, x1, y1 = np.clip(boxes * np.float32(scale), 0, side).T
    if turn & 1:
        x0, y0, x1, y1 = y0, x0, y1, x1
    if turn & 2:
        y0, y1 = side - y1, side - y0
    if turn & 4:
        x0, x1 = side - x1, side - x0
    return np.stack([x0, y0, x1, y1], axis=1)


def _by_library(step: str, pixels: Image, rng: np.random.Generator) -> Image:
    transform = _steps()[step]
    # In a worker process the library would take its numbers from torch's seed, and so depend on who makes the sample.
    transform.set_random_state(rng, random.Random(int(rng.integers(2**32))))  # noqa: S311 - not for secrets
    return np.asarray(transform(image=pixels)["image"], dtype=np.uint8)


@lru_cache(maxsize=1)
def _steps() -> dict[str, Any]:
    album = _albumentations()
    return {
        "blur": album.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.2), p=1.0),
        "jpeg": album.ImageCompression(compression_type="jpeg", quality_range=(50, 90), p=1.0),
    }


@lru_cache(maxsize=1)
def _albumentations() -> Any:
    if _installed("albumentationsx") and os.environ.get("WSI_DETECT_ALLOW_ALBUMENTATIONSX") != "1":
        raise EnvironmentFaultError(
            "the installed albumentations is AlbumentationsX, which has another licence (AGPL or commercial) and other "
            'random streams; uninstall albumentationsx and run: pip install "wsi-detect[train]" '
            "(or set WSI_DETECT_ALLOW_ALBUMENTATIONSX=1)"
        )
    modules_needed()
    try:
        import albumentations
    except ImportError as error:
        raise MissingExtraError("augmentation", "train") from error
    return albumentations


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
