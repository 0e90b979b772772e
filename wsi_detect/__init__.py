"""Cervical-cytology slide detector: from the slide file to a reviewed cell map.

The public names below are looked up when they are first used, so that `import wsi_detect` costs next to nothing and a
machine without torch can tile, stitch, export and report.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsi_detect.annotations.class_map import ClassMap
    from wsi_detect.annotations.importer import import_annotations
    from wsi_detect.data.index import build_index
    from wsi_detect.detectors.info import DetectorInfo, default_bundle, read_info
    from wsi_detect.evaluation.evaluate import evaluate_fields
    from wsi_detect.exports.exporter import export_cells
    from wsi_detect.geometry import Box, PatchFrame
    from wsi_detect.inference.detect import DetectionConfig, detect_patches
    from wsi_detect.inference.evidence import EvidenceConfig, map_evidence
    from wsi_detect.report.slide_report import write_report
    from wsi_detect.run import Batch, RunConfig, RunOptions, list_slides, run_batch
    from wsi_detect.slides import SlideInfo, SlideReader, open_slide
    from wsi_detect.stitching.cell_map import CellMap
    from wsi_detect.stitching.stitcher import StitchingConfig, stitch_detections
    from wsi_detect.tiling.evidence_map import EvidenceMap
    from wsi_detect.tiling.grid import TileGrid
    from wsi_detect.tiling.patch_store import PatchStore
    from wsi_detect.tiling.plan import TilingConfig
    from wsi_detect.tiling.tiler import tile_slide
    from wsi_detect.training.config import TrainingConfig
    from wsi_detect.training.trainer import train_detector

__version__ = "0.4.0"

#: Public name → the module it lives in.
_HOMES = MappingProxyType(
    {
        "Batch": "run",
        "Box": "geometry",
        "CellMap": "stitching.cell_map",
        "ClassMap": "annotations.class_map",
        "DetectionConfig": "inference.detect",
        "DetectorInfo": "detectors.info",
        "EvidenceConfig": "inference.evidence",
        "EvidenceMap": "tiling.evidence_map",
        "PatchFrame": "geometry",
        "PatchStore": "tiling.patch_store",
        "RunConfig": "run",
        "RunOptions": "run",
        "SlideInfo": "slides",
        "SlideReader": "slides",
        "StitchingConfig": "stitching.stitcher",
        "TileGrid": "tiling.grid",
        "TilingConfig": "tiling.plan",
        "TrainingConfig": "training.config",
        "build_index": "data.index",
        "default_bundle": "detectors.info",
        "detect_patches": "inference.detect",
        "evaluate_fields": "evaluation.evaluate",
        "export_cells": "exports.exporter",
        "import_annotations": "annotations.importer",
        "list_slides": "run",
        "map_evidence": "inference.evidence",
        "open_slide": "slides",
        "read_info": "detectors.info",
        "run_batch": "run",
        "stitch_detections": "stitching.stitcher",
        "tile_slide": "tiling.tiler",
        "train_detector": "training.trainer",
        "write_report": "report.slide_report",
    }
)

__all__ = [
    "Batch",
    "Box",
    "CellMap",
    "ClassMap",
    "DetectionConfig",
    "DetectorInfo",
    "EvidenceConfig",
    "EvidenceMap",
    "PatchFrame",
    "PatchStore",
    "RunConfig",
    "RunOptions",
    "SlideInfo",
    "SlideReader",
    "StitchingConfig",
    "TileGrid",
    "TilingConfig",
    "TrainingConfig",
    "__version__",
    "build_index",
    "default_bundle",
    "detect_patches",
    "evaluate_fields",
    "export_cells",
    "import_annotations",
    "list_slides",
    "map_evidence",
    "open_slide",
    "read_info",
    "run_batch",
    "stitch_detections",
    "tile_slide",
    "train_detector",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wsi_detect' has no attribute {name!r}")
    return getattr(import_module(f"wsi_detect.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
