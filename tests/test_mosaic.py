"""The stitched slide against its fields: a cell is a cell whether a patch or the whole field was shown to the model."""

import numpy as np
import pytest

from wsi_detect.detectors.info import default_bundle, read_info
from wsi_detect.geometry import box_iou
from wsi_detect.inference import RUNTIMES
from wsi_detect.run import Batch, RunOptions, list_slides, run_batch
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.testing.demo import demo_fields
from wsi_detect.testing.mosaic import build_mosaic, field_pixels

CELL_PX = 84
SURE = 0.35
#: A partner need only be reported at all: near the border of a field its surroundings differ, and so do scores.
SEEN = read_info(default_bundle()).score_threshold


def partnered(boxes, scores, others, other_scores):
    """Which sure cells have a partner of their own among the others, best scores first: (N,) bool."""
    overlap = box_iou(boxes, others)
    overlap[:, other_scores < SEEN] = 0
    found = np.zeros(len(boxes), bool)
    for row in np.argsort(-scores, kind="stable"):
        if scores[row] >= SURE and overlap.shape[1] and overlap[row].max() >= 0.5:
            overlap[:, overlap[row].argmax()] = 0
            found[row] = True
    return found


def inner(boxes, field):
    x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    across = (x > CELL_PX) & (x < field.width_px - CELL_PX)
    return across & (y > CELL_PX) & (y < field.height_px - CELL_PX)


@pytest.fixture(scope="module")
def screened(tmp_path_factory):
    out = tmp_path_factory.mktemp("mosaic")
    fields, coco = demo_fields()
    mosaic = build_mosaic(fields, coco, out / "mosaic.svs", mpp=0.27, limit=4)
    batch = Batch(out / "work", default_bundle(), options=RunOptions(preparation="conventional smear"))
    (status,) = run_batch(list_slides([mosaic.path]), batch, workers=0)
    assert status["status"] == "SCREENED"
    return mosaic, CellMap.read(out / "work" / status["slide_id"] / "cells.parquet")


def test_slide_and_fields_agree(screened):
    mosaic, cells = screened
    detector = RUNTIMES["torch"](default_bundle(), "cpu", nms="agnostic")
    boxes, scores = cells.boxes(), cells.table["score"].to_numpy()
    agreed, sure = np.zeros(2), np.zeros(2)
    for field in mosaic.fields:
        whole = detector(field_pixels(mosaic, field.name)[None])[0]
        here = boxes - np.array([field.x_px, field.y_px] * 2)
        sides = ((whole.boxes.astype(float), whole.scores), (here, scores))
        for k, (one, other) in enumerate((sides, sides[::-1])):
            counted = inner(one[0], field) & (one[1] >= SURE)
            sure[k] += counted.sum()
            agreed[k] += (partnered(*one, *other) & counted).sum()
    assert (sure >= 40).all()
    assert (agreed / sure >= 0.98).all(), (agreed, sure)
