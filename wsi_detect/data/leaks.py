"""What sits on both sides of a split: a patient, a slide, or a picture that looks like another one.

The last is found by a perceptual hash: signs of the low frequencies of a cosine transform (Zauner, "Implementation and
Benchmarking of Perceptual Image Hash Functions", 2010), here 255 of them and in all eight orientations, since a field
turned on the stage is the same field. It finds copies, whatever was done to their encoding, size, brightness or
orientation, and second photographs of a field; it does not find fields that merely overlap.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_detect.errors import LabelError, SlideError
from wsi_detect.slides import open_slide
from wsi_detect.slides.resample import thumbnail

#: Pictures whose hashes differ in at most so many of the 255 bits are taken for one. `scripts/look_alikes.py` measures:
#: on the CRIC fields two differ in 90 and more, a copy made brighter until it is cut at white in up to 55.
MAX_DISTANCE = 64

Hash = NDArray[np.uint64]
Kind = Literal["patient", "slide", "look-alike"]
#: What is done about look-alikes.
Rule = Literal["refuse", "report", "off"]

_SIDE = 64
_FREQUENCIES = 16
_OVERVIEW_PX = 1024
#: Standard deviation of the grey values, of 255, below which a picture is blank.
_LEAST_CONTRAST = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Item:
    """One picture or slide of a data set; what is not known is None.

    Attributes:
        name: for messages: a file name or a slide id, never a patient's.
        split: it is in.
        patient: whose it is.
        slide: which it is, or is part of.
        looks: see `image_hash`.
    """

    name: str
    split: str
    patient: str | None = None
    slide: str | None = None
    looks: Hash | None = None


@dataclass(frozen=True, slots=True)
class Leak:
    """Two pictures that should not be in two splits; `distance` is in bits, of look-alikes only."""

    kind: Kind
    first: Item
    second: Item
    distance: int | None = None

    def __str__(self) -> str:
        one, two = (f"{item.name} ({item.split})" for item in (self.first, self.second))
        if self.kind != "look-alike":
            return f"{one} and {two} are of one {self.kind}"
        return f"{one} and {two} look alike ({self.distance} of 255 bits differ)"


def image_hash(rgb: NDArray[np.uint8]) -> Hash | None:
    """Return the hash of a picture, (H, W, 3) or (H, W) uint8, in its eight orientations: (8, 4) uint64.

    None for a picture with nothing on it: all of those look alike.
    """
    # In floating point: a resized picture rounded to bytes is not quite that of the turned one, turned.
    small = Image.fromarray(rgb).convert("L").convert("F").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.float64)
    if grey.std() < _LEAST_CONTRAST:
        return None
    waves = np.cos(np.pi * np.outer(np.arange(_FREQUENCIES), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE))
    content = waves @ grey @ waves.T
    # A mirrored picture has the same frequencies, the odd ones with the other sign.
    odd = np.where(np.arange(_FREQUENCIES) % 2, -1.0, 1.0)
    mirrors = [np.ones((1, 1)), odd[None, :], odd[:, None], np.outer(odd, odd)]
    bits = np.array([(turned * mirror > 0).ravel() for turned in (content, content.T) for mirror in mirrors])
    bits[:, 0] = False  # the mean says how bright the picture is, not what is on it
    return np.packbits(bits, axis=1).view(np.uint64)


def hash_file(path: Path) -> Hash | None:
    """Return the hash of a picture file.

    Raises:
        LabelError: the picture cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            image.draft("L", (4 * _SIDE, 4 * _SIDE))
            return image_hash(np.asarray(image.convert("L")))
    # What Pillow raises on a broken file depends on where it is broken.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise LabelError(f"{path}: the picture cannot be decoded: {error}") from error


def hash_slide(path: Path) -> Hash | None:
    """Return the hash of the middle of a slide's overview; None for a file that is no readable slide.

    The middle alone, because round deposits on clean glass are alike as a whole.
    """
    try:
        # Any resolution will do, and the file's own may be one that is refused.
        with open_slide(path, mpp=1.0) as slide:
            rgb, _ = thumbnail(slide, _OVERVIEW_PX)
    except SlideError:
        return None
    top, left = (side // 4 for side in rgb.shape[:2])
    return image_hash(np.ascontiguousarray(rgb[top : rgb.shape[0] - top, left : rgb.shape[1] - left]))


def distance(first: Hash, second: Hash) -> int:
    """Bits in which two hashes differ in the orientation that suits them best, 0 to 255."""
    return int(np.bitwise_count(first[0] ^ second).sum(axis=1, dtype=np.int64).min())


def find_leaks(items: Sequence[Item], max_distance: int = MAX_DISTANCE) -> list[Leak]:
    """Find what is in more than one split: patients and slides first, then look-alikes, the most alike first.

    Of a patient or a slide one pair of pictures is named for each further split.
    """
    of_patients = _shared(items, "patient", lambda item: item.patient)
    of_slides = _shared(items, "slide", lambda item: item.slide)
    return [*of_patients, *of_slides, *_look_alikes(items, max_distance)]


def check_slides(slides: Mapping[str, Path], split: Mapping[str, str], rule: Rule) -> list[Leak]:
    """Look for slides that look alike in different splits, before they are tiled.

    Args:
        slides: slide id → file.
        split: name of the split of each slide.
        rule: refuse them, report them (in the log, and to the caller), or look away.

    Raises:
        LabelError: there are some, and the rule refuses them.
    """
    if rule == "off":
        return []
    found = find_leaks([Item(name, split[name], looks=hash_slide(path)) for name, path in slides.items()])
    text = f"{len(found)} pairs of slides across the splits: {'; '.join(map(str, found))}"
    if found and rule == "refuse":
        raise LabelError(
            f"{text}; take one of each out, or if they are different slides set dataset.look_alikes: report"
        )
    if found:
        _log.warning("leaks: %s", text)
    return found


def _shared(items: Sequence[Item], kind: Kind, owner: Callable[[Item], Hashable | None]) -> list[Leak]:
    groups: dict[Hashable, dict[str, Item]] = defaultdict(dict)
    for item in items:
        name = owner(item)
        if name is not None:
            groups[name].setdefault(item.split, item)
    return [Leak(kind, one, two) for first in groups.values() for one, two in pairwise(first.values())]


def _look_alikes(items: Sequence[Item], max_distance: int) -> list[Leak]:
    known = [(item, item.looks) for item in items if item.looks is not None]
    if not known:
        return []
    splits = np.array([item.split for item, _ in known], dtype=object)
    table = np.stack([looks for _, looks in known])  # (N, 8, 4)
    found = []
    for row, (item, looks) in enumerate(known):
        others = row + 1 + np.flatnonzero(splits[row + 1 :] != item.split)
        bits = np.bitwise_count(looks[0] ^ table[others]).sum(axis=2, dtype=np.int64).min(axis=1, initial=256)
        found += [
            Leak("look-alike", item, known[other][0], int(number))
            for other, number in zip(others, bits, strict=True)
            if number <= max_distance
        ]
    return sorted(found, key=lambda leak: leak.distance or 0)
