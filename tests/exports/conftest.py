import uuid
from pathlib import Path

import pytest
import shapely

from wsi_detect import artifact, schema
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap

IDS = [str(uuid.uuid5(uuid.NAMESPACE_OID, name)) for name in "abc"]
BOXES = [(0.0, 0.25, 10.5, 20.0), (45.0, 45.0, 55.0, 55.0), (100.0, 60.125, 130.0, 90.0)]
OUTLINE = shapely.to_wkb(shapely.Polygon([(45, 45), (55, 45), (50, 55)]))
COLUMNS = ("cell_id", *schema.BOX_COLUMNS, "label", "score", "class_scores", "support", "geometry")


def make(*, slide_id="S1", mpp=0.5, number=3, outline=OUTLINE):
    rows = [
        (IDS[0], *BOXES[0], "NILM", 0.9, [0.9, 0.25], 2, None),
        (IDS[1], *BOXES[1], "HSIL", 0.7, [0.125, 0.7], 1, outline),
        (IDS[2], *BOXES[2], "TRICHOMONAS", 0.35, None, 4, None),
    ]
    table = artifact.table_of(
        [{"slide_id": slide_id, **dict(zip(COLUMNS, row, strict=True))} for row in rows[:number]], schema.CELLS
    )
    slide = SlideInfo(slide_id, Path("Jane Doe.svs"), 200, 100, mpp, "file", (1.0,))
    return CellMap(slide, table, ("NILM", "HSIL"), "model")


@pytest.fixture
def cell_map():
    """Three cells: one of a detector's classes, one with an outline, one without class scores."""
    return make


@pytest.fixture(scope="session")
def ids():
    return IDS


@pytest.fixture(scope="session")
def boxes():
    return BOXES
