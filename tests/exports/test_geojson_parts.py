"""GeoJSON of large slides: several files, together all cells in order, and nothing left of an earlier export."""

import gzip
import json

import pytest

from wsi_detect.exports import geojson
from wsi_detect.exports.exporter import ExportConfig, export_cells

CASES = {
    "none": (None, ["cells{}"]),
    "as many as there are": (3, ["cells{}"]),
    "two and one": (2, ["cells-001{}", "cells-002{}"]),
    "one each": (1, ["cells-001{}", "cells-002{}", "cells-003{}"]),
}


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz"])
@pytest.mark.parametrize(("limit", "names"), CASES.values(), ids=CASES)
def test_files_are_split_by_number_of_cells(cell_map, ids, limit, names, suffix, tmp_path):
    names = [name.format(suffix) for name in names]
    assert geojson.write(cell_map(), tmp_path / f"cells{suffix}", max_cells_per_file=limit) == tmp_path / names[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    read = gzip.open if suffix.endswith(".gz") else open
    found = []
    for name in names:
        with read(tmp_path / name) as stream:
            found.append([feature["id"] for feature in json.load(stream)["features"]])
    assert [cell_id for part in found for cell_id in part] == ids
    assert all(len(part) <= (limit or 3) for part in found)


@pytest.mark.parametrize("limit", [None, 2, 3])
def test_an_earlier_export_leaves_nothing(cell_map, limit, tmp_path):
    others = {"cells.geojson.gz", "cells-1.geojson", "more-cells-001.geojson", "cells-001.geojson.txt", "x.csv"}
    for name in others:
        (tmp_path / name).write_text("kept")
    path = tmp_path / "cells.geojson"
    geojson.write(cell_map(), path, max_cells_per_file=1)
    geojson.write(cell_map(), path, max_cells_per_file=limit)
    expected = {"cells-001.geojson", "cells-002.geojson"} if limit == 2 else {"cells.geojson"}
    assert {entry.name for entry in tmp_path.iterdir()} == expected | others


def test_no_cells_are_one_file(cell_map, tmp_path):
    path = geojson.write(cell_map(number=0), tmp_path / "S.1.geojson", max_cells_per_file=1)
    assert json.loads(path.read_text()) == {"type": "FeatureCollection", "features": []}


def test_options_reach_the_files(cell_map, tmp_path):
    config = ExportConfig(gzip=True, max_cells_per_file=2)
    path = export_cells(cell_map(), tmp_path, "geojson", config)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cells-001.geojson.gz", "cells-002.geojson.gz"]
    assert path == tmp_path / "cells-001.geojson.gz"
