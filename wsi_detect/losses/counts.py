"""How often each class occurs in the training data, in the one form in which losses are told."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """Class counts of a training set; plain values, so that they travel in the options of a detector and its bundle.

    Attributes:
        cells: (K,) labelled cells of each class.
        images: (K,) images, here patches, with at least one cell of the class.
        total_images: images in all, those without cells included.
    """

    cells: tuple[float, ...]
    images: tuple[float, ...]
    total_images: float

    def __post_init__(self) -> None:
        if len(self.cells) != len(self.images) or not self.cells:
            raise ValueError(f"class_counts: {len(self.cells)} classes in cells, {len(self.images)} in images")
        known = (*self.cells, *self.images, self.total_images)
        if not all(math.isfinite(n) and n >= 0 for n in known):
            raise ValueError(f"class_counts must be finite and not negative, got {known}")
        if not any(self.cells) or self.total_images < max(self.images):
            raise ValueError("class_counts: no cell at all, or more images of a class than images")

    @classmethod
    def of(cls, value: "ClassCounts | Mapping[str, Any]") -> "ClassCounts":
        """Read it from plain values {"cells": (K,), "images": (K,), "total_images": N}.

        Raises:
            ValueError: a key is missing or unknown, or the figures contradict each other.
        """
        if isinstance(value, ClassCounts):
            return value
        if set(value) != {"cells", "images", "total_images"}:
            raise ValueError(f"class_counts holds cells, images and total_images, not {', '.join(sorted(value))}")
        return cls(_figures(value["cells"]), _figures(value["images"]), float(value["total_images"]))

    def to_plain(self) -> dict[str, Any]:
        """Plain values, as `of` takes them."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def _figures(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
