"""Paints sheets of nuclei whose lesions have the colours of the rest and differ in structure alone.

A picture is one sheet of normal nuclei; a lesion is a part of it where they are changed. Of `size`, a changed
nucleus has twice the diameter of a normal one and there are a quarter as many, so that the share of dark px is the
same. Of `texture`, nuclei are equal, and a changed one has its dark and pale chromatin in clumps instead of grains,
half and half in both. No px value tells them apart; a classifier of colours must fail.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["size", "texture"]

_SHEET = (198.0, 186.0, 206.0)
_DARK, _PALE = (92.0, 70.0, 128.0), (136.0, 112.0, 164.0)
#: Distance of normal nuclei and their radius, px; of changed ones by `size` twice of both.
_PITCH, _RADIUS = 8, 2.5
_GRAIN = 4.0


@dataclass(frozen=True, slots=True, eq=False)
class LesionPicture:
    """A picture and its truth.

    Attributes:
        rgb: (H, W, 3) uint8.
        lesion: (H, W) bool, where nuclei are changed.
    """

    rgb: NDArray[np.uint8]
    lesion: NDArray[np.bool_]


def paint_lesions(side: int, *, lesions: int, kind: Kind, seed: int, radius: float = 28) -> LesionPicture:
    """Paint one picture.

    Args:
        side: of the picture, px.
        lesions: how many; 0 for a negative picture.
        kind: what is changed.
        seed: same seed, same picture.
        radius: of a lesion, px, within a quarter.

    Raises:
        ValueError: there is no room for the lesions.
    """
    rng = np.random.default_rng(seed)
    masks = [_disc(rng, side, centre, radius) for centre in _centres(rng, side, lesions, radius)]
    lesion = np.logical_or.reduce([np.zeros((side, side), bool), *masks])
    rgb = np.full((side, side, 3), _SHEET, np.float32)
    _fill(rgb, ~lesion, rng, kind, False)
    _fill(rgb, lesion, rng, kind, True)
    rgb += rng.normal(0, _GRAIN, (side, side, 1)).astype(np.float32)
    return LesionPicture(np.clip(np.rint(rgb), 0, 255).astype(np.uint8), lesion)


def _centres(rng: np.random.Generator, side: int, count: int, radius: float) -> list[NDArray[np.float64]]:
    """Places far enough apart that no two lesions touch."""
    found: list[NDArray[np.float64]] = []
    for _ in range(500):
        if len(found) == count:
            return found
        place = rng.uniform(radius * 0.8, side - radius * 0.8, 2)
        if all(np.hypot(*(place - other)) > 2.6 * radius for other in found):
            found.append(place)
    raise ValueError(f"no room for {count} lesions of radius {radius} px on {side} px")


def _disc(rng: np.random.Generator, side: int, centre: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """A disc with a wavy edge."""
    y, x = np.mgrid[:side, :side] - centre[:, None, None]
    angle = np.arctan2(y, x)
    wave = sum(rng.uniform(-0.06, 0.06) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 6))
    return np.asarray(np.hypot(x, y) < radius * rng.uniform(0.9, 1.1) * (1 + wave))


def _fill(
    rgb: NDArray[np.float32], mask: NDArray[np.bool_], rng: np.random.Generator, kind: Kind, changed: bool
) -> None:
    """Nuclei on a jittered grid."""
    side = len(mask)
    larger = 2 if changed and kind == "size" else 1
    pitch, radius = _PITCH * larger, _RADIUS * larger
    if kind == "texture":
        pitch, radius = 2 * _PITCH, 2 * _RADIUS
    chromatin = _chromatin(rng, side, 4 if kind == "texture" and changed else 1)
    grid = np.stack(np.meshgrid(*[np.arange(0, side + pitch, pitch)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    y, x = np.mgrid[:side, :side]
    # Too little to make neighbours touch: the share of dark px would no longer be that of the grid.
    room = pitch / 2 - radius
    for cy, cx in grid + rng.uniform(-room, room, grid.shape):
        if not (0 <= cy < side and 0 <= cx < side and mask[int(cy), int(cx)]):
            continue
        r = int(radius) + 2
        part = np.s_[max(int(cy) - r, 0) : int(cy) + r + 1, max(int(cx) - r, 0) : int(cx) + r + 1]
        nucleus = (np.hypot(y[part] - cy, x[part] - cx) < radius) & mask[part]
        rgb[part][nucleus] = np.where(chromatin[part][nucleus][:, None], _DARK, _PALE)


def _chromatin(rng: np.random.Generator, side: int, clump: int) -> NDArray[np.bool_]:
    """Which px of nuclei are dark: half of them, in squares of `clump` px."""
    coarse = rng.random((side // clump + 1, side // clump + 1)) < 0.5
    return np.kron(coarse, np.ones((clump, clump), bool))[:side, :side].astype(bool)
