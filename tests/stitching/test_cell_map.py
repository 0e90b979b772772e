import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_detect import artifact, schema
from wsi_detect.errors import DamagedArtifactError, MissingArtifactError, MissingResolutionError
from wsi_detect.geometry import Box
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching import cell_map, queries
from wsi_detect.stitching.cell_map import CellMap, cell_order

OUTLINE = shapely.to_wkb(shapely.Point(50, 50).buffer(5))
LABELS = np.array(["HSIL", "LSIL", "NILM"])


def slide(width=2000, height=1000, mpp=0.5):
    return SlideInfo("S1", Path("x.svs"), width, height, mpp, "file" if mpp else "missing", (1.0,))


@pytest.fixture
def cells():
    rows = [
        ("a", 0, 0, 10, 20, "NILM", 0.5, None),
        ("b", 45, 45, 55, 55, "HSIL", 0.9, OUTLINE),
        ("c", 100, 60, 130, 90, "NILM", 0.75, None),
    ]
    names = ("cell_id", *schema.BOX_COLUMNS, "label", "score", "geometry")
    fixed = {"slide_id": "S1", "class_scores": None, "support": 1}
    table = artifact.table_of([{**dict(zip(names, row, strict=True)), **fixed} for row in rows], schema.CELLS)
    return CellMap(slide(), table, ("NILM", "HSIL"), "m")


