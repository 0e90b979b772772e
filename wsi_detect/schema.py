"""Every column of every table: name, type, unit, whether it may be null. Nothing else agrees on columns.

Units are in the names: `_px` is slide px (level 0), xyxy, half-open; `_um` is micrometres.
"""

import pyarrow as pa

SCHEMA_VERSION = 2
_VERSION_KEY = b"wsi_detect.schema_version"


def _field(name: str, kind: pa.DataType, *, null: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=null)


def _table(*fields: pa.Field) -> pa.Schema:
    return pa.schema(list(fields), metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()})


_BOX = tuple(_field(name, pa.float64()) for name in ("x0_px", "y0_px", "x1_px", "y1_px"))
BOX_COLUMNS = ("x0_px", "y0_px", "x1_px", "y1_px")

#: One row a slide of a run. `path` is here and on the screen only: a lab's file names can hold a patient's name.
SLIDES = _table(
    _field("slide_id", pa.string()),
    _field("path", pa.string()),
    _field("patient_id", pa.string(), null=True),
    _field("site", pa.string(), null=True),
    _field("scanner", pa.string(), null=True),
    _field("preparation", pa.string(), null=True),
    _field("stain", pa.string(), null=True),
    _field("slide_label", pa.string(), null=True),
    _field("split", pa.string(), null=True),
    _field("mpp", pa.float64(), null=True),
)

#: One row an expert's label. `label` is a taxonomy name, `source_label` what the vendor's file said.
ANNOTATIONS = _table(
    _field("slide_id", pa.string()),
    _field("annotation_id", pa.string()),
    _field("label", pa.string()),
    *_BOX,
    _field("geometry", pa.binary(), null=True),
    _field("annotator", pa.string(), null=True),
    _field("source_label", pa.string()),
)

#: One row an area of a slide inside which every cell was labelled. A slide without a row is labelled everywhere.
#: `geometry` is a polygon or several, WKB in slide px.
ROIS = _table(
    _field("slide_id", pa.string()),
    _field("roi_id", pa.string()),
    _field("geometry", pa.binary()),
)

#: One row what one reader said of one cell of `annotations.parquet`, which holds what was made of the votes.
VOTES = _table(
    _field("slide_id", pa.string()),
    _field("annotation_id", pa.string()),
    _field("annotator", pa.string()),
    _field("label", pa.string()),
    _field("source_label", pa.string()),
)

#: One row a patch of a data set. `counts` follows the class names in the metadata key `classes` (JSON list).
INDEX = _table(
    _field("slide_id", pa.string()),
    _field("patch_id", pa.int64()),
    _field("split", pa.string()),
    _field("coverage", pa.float32()),
    _field("focus", pa.float32(), null=True),
    _field("counts", pa.list_(pa.int32())),
)

#: One row a detection of a patch. `patch_id` is the row-major index in the slide's grid. `class_scores`
#: follows the model's class names in the metadata key `classes` (JSON list).
DETECTIONS = _table(
    _field("slide_id", pa.string()),
    _field("patch_id", pa.int64()),
    *_BOX,
    _field("label", pa.string()),
    _field("score", pa.float32()),
    _field("class_scores", pa.list_(pa.float32()), null=True),
)

#: One row a patch that was looked at, or should have been. `status`: done, failed, unreadable, or gated: evidence there
#: is not above the gate, and the detector was not shown it. `no_data` and `unreadable` are fractions of the patch
#: area. The last five are of `tiling/quality.py`, null where no px of a cell was sampled.
PATCHES = _table(
    _field("slide_id", pa.string()),
    _field("patch_id", pa.int64()),
    _field("status", pa.string()),
    _field("reason", pa.string(), null=True),
    _field("coverage", pa.float32()),
    _field("no_data", pa.float32()),
    _field("unreadable", pa.float32()),
    *(_field(name, pa.float32(), null=True) for name in ("focus", "stain", "crowding", "blood", "mucus")),
)

#: One row a patch whose evidence was mapped, or should have been; `status` as in `PATCHES`. The block is in px of the
#: map, `codes` its content (`tiling/evidence_map.py`), row by row, null where there is none.
EVIDENCE_PARTS = _table(
    _field("slide_id", pa.string()),
    _field("patch_id", pa.int64()),
    _field("status", pa.string()),
    _field("no_data", pa.float32()),
    _field("unreadable", pa.float32()),
    *(_field(name, pa.int32()) for name in ("x0", "y0", "x1", "y1")),
    _field("codes", pa.binary(), null=True),
)

