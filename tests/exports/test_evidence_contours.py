import importlib.resources
import json

import jsonschema
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsi_detect.exports.evidence_contours import ContourConfig, find_regions, write_contours
from wsi_detect.testing.hand_map import write_map

#: A ring of 5 x 4 px with a hole of one px, a bar of 2, a single px that meets both at corners, another at the edge.
PICTURE = """
. . . . . . . . . .
. 6 6 6 6 6 . . . 9
. 6 . 6 6 6 . . . .
. 6 6 8 6 6 . . . .
. 6 6 6 6 6 . 7 7 .
. . . . . . 6 . . .
? ? . . . . . . . .
"""


def evidence():
    words = {".": 0.1, "?": np.nan}
    rows = [line.split() for line in PICTURE.strip().splitlines()]
    return np.array([[words.get(word, int(word) / 10 if word.isdigit() else 0) for word in row] for row in rows])


@pytest.fixture
def found(tmp_path):
    """Px of 4 slide px of 0.25 µm: 1 µm² each."""
    return write_map(tmp_path, evidence())


def test_regions_of_a_map_with_a_hole(found):
    regions, specks = find_regions(found, ContourConfig(min_area_um2=2, min_hole_um2=0))
    assert specks == 2
    ring, bar = regions
    assert ring.area_um2 == pytest.approx(19)
    assert (ring.mean, ring.highest) == (pytest.approx((18 * 0.6 + 0.8) / 19, abs=1e-4), pytest.approx(0.8, abs=1e-4))
    outer = shapely.box(4, 4, 24, 20)
    hole = shapely.box(8, 8, 12, 12)
    assert ring.outline.equals(outer - hole)
    assert len(ring.outline.interiors) == 1
    # The px below the ring meets the bar at a corner only, and the ring too: regions of their own.
    assert bar.outline.equals(shapely.box(28, 16, 36, 20))
    assert (bar.area_um2, bar.mean) == (pytest.approx(2), pytest.approx(0.7, abs=1e-4))


@pytest.mark.parametrize(
    ("config", "areas", "specks"),
    [
        (ContourConfig(min_area_um2=0, min_hole_um2=0), [19, 2, 1, 1], 0),
        (ContourConfig(min_area_um2=2, min_hole_um2=2), [20, 2], 2),
        (ContourConfig(min_area_um2=3), [20], 3),
        (ContourConfig(threshold=0.65, min_area_um2=0), [2, 1, 1], 0),
        (ContourConfig(threshold=0.95, min_area_um2=0), [], 0),
        (ContourConfig(threshold=0.05, min_area_um2=0), [68], 0),
    ],
)
def test_specks_holes_and_thresholds(found, config, areas, specks):
    regions, left_out = find_regions(found, config)
    assert [region.area_um2 for region in regions] == pytest.approx(areas)
    assert left_out == specks


def test_what_is_written_is_what_qupath_reads(found, tmp_path):
    path = write_contours(
        found, tmp_path / "exports" / "evidence.geojson", ContourConfig(min_area_um2=2, min_hole_um2=0)
    )
    content = json.loads(path.read_bytes())
    schema = (importlib.resources.files("wsi_detect.exports") / "schemas" / "qupath_regions.schema.json").read_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(schema))
    jsonschema.Draft202012Validator(json.loads(schema)).validate(content)
    ring = content["features"][0]
    assert shapely.from_geojson(json.dumps(ring["geometry"])).area == 19 * 16
    assert ring["properties"]["measurements"]["Area µm²"] == 19
    assert ring["properties"]["measurements"]["Threshold"] == 0.5
    assert len({feature["id"] for feature in content["features"]}) == 2
    again = write_contours(found, tmp_path / "b.geojson", ContourConfig(min_area_um2=2, min_hole_um2=0))
    assert again.read_bytes() == path.read_bytes()


def test_a_map_of_nothing_gives_an_empty_collection(tmp_path):
    found = write_map(tmp_path, np.full((5, 5), np.nan))
    path = write_contours(found, tmp_path / "evidence.geojson")
    assert json.loads(path.read_bytes()) == {"type": "FeatureCollection", "features": []}


def test_a_region_across_chunks_and_shards_is_one(tmp_path):
    values = np.zeros((2100, 300), np.float32)
    values[200:2080, 250:262] = 1.0
    (region,), _ = find_regions(write_map(tmp_path, values, px=2.0, patch=512))
    assert region.outline.equals(shapely.box(500, 400, 524, 4160))


@settings(max_examples=25)
@given(arrays(np.float64, (6, 7), elements=st.sampled_from([0.2, 0.7, np.nan])))
def test_regions_cover_the_px_above_and_nothing_else(tmp_path_factory, values):
    found = write_map(tmp_path_factory.mktemp("map"), values)
    regions, _ = find_regions(found, ContourConfig(min_area_um2=0, min_hole_um2=0))
    whole = shapely.union_all([region.outline for region in regions])
    rows, columns = np.nonzero(values == 0.7)
    expected = shapely.union_all(shapely.box(columns * 4, rows * 4, columns * 4 + 4, rows * 4 + 4))
    assert whole.symmetric_difference(expected).area == 0
    assert sum(region.area_um2 for region in regions) == pytest.approx(len(rows))
    assert all(region.outline.is_valid for region in regions)
