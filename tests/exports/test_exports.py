import csv
import gzip
import importlib.resources
import json

import jsonschema
import pandas as pd
import pytest
import shapely

from wsi_detect import schema
from wsi_detect.errors import ConfigError
from wsi_detect.exports import EXPORTERS
from wsi_detect.exports.exporter import export_cells

TRIANGLE = shapely.Polygon([(45, 45), (55, 45), (50, 55)])


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def validator():
    text = (importlib.resources.files("wsi_detect.exports") / "schemas" / "qupath.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(text))
    return jsonschema.Draft202012Validator(json.loads(text))


def test_every_format_carries_the_same_ids(cell_map, ids, tmp_path):
    cells = cell_map()
    paths = {name: export_cells(cells, tmp_path, name) for name in EXPORTERS}
    assert {name: path.name for name, path in paths.items()} == {
        "geojson": "cells.geojson",
        "csv": "cells.csv",
        "parquet": "cells.parquet",
        "geoparquet": "cells.geo.parquet",
        "coco": "cells.json",
        "asap": "cells.xml",
        "dicom": "cells.dcm",
        "sqlite": "cells.sqlite",
        "heatmap": "cells.heatmap.tif",
        "heatmap_png": "cells.heatmap.png",
    }
    assert [feature["id"] for feature in json.loads(paths["geojson"].read_text())["features"]] == ids
    assert [row["cell_id"] for row in read_csv(paths["csv"])] == ids
    assert list(pd.read_parquet(paths["parquet"])["cell_id"]) == ids
    assert [entry["cell_id"] for entry in json.loads(paths["coco"].read_text())["annotations"]] == ids
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths.values())
    assert not any(b"Jane" in path.read_bytes() for path in paths.values())


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_equal_cells_are_equal_bytes(cell_map, name, tmp_path):
    first, second = (export_cells(cell_map(), tmp_path / folder, name).read_bytes() for folder in "ab")
    assert first == second


def test_geojson_is_what_qupath_reads(cell_map, boxes, validator, tmp_path):
    content = json.loads(export_cells(cell_map(), tmp_path, "geojson").read_text())
    validator.validate(content)
    first, second, third = content["features"]
    assert first["geometry"]["coordinates"] == [[[0, 0.25], [10.5, 0.25], [10.5, 20], [0, 20], [0, 0.25]]]
    assert first["properties"] == {
        "objectType": "detection",
        "classification": {"name": "NILM", "color": [0, 114, 178]},
        "measurements": {
            "Score": 0.9,
            "Support": 2,
            "Width µm": 5.25,
            "Height µm": 9.875,
            "Score NILM": 0.9,
            "Score HSIL": 0.25,
        },
    }
    assert shapely.from_geojson(json.dumps(second["geometry"])).equals(TRIANGLE)
    assert third["properties"]["measurements"] == {"Score": 0.35, "Support": 4, "Width µm": 15, "Height µm": 14.938}
    found = [shapely.from_geojson(json.dumps(feature["geometry"])).bounds for feature in content["features"]]
    assert found == boxes


@pytest.mark.parametrize("number", [0, 1, 3])
def test_geojson_is_valid_for_any_number_of_cells_and_packed(cell_map, number, validator, tmp_path):
    plain = export_cells(cell_map(number=number), tmp_path / "cells.geojson", "geojson")
    packed = export_cells(cell_map(number=number), tmp_path / "cells.geojson.gz", "geojson")
    assert packed.name == "cells.geojson.gz"
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    content = json.loads(plain.read_text())
    validator.validate(content)
    assert len(content["features"]) == number


@pytest.mark.parametrize(
    "change",
    [
        {"id": "PathDetectionObject"},
        {"geometry": {"type": "Point", "coordinates": [1, 2]}},
        {"geometry": {"type": "Polygon", "coordinates": [[[-1, 0], [1, 0], [1, 1], [-1, 0]]]}},
        {"properties": {"objectType": "cell"}},
    ],
)
def test_the_kept_schema_refuses_what_qupath_would_misread(cell_map, change, validator, tmp_path):
    content = json.loads(export_cells(cell_map(number=1), tmp_path, "geojson").read_text())
    content["features"][0].update(change)
    assert not validator.is_valid(content)