#: One row a patch of a negative slide that looks abnormal to an evidence model, the worst first. The box is where its
#: evidence is highest, as wide as a px of the map.
HARD_NEGATIVES = _table(
    _field("slide_id", pa.string()),
    _field("patch_id", pa.int64()),
    _field("rank", pa.int64()),
    _field("evidence", pa.float32()),
    _field("share_above", pa.float32()),
    *_BOX,
)

#: One row a cell of a slide. `cell_id` is a UUID derived from slide, model, box and class: the same in every export.
#: `members`, where they were asked for, are the numbers of the detections that are views of the cell: their places
#: when all detections of the slide are sorted by patch_id, y0, x0, y1, x1, label, falling score.
CELLS = _table(
    _field("cell_id", pa.string()),
    _field("slide_id", pa.string()),
    *_BOX,
    _field("label", pa.string()),
    _field("score", pa.float32()),
    _field("class_scores", pa.list_(pa.float32()), null=True),
    _field("support", pa.int32()),
    _field("geometry", pa.binary(), null=True),
    _field("members", pa.list_(pa.int64()), null=True),
)

#: One row a figure. `label` is a class name or an aggregate such as `mean`; null value means "not defined here".
#: `subset` is the part of the cells it is about (a range of sizes, a group of classes), null for all; `unit` what false
#: positives are counted by (field, slide, mm2). `undefined` are replicates of the bootstrap that gave no value, of
#: `replicates` that resampled `groups` patients, slides or fields; all three null without intervals.
METRICS = _table(
    _field("metric", pa.string()),
    _field("label", pa.string()),
    _field("threshold", pa.float64(), null=True),
    _field("value", pa.float64(), null=True),
    _field("ci_low", pa.float64(), null=True),
    _field("ci_high", pa.float64(), null=True),
    _field("n", pa.int64()),
    _field("subset", pa.string(), null=True),
    _field("unit", pa.string(), null=True),
    _field("undefined", pa.int64(), null=True),
    _field("replicates", pa.int64(), null=True),
    _field("groups", pa.int64(), null=True),
)

#: One row an image of an evaluation, also one without a cell: a field, or a whole slide. Here and in the next two, px
#: are of the image as it was evaluated. `roi` is WKB, null where the whole image counts.
EVALUATED_IMAGES = _table(
    _field("image_id", pa.string()),
    _field("patient_id", pa.string(), null=True),
    _field("slide_id", pa.string(), null=True),
    _field("field_id", pa.string(), null=True),
    _field("width_px", pa.int64()),
    _field("height_px", pa.int64()),
    _field("mpp", pa.float64(), null=True),
    _field("roi", pa.binary(), null=True),
)

#: One row a labelled cell of an evaluation, or an area to ignore, which has no label.
EVALUATED_TRUTH = _table(
    _field("image_id", pa.string()),
    _field("label", pa.string(), null=True),
    *_BOX,
)

#: One row a detection of an evaluation. `class_scores` follows the names in the metadata key `classes` (JSON list).
EVALUATED_PREDICTIONS = _table(
    _field("image_id", pa.string()),
    *_BOX,
    _field("label", pa.string()),
    _field("score", pa.float64()),
    _field("class_scores", pa.list_(pa.float64()), null=True),
)

#: One row a figure of two evaluations of the same images; null where a figure is not defined. `difference` is `second`
#: minus `first`, `share` of the replicates on the far side of 0, doubled, `holm` that adjusted for all rows.
COMPARISON = _table(
    _field("figure", pa.string()),
    *(_field(name, pa.float64(), null=True) for name in ("first", "second", "difference", "ci_low", "ci_high")),
    *(_field(name, pa.float64(), null=True) for name in ("share", "holm", "detectable")),
    _field("undefined", pa.int64()),
    _field("replicates", pa.int64()),
    _field("groups", pa.int64()),
)

TABLES = {
    "slides": SLIDES,
    "annotations": ANNOTATIONS,
    "rois": ROIS,
    "votes": VOTES,
    "index": INDEX,
    "detections": DETECTIONS,
    "patches": PATCHES,
    "evidence_parts": EVIDENCE_PARTS,
    "hard_negatives": HARD_NEGATIVES,
    "cells": CELLS,
    "metrics": METRICS,
    "evaluated_images": EVALUATED_IMAGES,
    "evaluated_truth": EVALUATED_TRUTH,
    "evaluated_predictions": EVALUATED_PREDICTIONS,
    "comparison": COMPARISON,
}


def version_of(schema: pa.Schema) -> int | None:
    """Return the schema version a table carries, None if it carries none."""
    found = (schema.metadata or {}).get(_VERSION_KEY)
    return int(found) if found is not None else None
