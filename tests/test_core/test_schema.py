"""Every table: units in names, types fixed, a version inside."""

import pyarrow as pa
import pytest

from wsi_detect import schema

NAMES = {
    "slides": "slide_id path patient_id site scanner preparation stain slide_label split mpp",
    "annotations": "slide_id annotation_id label x0_px y0_px x1_px y1_px geometry annotator source_label",
    "rois": "slide_id roi_id geometry",
    "votes": "slide_id annotation_id annotator label source_label",
    "index": "slide_id patch_id split coverage focus counts",
    "detections": "slide_id patch_id x0_px y0_px x1_px y1_px label score class_scores",
    "patches": "slide_id patch_id status reason coverage no_data unreadable focus stain crowding blood mucus",
    "evidence_parts": "slide_id patch_id status no_data unreadable x0 y0 x1 y1 codes",
    "hard_negatives": "slide_id patch_id rank evidence share_above x0_px y0_px x1_px y1_px",
    "cells": "cell_id slide_id x0_px y0_px x1_px y1_px label score class_scores support geometry members",
    "metrics": "metric label threshold value ci_low ci_high n subset unit undefined replicates groups",
    "evaluated_images": "image_id patient_id slide_id field_id width_px height_px mpp roi",
    "evaluated_truth": "image_id label x0_px y0_px x1_px y1_px",
    "evaluated_predictions": "image_id x0_px y0_px x1_px y1_px label score class_scores",
    "comparison": "figure first second difference ci_low ci_high share holm detectable undefined replicates groups",
}


def test_columns():
    assert {name: " ".join(table.names) for name, table in schema.TABLES.items()} == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_slide_px_are_float64_and_never_null(name):
    boxes = [field for field in schema.TABLES[name] if field.name in schema.BOX_COLUMNS]
    assert all(field.type == pa.float64() and not field.nullable for field in boxes)


@pytest.mark.parametrize("name", NAMES)
def test_every_table_carries_its_version(name):
    assert schema.version_of(schema.TABLES[name]) == schema.SCHEMA_VERSION


def test_a_foreign_table_has_no_version():
    assert schema.version_of(pa.schema([pa.field("x", pa.int64())])) is None


def test_paths_stand_in_one_table_only():
    assert [name for name, table in schema.TABLES.items() if "path" in table.names] == ["slides"]