def map_of(boxes, *, info=None, seed=0):
    """A map of given boxes (N, 4), classes and scores by lot; ids are the row numbers."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    lot, number = np.random.default_rng(seed), len(boxes)
    columns = {
        "cell_id": [str(k) for k in range(number)],
        "slide_id": ["S1"] * number,
        **dict(zip(schema.BOX_COLUMNS, boxes.T, strict=True)),
        "label": LABELS[lot.integers(0, 3, number)].tolist(),
        "score": lot.uniform(0, 1, number).astype(np.float32),
        "class_scores": pa.nulls(number, pa.list_(pa.float32())),
        "support": np.ones(number, np.int32),
        "geometry": pa.nulls(number, pa.binary()),
        "members": pa.nulls(number, pa.list_(pa.int64())),
    }
    return CellMap(info or slide(), pa.table(columns, schema=schema.CELLS), (), "m")


def ids(cells):
    return cells.table["cell_id"].to_pylist()


def deposit(number, side=100_000):
    """Cells of 20 to 120 px on a round deposit nine tenths of a square slide wide."""
    lot = np.random.default_rng(7)
    angle, radius = lot.uniform(0, 2 * np.pi, number), 0.45 * side * np.sqrt(lot.uniform(0, 1, number))
    middle = side / 2 + np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    half = lot.uniform(10, 60, (number, 2))
    return map_of(np.hstack([middle - half, middle + half]), info=slide(side, side, 0.25))


def test_counts_put_the_gravest_class_first(cells):
    assert list(cells.counts().items()) == [("HSIL", 1), ("NILM", 2)]
    assert len(cells) == 3


def test_density_is_per_square_millimetre(cells):
    # The slide is 1 mm by 0.5 mm.
    assert cells.density_per_mm2() == {"HSIL": 2.0, "NILM": 4.0}
    assert cells.density_per_mm2(area_um2=250_000) == {"HSIL": 4.0, "NILM": 8.0}
    with pytest.raises(ValueError, match="positive"):
        cells.density_per_mm2(area_um2=0)


def test_density_of_a_region_counts_what_is_in_it_on_its_area_within_the_slide(cells):
    # 60 x 60 px within the slide are 0.0009 mm².
    for region in (Box(-40, -40, 60, 60), shapely.box(-40, -40, 60, 60)):
        density = cells.density_per_mm2(region=region)
        assert {name: round(value, 6) for name, value in density.items()} == {
            "HSIL": round(1 / 0.0009, 6),
            "NILM": round(1 / 0.0009, 6),
        }
    with pytest.raises(ValueError, match="positive"):
        cells.density_per_mm2(region=Box(-40, -40, -10, -10))
    with pytest.raises(ValueError, match="not both"):
        cells.density_per_mm2(1.0, region=Box(0, 0, 1, 1))


def test_without_a_resolution_lengths_and_densities_say_what_to_do(cells):
    unknown = CellMap(slide(mpp=None), cells.table)
    with pytest.raises(MissingResolutionError, match="--mpp"):
        unknown.density_per_mm2()
    with pytest.raises(MissingResolutionError, match="--mpp"):
        unknown.nearest_neighbours()


@pytest.mark.parametrize(
    ("labels", "min_score", "expected"),
    [
        (None, None, ["a", "b", "c"]),
        (["NILM"], None, ["a", "c"]),
        (None, 0.75, ["b", "c"]),
        ({"NILM", "SCC"}, 0.6, ["c"]),
        ([], None, []),
    ],
)
def test_filter(cells, labels, min_score, expected):
    assert ids(cells.filter(labels=labels, min_score=min_score)) == expected


def test_at_its_edge_the_map_is_pandas_and_shapely(cells):
    assert list(cells.to_pandas()["label"]) == ["NILM", "HSIL", "NILM"]
    shapes = cells.to_shapely()
    assert [shape.bounds for shape in shapes] == [(0, 0, 10, 20), (45, 45, 55, 55), (100, 60, 130, 90)]
    assert [round(shape.area) for shape in shapes] == [200, 78, 900]
    assert len(cells.filter(labels=[]).to_shapely()) == 0
    assert [row["cell_id"] for row in cells.rows(chunk=2)] == ["a", "b", "c"]


def test_what_was_written_is_read_and_no_file_name_travels(cells, tmp_path):
    again = CellMap.read(cells.write(tmp_path / "cells.parquet"))
    assert again.table.equals(cells.table)
    assert (again.classes, again.model_id) == (("NILM", "HSIL"), "m")
    assert (again.slide.slide_id, again.slide.width_px, again.slide.mpp, again.slide.path) == ("S1", 2000, 0.5, Path())


def test_a_file_that_is_no_cell_map_is_refused(cells, tmp_path):
    with pytest.raises(MissingArtifactError):
        CellMap.read(tmp_path / "cells.parquet")
    pq.write_table(pa.table(cells.table.columns, schema=schema.CELLS), tmp_path / "bare.parquet")
    with pytest.raises(DamagedArtifactError, match="slide facts"):
        CellMap.read(tmp_path / "bare.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DamagedArtifactError, match="Parquet"):
        CellMap.read(tmp_path / "text.parquet", Box(0, 0, 1, 1))


def test_rows_are_written_along_the_curve_whatever_order_they_came_in(tmp_path):
    cells = deposit(3000)
    lot = np.random.default_rng(1)
    written = set()
    for name in ("a", "b", "c"):
        shuffled = CellMap(cells.slide, cells.table.take(lot.permutation(len(cells))), (), "m")
        written.add(shuffled.write(tmp_path / name).read_bytes())
    again = CellMap.read(tmp_path / "a")
    assert len(written) == 1
    assert np.array_equal(cell_order(again.table, again.slide), np.arange(3000))
    steps = np.abs(np.diff(queries.centres(again.boxes()), axis=0)).sum(axis=1)
    assert np.median(steps) < 3000  # 100,000 px wide: from top to bottom it would be about 30,000
    assert sorted(ids(again)) == sorted(ids(cells))


@pytest.mark.parametrize("number", [0, 1, 511, 513, 5000])
def test_row_groups_are_small_and_know_the_extent_of_their_boxes(tmp_path, number):
    metadata = pq.read_metadata(deposit(number).write(tmp_path / "cells.parquet"))
    groups = [metadata.row_group(k) for k in range(metadata.num_row_groups)]
    assert sum(group.num_rows for group in groups) == number
    assert all(group.num_rows <= 512 for group in groups)
    edges = [group.column(metadata.schema.names.index("x0_px")).statistics for group in groups if group.num_rows]
    assert all(edge.has_min_max for edge in edges)


def test_a_large_map_has_no_more_groups_than_its_index_should_list(tmp_path, monkeypatch):
    monkeypatch.setattr(cell_map, "_GROUPS", 4)
    monkeypatch.setattr(cell_map, "_LEAST_ROWS", 8)
    monkeypatch.setattr(cell_map, "_MOST_ROWS", 100)
    for number, expected in ((20, 3), (200, 4), (1000, 10)):
        assert pq.read_metadata(deposit(number).write(tmp_path / "cells.parquet")).num_row_groups == expected


def with_ids_and_class_scores(cells):
    """The same map as a detector of eight classes gives it: ids of 36 characters, scores of every class."""
    lot, number = np.random.default_rng(3), len(cells)
    table = cells.table
    names = [str(uuid.UUID(bytes=lot.bytes(16))) for _ in range(number)]
    scores = lot.uniform(0, 1, (number, 8)).astype(np.float32)
    for name, values in (("cell_id", names), ("class_scores", list(scores))):
        column = table.schema.get_field_index(name)
        table = table.set_column(column, schema.CELLS.field(name), pa.array(values, schema.CELLS.field(name).type))
    return CellMap(cells.slide, table, tuple("abcdefgh"), "m")


def bytes_of(group):
    return sum(group.column(k).total_compressed_size for k in range(group.num_columns))


def test_a_window_of_a_hundredth_of_the_slide_reads_less_than_a_twentieth_of_the_file(tmp_path):
    cells = with_ids_and_class_scores(deposit(200_000))
    path = cells.write(tmp_path / "cells.parquet")
    boxes, whole, metadata = cells.boxes(), path.stat().st_size, pq.read_metadata(path)
    shares = []
    for x in np.linspace(5_000, 85_000, 15):
        for y in np.linspace(5_000, 85_000, 15):
            window = Box(x, y, x + 10_000, y + 10_000)
            groups = queries.groups_meeting(metadata, window)
            shares.append(sum(bytes_of(metadata.row_group(k)) for k in groups) / whole)
            if len(shares) % 50 == 1:
                expected = cells.table.filter(pa.array(queries.meets(window, boxes)))
                assert sorted(ids(CellMap.read(path, window))) == sorted(expected["cell_id"].to_pylist())
    assert max(shares) < 0.05
    # With what every reader must read first, the file's index, it holds on average.
    assert np.mean(shares) + metadata.serialized_size / whole < 0.05


def test_a_file_without_statistics_is_read_whole_and_filtered(cells, tmp_path):
    path = cells.write(tmp_path / "cells.parquet")
    pq.write_table(pq.read_table(path), tmp_path / "other.parquet", write_statistics=False)
    assert ids(CellMap.read(tmp_path / "other.parquet", Box(40, 40, 110, 61))) == ["b", "c"]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (Box(0, 0, 2000, 1000), ["a", "b", "c"]),
        (Box(10, 0, 45, 100), []),  # edges touch: nothing is shared
        (Box(9.5, 19.5, 45.5, 45.5), ["a", "b"]),
        (Box(120, 80, 121, 81), ["c"]),  # inside a cell
        (Box(-500, -500, 1, 1), ["a"]),
        (Box(5000, 5000, 6000, 6000), []),
    ],
)
def test_a_window_gives_the_boxes_that_share_area_with_it(cells, tmp_path, window, expected):
    path = cells.write(tmp_path / "cells.parquet")
    found = CellMap.read(path, window)
    assert ids(found) == ids(cells.within(window, touching=True)) == expected
    assert ids(cells.within(shapely.box(*window), touching=True)) == expected
    assert (found.slide.slide_id, found.classes) == ("S1", ("NILM", "HSIL"))


@pytest.mark.parametrize(
    "region",
    [
        Box(10, 0, 10, 5),
        Box(10, 0, 5, 5),
        Box(float("nan"), 0, 5, 5),
        shapely.Point(1, 1),
        shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)]),
    ],
)
def test_a_region_that_encloses_nothing_is_refused(cells, tmp_path, region):
    with pytest.raises(ValueError, match=r"window|region|polygon"):
        cells.within(region)
    with pytest.raises(ValueError, match=r"window|region|polygon"):
        cells.density_per_mm2(region=region)
    if isinstance(region, Box):
        with pytest.raises(ValueError, match="x0 < x1"):
            CellMap.read(cells.write(tmp_path / "cells.parquet"), region)


def test_a_cell_lies_where_its_middle_does(cells):
    # The middles are (5, 10), (50, 50), (115, 75).
    assert ids(cells.within(Box(5, 10, 50, 50))) == ["a"]
    assert ids(cells.within(Box(50, 50, 2000, 1000))) == ["b", "c"]
    assert ids(cells.within(shapely.Polygon([(0, 0), (60, 0), (60, 100)]))) == ["b"]
    assert ids(cells.within(shapely.Polygon([(0, 0), (60, 0), (60, 100)]), touching=True)) == ["a", "b"]
    ring = shapely.box(0, 0, 200, 200) - shapely.box(40, 40, 60, 60)
    assert ids(cells.within(ring)) == ids(cells.within(ring, touching=True)) == ["a", "c"]
    both = shapely.MultiPolygon([shapely.box(0, 0, 20, 20), shapely.box(110, 70, 120, 80)])
    assert ids(cells.within(both)) == ["a", "c"]
    assert ids(cells.within(shapely.Polygon())) == []


def test_the_tree_is_built_once(cells, monkeypatch):
    built = []
    tree = shapely.STRtree
    monkeypatch.setattr(shapely, "STRtree", lambda *given: built.append(1) or tree(*given))
    for _ in range(3):
        cells.within(shapely.box(0, 0, 20, 20))
        cells.within(shapely.box(0, 0, 20, 20), touching=True)
    cells.within(Box(0, 0, 20, 20))
    assert built == [1]


coordinate = st.integers(-5, 40).map(lambda value: value / 2)
box = st.tuples(coordinate, coordinate, st.integers(0, 12), st.integers(0, 12)).map(
    lambda given: (given[0], given[1], given[0] + given[2] / 2, given[1] + given[3] / 2)
)
# The slide is 16 x 12 px: boxes and windows lie in it, across its edges and outside.
boxes_anywhere = st.lists(box, max_size=40)
window_anywhere = box.map(lambda given: Box(given[0], given[1], given[2] + 0.5, given[3] + 0.5))


@given(boxes_anywhere, window_anywhere)
def test_windows_give_what_looking_at_each_box_gives(tmp_path_factory, boxes, window):
    cells = map_of(boxes, info=slide(16, 12))
    shared = [
        str(k)
        for k, (x0, y0, x1, y1) in enumerate(boxes)
        if min(x1, window.x1) > max(x0, window.x0) and min(y1, window.y1) > max(y0, window.y0)
    ]
    inside = [
        str(k)
        for k, (x0, y0, x1, y1) in enumerate(boxes)
        if window.x0 <= (x0 + x1) / 2 < window.x1 and window.y0 <= (y0 + y1) / 2 < window.y1
    ]
    outline = shapely.box(*window)
    on_or_in = [str(k) for k, row in enumerate(boxes) if outline.intersects(shapely.Point(middle(row)))]
    assert ids(cells.within(window, touching=True)) == ids(cells.within(outline, touching=True)) == shared
    assert ids(cells.within(window)) == inside
    assert ids(cells.within(outline)) == on_or_in
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_map, "_LEAST_ROWS", 4)
        patch.setattr(cell_map, "_GROUPS", 100)
        path = cells.write(tmp_path_factory.mktemp("cells") / "cells.parquet")
    assert sorted(ids(CellMap.read(path, window))) == sorted(shared)


def middle(row):
    return (row[0] + row[2]) / 2, (row[1] + row[3]) / 2


@given(boxes_anywhere, coordinate, coordinate, st.integers(1, 45))
def test_the_nearest_cells_are_those_of_the_sorted_distances(boxes, x, y, k):
    distances = [float(np.hypot(*np.subtract(middle(row), (x, y)))) for row in boxes]
    order = sorted(range(len(boxes)), key=lambda row: (round(distances[row] ** 2 * 16), row))
    assert ids(map_of(boxes).nearest(x, y, k)) == [str(row) for row in order[:k]]


@given(boxes_anywhere)
def test_each_cell_knows_how_far_the_nearest_other_is(boxes):
    middles = np.array([middle(row) for row in boxes]).reshape(-1, 2)
    apart = np.linalg.norm(middles[:, None] - middles[None], axis=2) + np.diag(np.full(len(boxes), np.inf))
    expected = apart.min(axis=1, initial=np.inf) * 0.5
    np.testing.assert_allclose(map_of(boxes).nearest_neighbours(), expected, rtol=1e-12)


def test_neighbours_are_micrometres_apart(cells):
    # Middles (5, 10), (50, 50), (115, 75) at 0.5 µm per px.
    first, second = 0.5 * np.hypot(45, 40), 0.5 * np.hypot(65, 25)
    np.testing.assert_allclose(cells.nearest_neighbours(), [first, first, second])
    assert cells.filter(labels=["HSIL"]).nearest_neighbours().tolist() == [np.inf]
    assert cells.filter(labels=[]).nearest_neighbours().tolist() == []


def test_nobody_is_nearest_on_an_empty_map(cells):
    empty = cells.filter(labels=[])
    assert (
        len(empty.nearest(0, 0, 3))
        == len(empty.within(shapely.box(0, 0, 9, 9)))
        == len(empty.within(Box(0, 0, 9, 9)))
        == 0
    )
    assert empty.counts() == {}
    assert empty.density_per_mm2() == {}
    with pytest.raises(ValueError, match="at least"):
        cells.nearest(0, 0, 0)


def test_an_empty_map_travels_too(cells, tmp_path):
    path = cells.filter(labels=[]).write(tmp_path / "cells.parquet")
    for again in (CellMap.read(path), CellMap.read(path, Box(0, 0, 10, 10))):
        assert len(again) == 0
        assert again.table.schema.equals(schema.CELLS)