def test_csv_has_pixels_and_micrometres(cell_map, ids, tmp_path):
    rows = read_csv(export_cells(cell_map(), tmp_path, "csv"))
    assert rows[0] == {
        "cell_id": ids[0], "slide_id": "S1", "label": "NILM", "score": "0.9", "support": "2",
        "x0_px": "0", "y0_px": "0.25", "x1_px": "10.5", "y1_px": "20",
        "x0_um": "0", "y0_um": "0.125", "x1_um": "5.25", "y1_um": "10",
        "width_um": "5.25", "height_um": "9.875", "score_NILM": "0.9", "score_HSIL": "0.25",
    }  # fmt: skip
    assert (rows[2]["score_NILM"], rows[2]["score_HSIL"]) == ("", "")


def test_micrometres_are_empty_when_the_resolution_is_unknown(cell_map, tmp_path, validator):
    cells = cell_map(mpp=None)
    assert [row["width_um"] for row in read_csv(export_cells(cells, tmp_path, "csv"))] == ["", "", ""]
    content = json.loads(export_cells(cells, tmp_path, "geojson").read_text())
    validator.validate(content)
    assert "Width µm" not in content["features"][0]["properties"]["measurements"]


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_text_never_starts_a_formula(cell_map, text, tmp_path):
    rows = read_csv(export_cells(cell_map(slide_id=text), tmp_path, "csv"))
    assert rows[0]["slide_id"] == f"'{text}".replace("\r", " ")
    assert pd.read_parquet(export_cells(cell_map(slide_id=text), tmp_path, "parquet"))["slide_id"][0] == text


def test_parquet_holds_full_precision_and_outlines(cell_map, boxes, tmp_path):
    frame = pd.read_parquet(export_cells(cell_map(), tmp_path, "parquet"))
    assert [tuple(row) for row in frame[list(schema.BOX_COLUMNS)].to_numpy()] == boxes
    assert list(frame["geometry"]) == [None, shapely.to_wkb(TRIANGLE), None]


def test_coco_has_the_slide_as_its_image(cell_map, ids, tmp_path):
    content = json.loads(export_cells(cell_map(), tmp_path, "coco").read_text())
    assert content["images"] == [{"id": 1, "file_name": "S1", "width": 200, "height": 100, "mpp": 0.5}]
    assert [(entry["id"], entry["name"]) for entry in content["categories"]] == [
        (1, "NILM"), (2, "HSIL"), (3, "TRICHOMONAS"),
    ]  # fmt: skip
    assert [entry["category_id"] for entry in content["annotations"]] == [1, 2, 3]
    assert content["annotations"][2] == {
        "id": 3, "image_id": 1, "category_id": 3, "bbox": [100, 60.125, 30, 29.875], "area": 896.25, "iscrowd": 0,
        "segmentation": [], "score": 0.35, "cell_id": ids[2],
    }  # fmt: skip
    assert json.loads(export_cells(cell_map(number=0), tmp_path, "coco").read_text())["annotations"] == []


@pytest.mark.parametrize("name", list(EXPORTERS))
def test_no_cells_are_a_file_without_rows(cell_map, name, tmp_path):
    assert export_cells(cell_map(number=0), tmp_path, name).stat().st_size > 0


def test_an_unknown_format_names_the_nearest(cell_map, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'geojson'"):
        export_cells(cell_map(), tmp_path, "geojsn")


PLACES = {
    "a folder": ("geojson", "results", "results/cells.geojson"),
    "a file": ("geojson", "a/b.geojson", "a/b.geojson"),
    "packed": ("geojson", "b.geojson.gz", "b.geojson.gz"),
    "a short ending": ("sqlite", "b.db", "b.db"),
    "an ending of two formats": ("geoparquet", "b.parquet", "b.parquet"),
    "capitals": ("heatmap", "B.TIF", "B.TIF"),
    "a folder with a dot": ("csv", "v1.2", "v1.2/cells.csv"),
    "a folder that is there": ("csv", "there.csv", "there.csv/cells.csv"),
}


@pytest.mark.parametrize(("name", "out", "path"), PLACES.values(), ids=PLACES)
def test_where_a_file_goes(cell_map, name, out, path, tmp_path):
    (tmp_path / "there.csv").mkdir()
    assert export_cells(cell_map(), tmp_path / out, name) == tmp_path / path
    assert (tmp_path / path).is_file()


@pytest.mark.parametrize(("name", "out"), [("csv", "cells.geojson"), ("geojson", "cells.csv"), ("asap", "a.json")])
def test_a_file_name_of_another_format_is_refused(cell_map, name, out, tmp_path):
    with pytest.raises(ConfigError, match=f"{out}: {name} files end in "):
        export_cells(cell_map(), tmp_path / out, name)
    assert list(tmp_path.iterdir()) == []
