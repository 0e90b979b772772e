"""Every entry of every menu against its contract: a new file is tested by existing.

A new reader or format needs one line here: how to write a sample of it, or how to read it back.
"""

import csv
import json
import sqlite3
from contextlib import closing
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from highdicom.ann import annread
from PIL import Image

from wsi_detect.annotations import IMPORTERS
from wsi_detect.data.samplers import SAMPLERS
from wsi_detect.detectors import DETECTORS
from wsi_detect.exports import EXPORTERS, PICTURES
from wsi_detect.geometry import Box
from wsi_detect.losses import LOSSES
from wsi_detect.schema import BOX_COLUMNS
from wsi_detect.slides import READERS, open_slide
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.stitcher import StitchingConfig, stitch
from wsi_detect.testing.annotation_files import DIALECTS
from wsi_detect.testing.contracts import (
    ReadCell,
    check_detector,
    check_exporter,
    check_importer,
    check_loss,
    check_reader,
    check_sampler,
)
from wsi_detect.testing.dicom import write_dicom
from wsi_detect.testing.kfb import write_kfb
from wsi_detect.testing.ome import write_ome
from wsi_detect.testing.painter import lay_cells, paint_region
from wsi_detect.testing.perfect import classes_of, perfect_table
from wsi_detect.testing.pyramid import write_pyramid
from wsi_detect.testing.sdpc import write_sdpc
from wsi_detect.tiling.grid import TileGrid

WIDTH, HEIGHT = 700, 530


@pytest.fixture(scope="module")
def truth():
    return lay_cells(WIDTH, HEIGHT, 12, seed=5)


@pytest.fixture(scope="module")
def pixels(truth):
    return paint_region(truth, width=WIDTH, height=HEIGHT, seed=5)


@pytest.fixture(scope="module")
def cell_map(truth, small_painted):
    """The painted cells, stitched; some coordinates have more decimals than a format keeps."""
    grid = TileGrid(WIDTH, HEIGHT, 256, 96)
    table = stitch(perfect_table(truth, grid, slide_id="S0123456789"), grid, StitchingConfig(), model_id="painted")
    for name in BOX_COLUMNS:
        shifted = table[name].to_numpy() + 0.123456789
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), [shifted])
    with open_slide(small_painted.path, slide_id="S0123456789") as slide:
        return CellMap(slide.info, table, tuple(classes_of(truth)), "painted")


def write_tiff(path, pixels):
    return write_pyramid(path, lambda y0, y1: pixels[y0:y1], width=WIDTH, height=HEIGHT, mpp=0.25)


def write_image(path, pixels):
    Image.fromarray(pixels).save(path, quality=95)
    return path


#: File → (how to write it, mean error its compression may cause).
SAMPLES = {
    "a.svs": (write_tiff, 3.0),
    "a.ome.tif": (lambda path, pixels: write_ome(path, [pixels, pixels], tile_px=128), 0.0),
    "a.dcm": (lambda path, pixels: write_dicom(path.with_suffix(""), [pixels, pixels], tile_px=128), 0.0),
    "a.kfb": (write_kfb, 3.0),
    "a.sdpc": (write_sdpc, 3.0),
    "a.png": (write_image, 0.0),
    "a.jpg": (write_image, 3.0),
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__.rpartition(".")[2])
def test_reader(reader, pixels, tmp_path):
    tried = 0
    for name, (write, tolerance) in SAMPLES.items():
        path = write(tmp_path / name, pixels)
        if reader.accepts(path):
            check_reader(lambda path=path: reader.open(path, "S0"), pixels, tolerance=tolerance)
            tried += 1
    assert tried, "no sample is of this reader's format: add one to SAMPLES"


@pytest.mark.parametrize("name", IMPORTERS)
def test_importer(name, truth):
    assert name in DIALECTS, "add how to write the truth in this format to DIALECTS in testing/annotation_files.py"
    check_importer(IMPORTERS[name], DIALECTS[name], truth, (WIDTH, HEIGHT))


def read_geojson(path):
    found = []
    for feature in json.loads(path.read_bytes())["features"]:
        ring = np.array(feature["geometry"]["coordinates"][0])
        box = Box(*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist())
        found.append(ReadCell(feature["id"], feature["properties"]["classification"]["name"], box))
    return found


def read_rows(rows):
    return [ReadCell(row["cell_id"], row["label"], Box(*(float(row[name]) for name in BOX_COLUMNS))) for row in rows]


def read_csv(path):
    with path.open(newline="") as stream:
        return read_rows(csv.DictReader(stream))


def read_parquet(path):
    return read_rows(pq.read_table(path).to_pylist())


def read_coco(path):
    content = json.loads(path.read_bytes())
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    found = []
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        found.append(ReadCell(entry["cell_id"], names[entry["category_id"]], Box(x, y, x + width, y + height)))
    return found


def read_geoparquet(path):
    rows = pq.read_table(path).to_pylist()
    return [ReadCell(row["cell_id"], row["label"], Box(*shapely.from_wkb(row["geometry"]).bounds)) for row in rows]


def read_asap(path):
    found = []
    for entry in ElementTree.parse(path).iter("Annotation"):  # noqa: S314 - what was just written
        points = np.array([(float(corner.get("X")), float(corner.get("Y"))) for corner in entry.iter("Coordinate")])
        box = Box(*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
        found.append(ReadCell(entry.get("Name"), entry.get("PartOfGroup"), box))
    return found


def read_dicom(path):
    found = []
    for group in annread(path).AnnotationGroupSequence:
        ids = group.private_block(0x0077, "wsi-detect")[0x01].value.split("\n")
        boxes = [Box(*ring.min(axis=0).tolist(), *ring.max(axis=0).tolist()) for ring in group.get_graphic_data("2D")]
        found += [ReadCell(cell_id, group.label, box) for cell_id, box in zip(ids, boxes, strict=True)]
    return found


def read_sqlite(path):
    with closing(sqlite3.connect(path)) as base:
        base.row_factory = sqlite3.Row
        return read_rows(base.execute("SELECT * FROM cells"))


#: Format → how another program reads it.
READ_BACK = {
    "geojson": read_geojson,
    "csv": read_csv,
    "parquet": read_parquet,
    "geoparquet": read_geoparquet,
    "coco": read_coco,
    "asap": read_asap,
    "dicom": read_dicom,
    "sqlite": read_sqlite,
    **dict.fromkeys(PICTURES),
}


@pytest.mark.parametrize("name", EXPORTERS)
def test_exporter(name, cell_map, tmp_path):
    assert name in READ_BACK, "add how to read this format to READ_BACK"
    check_exporter(EXPORTERS[name], READ_BACK[name], cell_map, tmp_path)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler(name):
    check_sampler(SAMPLERS[name], rebalances=name != "uniform")


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name):
    check_loss(LOSSES[name])


#: Detector → options that make it small; a detector that is not here is tried as it comes.
TINY = {
    "fcos": {
        "first_stage": 2,
        "last_stage": 2,
        "extra_levels": 0,
        "keep_levels": 1,
        "channels": 32,
        "tower_depth": 1,
        "norm": "group",
        "input_scale": 0.5,
    }
}


@pytest.mark.parametrize("name", DETECTORS)
def test_detector(name):
    check_detector(lambda num_classes: DETECTORS[name](num_classes, TINY.get(name, {})))
