"""Augmentation: one random window of a patch, turned, flipped, coloured. The only file that knows albumentations.

A sample's randomness comes from one seed, made of the run's seed, the epoch and the place in the epoch
(`sample_seed`). It does not depend on which worker process makes the sample, so workers do not repeat each other
and a resumed run sees what an undisturbed one would have seen.
"""

import importlib.metadata
import math
import os
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_detect.data.targets import MIN_VISIBLE, PatchTargets, cut_to_window
from wsi_detect.errors import ConfigError, EnvironmentFaultError, MissingExtraError
from wsi_detect.geometry import Box

Image = NDArray[np.uint8]

#: What lies beyond the edge of a patch is drawn as empty glass, as everywhere in this package.
_GLASS = 255


@dataclass(frozen=True, slots=True)
class Preset:
    """Which changes a preset makes.

    Attributes:
        turn: one of the eight flips and quarter turns, all equally likely.
        zoom: range of the magnification, drawn log-uniformly.
        colour: brightness, contrast, saturation, hue: largest relative change (hue: of the circle); None for none.
        blur: probability of a mild Gaussian blur (focus).
        jpeg: probability of a compression at quality 50 to 90.
    """

    turn: bool = False
    zoom: tuple[float, float] = (1.0, 1.0)
    colour: tuple[float, float, float, float] | None = None
    blur: float = 0.0
    jpeg: float = 0.0


#: The menu. `cytology`: focus, stain and scanner vary between laboratories, the orientation of a cell means nothing.
PRESETS = {
    "none": Preset(),
    "flip": Preset(turn=True),
    "cytology": Preset(turn=True, zoom=(0.8, 1.25), colour=(0.2, 0.2, 0.2, 0.03), blur=0.15, jpeg=0.15),
}


class Augmenter(Protocol):
    """A picture and the boxes around it → another picture and its targets."""

    def __call__(
        self, image: Image, boxes: NDArray[np.floating], labels: NDArray[np.integer], seed: int
    ) -> tuple[Image, PatchTargets]:
        """Make one sample: image (H, W, 3); boxes (A, 4) xyxy px of it, which may reach beyond; labels (A,)."""
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
        MissingExtraError: the preset needs albumentations and it is not installed.
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
        self, image: Image, boxes: NDArray[np.floating], labels: NDArray[np.integer], seed: int
    ) -> tuple[Image, PatchTargets]:
        """Make one sample; equal arguments give equal samples.

        Raises:
            LabelError: a box is not finite or has no area.
        """
        plan = PRESETS[self.preset]
        rng = np.random.default_rng(seed)
        side = self.crop_px or max(image.shape[0], image.shape[1])
        low, high = plan.zoom
        zoom = math.exp(rng.uniform(math.log(low), math.log(high)))
        # Cropping in whole px keeps the pixels that no change was asked for exactly as they were.
        window_px = max(1, round(side / zoom))
        window = self._window(rng, image, boxes, labels, window_px)
        visible = _shared(window, Box(0.0, 0.0, float(image.shape[1]), float(image.shape[0])))
        targets = cut_to_window(boxes, labels, window, visible=visible, min_visible=self.min_visible)
        pixels = _cut(image, window)
        if self.preset == "none" and window_px == side:
            return pixels, targets
        return _transformed(_pipeline(self.preset, side), pixels, targets, seed)

    def _window(
        self,
        rng: np.random.Generator,
        image: Image,
        boxes: NDArray[np.floating],
        labels: NDArray[np.integer],
        window_px: int,
    ) -> Box:
        """Place a square of whole px; it leaves the picture only where the picture is smaller."""
        centre = _aimed_at(rng, boxes, labels) if rng.random() < self.aim else None
        corner = []
        for axis, length in enumerate((image.shape[1], image.shape[0])):
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
        return Box(float(x0), float(y0), float(x0 + window_px), float(y0 + window_px))


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
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("augmentation", "train") from error
    cv2.setNumThreads(0)


def _aimed_at(
    rng: np.random.Generator, boxes: NDArray[np.floating], labels: NDArray[np.integer]
) -> tuple[float, float] | None:
    known = np.asarray(labels) >= 0
    if not known.any():
        return None
    label = rng.choice(np.unique(labels[known]))
    x0, y0, x1, y1 = boxes[rng.choice(np.flatnonzero(labels == label))]
    return float(x0 + x1) / 2, float(y0 + y1) / 2


def _shared(a: Box, b: Box) -> Box:
    return Box(max(a.x0, b.x0), max(a.y0, b.y0), min(a.x1, b.x1), min(a.y1, b.y1))


def _cut(image: Image, window: Box) -> Image:
    x0, y0, x1, y1 = (int(value) for value in window)
    height, width = image.shape[:2]
    part = image[max(y0, 0) : y1, max(x0, 0) : x1]
    margins = ((max(-y0, 0), max(y1 - height, 0)), (max(-x0, 0), max(x1 - width, 0)), (0, 0))
    return np.pad(part, margins, constant_values=_GLASS) if np.any(margins) else np.ascontiguousarray(part)


def _transformed(pipeline: Any, pixels: Image, targets: PatchTargets, seed: int) -> tuple[Image, PatchTargets]:
    boxes = np.concatenate([targets.boxes, targets.ignore_boxes])
    # The library gives every step the same stream, which would tie blur to turn; each gets its own here.
    for step, child in zip(
        pipeline.transforms, np.random.SeedSequence(seed).spawn(len(pipeline.transforms)), strict=True
    ):
        own = int(child.generate_state(1)[0])
        step.set_random_state(np.random.default_rng(own), random.Random(own))  # noqa: S311 - not for secrets
    made = pipeline(image=pixels, bboxes=boxes, rows=np.arange(len(boxes)))
    moved = np.asarray(made["bboxes"], dtype=np.float32).reshape(-1, 4)[np.argsort(made["rows"])]
    if len(moved) != len(boxes):
        raise RuntimeError(f"augmentation turned {len(boxes)} boxes into {len(moved)}; every box lay inside its window")
    count = len(targets.boxes)
    return np.ascontiguousarray(made["image"]), PatchTargets(moved[:count], targets.labels, moved[count:])


@lru_cache(maxsize=8)
def _pipeline(preset: str, side: int) -> Any:
    album = _albumentations()
    plan = PRESETS[preset]
    steps: list[Any] = []
    if plan.zoom != (1.0, 1.0):
        import cv2

        steps.append(album.Resize(side, side, interpolation=cv2.INTER_LINEAR, area_for_downscale="image"))
    if plan.turn:
        steps.append(album.D4(p=1.0))
    if plan.colour:
        brightness, contrast, saturation, hue = plan.colour
        steps.append(
            album.ColorJitter(
                brightness=(1 - brightness, 1 + brightness),
                contrast=(1 - contrast, 1 + contrast),
                saturation=(1 - saturation, 1 + saturation),
                hue=(-hue, hue),
                p=0.8,
            )
        )
    if plan.blur:
        steps.append(album.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.2), p=plan.blur))
    if plan.jpeg:
        steps.append(album.ImageCompression(compression_type="jpeg", quality_range=(50, 90), p=plan.jpeg))
    # Clipping only takes back float32 rounding: every box given was cut to the window before.
    bboxes = album.BboxParams(format="pascal_voc", label_fields=["rows"], clip=True)
    return album.Compose(steps, bbox_params=bboxes, seed=0)


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
