"""Slides to measure a gate on: by experts' labels, or by what a detector found without a gate."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsi_detect import artifact
from wsi_detect.errors import LabelError, StaleArtifactError
from wsi_detect.evaluation.gate_cost import GatedSlide
from wsi_detect.inference.gate import Area, patch_peaks
from wsi_detect.schema import ANNOTATIONS, BOX_COLUMNS, PATCHES
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.tiling.evidence_map import HEATMAP, EvidenceMap
from wsi_detect.tiling.journal import STORE
from wsi_detect.tiling.patch_store import PatchStore


def labelled_slides(folders: Sequence[Path], annotations: Path, area: Area = "patch") -> list[GatedSlide]:
    """Return slides with the cells experts labelled.

    Args:
        folders: of slides, each with its patches and its map.
        annotations: table of `schema.ANNOTATIONS`.
        area: see `GateConfig`.

    Raises:
        LabelError: none of the slides has a label.
        ArtifactError: patches or a map are missing or do not belong together.
    """
    table = artifact.read_table(annotations, ANNOTATIONS)
    names = np.array(table["slide_id"].to_pylist(), dtype=object)
    boxes = np.column_stack([table[name].to_numpy() for name in BOX_COLUMNS])
    labels = table["label"].to_pylist()
    slides = []
    for folder in folders:
        store = PatchStore.open(folder / STORE)
        rows = np.flatnonzero(names == store.slide.slide_id)
        peaks = patch_peaks(EvidenceMap.open(folder / HEATMAP), store, area)
        mine = [labels[row] for row in rows]
        slides.append(GatedSlide(store.grid, store.patch_ids, peaks, boxes[rows], mine))
    if not any(len(slide.labels) for slide in slides):
        raise LabelError(f"{annotations} has no label of any of the {len(slides)} slides")
    return slides


def ungated_slides(folders: Sequence[Path], area: Area = "patch") -> list[GatedSlide]:
    """Return slides with the cells a detector found there, having been shown every patch.

    Raises:
        StaleArtifactError: a slide was screened behind a gate: what that left out is not known.
        ArtifactError: patches, cells or a map are missing or do not belong together.
    """
    slides = []
    for folder in folders:
        states = artifact.read_table(folder / "patches.parquet", PATCHES)["status"].to_pylist()
        if "gated" in states:
            raise StaleArtifactError(
                f"{folder} was screened behind a gate, which hid {states.count('gated')} patches; measure gates on "
                "runs without one, or give --annotations"
            )
        store = PatchStore.open(folder / STORE)
        peaks = patch_peaks(EvidenceMap.open(folder / HEATMAP), store, area)
        cells = CellMap.read(folder / "cells.parquet")
        slides.append(GatedSlide(store.grid, store.patch_ids, peaks, cells.boxes(), cells.table["label"].to_pylist()))
    return slides
