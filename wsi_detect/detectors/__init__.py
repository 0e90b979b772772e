"""Detectors by name. Importing this room costs no torch: a builder is imported when it is called."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from wsi_detect.config import parse
from wsi_detect.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from wsi_detect.detectors.dense import DenseDetector

Builder = Callable[[int, Mapping[str, Any]], "DenseDetector"]


def _fcos(num_classes: int, options: Mapping[str, Any]) -> "DenseDetector":
    from wsi_detect.detectors.fcos import FCOSConfig, fcos

    return fcos(num_classes, parse(options, FCOSConfig, where="detector 'fcos'"))


#: Name → builder(number of classes, options as plain values).
DETECTORS: dict[str, Builder] = {"fcos": _fcos}


def build_detector(name: str, num_classes: int, options: Mapping[str, Any]) -> "DenseDetector":
    """Build a detector from plain values, as a configuration file or a bundle holds them.

    Raises:
        ConfigError: unknown name or option.
        MissingExtraError: torch or torchvision is not installed.
    """
    if name not in DETECTORS:
        raise ConfigError(f"unknown detector {name!r}; known: {', '.join(sorted(DETECTORS))}")
    try:
        return DETECTORS[name](num_classes, options)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "torchvision", "safetensors"):
            raise MissingExtraError(f"detector {name!r}", "detect") from error
        raise


__all__ = ["DETECTORS", "Builder", "build_detector"]
