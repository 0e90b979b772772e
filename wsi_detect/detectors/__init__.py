"""Detectors by name. Importing this room costs no torch: a builder is imported when it is called."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from wsi_detect.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from torch import nn

#: (number of classes, options as plain values) → a module with torchvision's contract, `selection` and `dense`.
Builder = Callable[[int, Mapping[str, Any]], "nn.Module"]


def _atss(num_classes: int, options: Mapping[str, Any]) -> "nn.Module":
    from wsi_detect.detectors.atss import atss

    return atss(num_classes, options)


def _faster_rcnn(num_classes: int, options: Mapping[str, Any]) -> "nn.Module":
    from wsi_detect.detectors.faster_rcnn import faster_rcnn

    return faster_rcnn(num_classes, options)


def _fcos(num_classes: int, options: Mapping[str, Any]) -> "nn.Module":
    from wsi_detect.detectors.fcos import fcos

    return fcos(num_classes, options)


def _reppoints(num_classes: int, options: Mapping[str, Any]) -> "nn.Module":
    from wsi_detect.detectors.reppoints import reppoints

    return reppoints(num_classes, options)


def _retinanet(num_classes: int, options: Mapping[str, Any]) -> "nn.Module":
    from wsi_detect.detectors.retinanet import retinanet

    return retinanet(num_classes, options)


def _yolof(num_classes: int, options: Mapping[str, Any]) -> "nn.Module":
    from wsi_detect.detectors.yolof import yolof

    return yolof(num_classes, options)


#: Name → builder.
DETECTORS: dict[str, Builder] = {
    "atss": _atss,
    "faster_rcnn": _faster_rcnn,
    "fcos": _fcos,
    "reppoints": _reppoints,
    "retinanet": _retinanet,
    "yolof": _yolof,
}


def build_detector(name: str, num_classes: int, options: Mapping[str, Any]) -> "nn.Module":
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
