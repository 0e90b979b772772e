"""Detectors by name: a builder and the configuration it takes."""

from typing import Any

from wsi_detect.config import parse
from wsi_detect.detectors.dense import DenseDetector
from wsi_detect.detectors.fcos import FCOSConfig, fcos
from wsi_detect.errors import ConfigError

#: Name → (builder(num_classes, config), configuration class).
DETECTORS = {"fcos": (fcos, FCOSConfig)}


def build_detector(name: str, num_classes: int, options: dict[str, Any]) -> DenseDetector:
    """Build a detector from plain values, as a configuration file or a bundle holds them.

    Raises:
        ConfigError: unknown name or option.
    """
    if name not in DETECTORS:
        raise ConfigError(f"unknown detector {name!r}; known: {', '.join(sorted(DETECTORS))}")
    builder, kind = DETECTORS[name]
    return builder(num_classes, parse(options, kind, where=f"detector {name!r}"))


__all__ = ["DETECTORS", "build_detector"]
