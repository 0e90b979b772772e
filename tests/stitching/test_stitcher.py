import json
from pathlib import Path

import numpy as np
import pytest

from wsi_detect import artifact, schema
from wsi_detect.errors import (
    ConfigError,
    DamagedArtifactError,
    MissingArtifactError,
    NonFiniteError,
    StaleArtifactError,
    UnmappedLabelError,
)
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.stitching.cell_map import CellMap
from wsi_detect.stitching.pairs import overlapping
from wsi_detect.stitching.stitcher import StitchingConfig, stitch, stitch_detections
from wsi_detect.tiling.grid import TileGrid

# Two patches, 0-100 and 60-160: they share 60-100, the seam is at 80, cores grow by 0.15 * 40 = 6.
GRID = TileGrid(width=160, height=100, patch=100, overlap=40)
SLIDE = SlideInfo("S1", Path("name-of-a-patient.svs"), 160, 100, 0.5, "file", (1.0,))
CONFIG = StitchingConfig()


def row(patch, box, label="NILM", score=0.8, class_scores=None):
    return {
        "slide_id": "S1",
        "patch_id": patch,
        **dict(zip(schema.BOX_COLUMNS, map(float, box), strict=True)),
        "label": label,
        "score": score,
        "class_scores": class_scores,
    }


def cells_of(*rows, config=CONFIG):
    result = stitch(artifact.table_of(list(rows), schema.DETECTIONS), GRID, config, model_id="m")
    return [
        ([cell[name] for name in schema.BOX_COLUMNS], cell["label"], round(cell["score"], 3), cell["support"])
        for cell in result.to_pylist()
    ]


# A cell whole in both patches; another whole in patch 0 of which patch 1 shows the right part.
SHARED = [72, 10, 88, 30]
LEFT, LEFT_PART = [50, 10, 80, 30], [60, 10, 80, 30]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(0, SHARED, score=0.7), row(1, SHARED, score=0.8)], [(SHARED, "NILM", 0.8, 2)]),
        # The whole box founds the cell, and scores it, although its part scores higher.
        ([row(0, LEFT, score=0.4), row(1, LEFT_PART, score=0.9)], [(LEFT, "NILM", 0.4, 2)]),
        # What lies beyond the core, grown by the margin, founds no cell.
        ([row(1, [60, 10, 80, 30])], []),
        ([row(1, [66, 10, 84, 30])], [([66, 10, 84, 30], "NILM", 0.8, 1)]),
        # Within a patch the detector has decided.
        (
            [row(0, [10, 10, 30, 30]), row(0, [11, 10, 31, 30])],
            [([10, 10, 30, 30], "NILM", 0.8, 1), ([11, 10, 31, 30], "NILM", 0.8, 1)],
        ),
        # Two neighbours in a clump, both seen twice: each finds itself.
        (
            [row(p, b) for p in (0, 1) for b in (SHARED, [76, 10, 92, 30])],
            [(SHARED, "NILM", 0.8, 2), ([76, 10, 92, 30], "NILM", 0.8, 2)],
        ),
        # A piece larger than the overlap, whole nowhere: one cell, the larger piece.
        ([row(0, [40, 10, 100, 30]), row(1, [60, 10, 110, 30])], [([40, 10, 100, 30], "NILM", 0.8, 2)]),
        # No area, no cell.
        ([row(0, [10, 10, 10, 30])], []),
    ],
)
def test_views_become_cells(rows, expected):
    assert cells_of(*rows) == expected


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("LSIL", 0.55), ("HSIL", 0.50), ("HSIL", 0.50)),
        (("NILM", 0.80), ("HSIL", 0.70), ("HSIL", 0.70)),
        (("NILM", 0.80), ("HSIL", 0.69), ("NILM", 0.80)),
        (("NILM", 0.60), ("HSIL", 0.90), ("HSIL", 0.90)),
        (("SCC", 0.61), ("ADC", 0.60), ("SCC", 0.61)),
    ],
)
def test_the_graver_class_wins_within_the_margin(first, second, expected):
    assert cells_of(row(0, SHARED, *first), row(1, SHARED, *second)) == [(SHARED, *expected, 2)]


@pytest.mark.parametrize(
    ("whole", "part", "expected"),
    [
        (("HSIL", 0.60), ("NILM", 0.95), ("HSIL", 0.60)),
        (("NILM", 0.60), ("HSIL", 0.55), ("HSIL", 0.55)),
        (("NILM", 0.60), ("HSIL", 0.45), ("NILM", 0.60)),
    ],
)
def test_a_cut_view_may_raise_the_gravity_but_not_lower_it(whole, part, expected):
    assert cells_of(row(0, LEFT, *whole), row(1, LEFT_PART, *part)) == [(LEFT, *expected, 2)]


def test_classes_can_be_kept_apart():
    rows = [row(0, SHARED, "LSIL", 0.5), row(1, SHARED, "HSIL", 0.4)]
    apart = cells_of(*rows, config=StitchingConfig(class_agnostic=False))
    assert [cell[1] for cell in apart] == ["HSIL", "LSIL"]


def test_the_highest_score_of_every_class_is_kept():
    rows = [
        row(0, SHARED, "LSIL", 0.5, [0.25, 0.5]),
        row(1, SHARED, "NILM", 0.75, [0.75, 0.25]),
        row(0, [10, 10, 20, 20]),
    ]
    result = stitch(artifact.table_of(rows, schema.DETECTIONS), GRID, CONFIG, model_id="m")
    assert result["class_scores"].to_pylist() == [None, [0.75, 0.5]]


def test_ids_are_stable_unique_and_depend_on_slide_model_class_and_box():
    def identity(*rows, model="m"):
        return stitch(artifact.table_of(list(rows), schema.DETECTIONS), GRID, CONFIG, model_id=model)[
            "cell_id"
        ].to_pylist()

    base = row(0, SHARED)
    assert identity(base) == identity({**base, "score": 0.1})
    others = [
        identity(base),
        identity(base, model="n"),
        identity({**base, "slide_id": "S2"}),
        identity({**base, "label": "HSIL"}),
        identity(row(0, [72, 10, 88, 31])),
    ]
    assert len({found[0] for found in others}) == 5
    assert len(set(identity(base, base))) == 2


@pytest.mark.parametrize(
    "bad",
    [
        {"x0_px": float("nan")},
        {"y1_px": float("inf")},
        {"score": float("nan")},
        {"class_scores": [0.5, float("nan")]},
        {"class_scores": [float("-inf"), float("-inf")]},
    ],
)
def test_what_is_not_finite_is_refused_and_the_patch_named(bad):
    rows = [row(0, SHARED, class_scores=[0.1, 0.2]), {**row(1, SHARED, class_scores=[0.1, 0.2]), **bad}]
    with pytest.raises(NonFiniteError, match=r"in patch 1; .*run detect again"):
        cells_of(*rows)


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        ([row(2, SHARED)], StaleArtifactError, "patch 2 is not in the grid of 2 patches"),
        ([row(0, [120, 10, 140, 30])], StaleArtifactError, "patch 0 holds a box"),
        ([row(0, SHARED, "CELL")], UnmappedLabelError, "'CELL' is not in the taxonomy"),
        (
            [row(0, SHARED, class_scores=[0.1]), row(1, SHARED, class_scores=[0.1, 0.2])],
            DamagedArtifactError,
            r"\[1, 2\] class scores",
        ),
    ],
)
def test_detections_that_do_not_fit_are_refused(rows, error, text):
    with pytest.raises(error, match=text):
        cells_of(*rows)


def write_parts(folder, *parts, classes=("NILM", "HSIL")):
    for k, rows in enumerate(parts):
        table = artifact.table_of(list(rows), schema.DETECTIONS)
        artifact.write_table(
            folder / f"part-{k:05d}.parquet", table, schema.DETECTIONS, {"classes": json.dumps(classes)}
        )
    return folder


def test_parts_are_stitched_and_the_map_is_written(tmp_path):
    folder = write_parts(tmp_path / "detections", [row(0, SHARED)], [], [row(1, SHARED), row(1, [120, 20, 140, 40])])
    cells = stitch_detections(folder, GRID, SLIDE, tmp_path, StitchingConfig(largest_cell_um=20), model_id="m")
    assert cells.classes == ("NILM", "HSIL")
    assert cells.table["support"].to_pylist() == [2, 1]
    again = CellMap.read(tmp_path / "cells.parquet")
    assert again.table.equals(cells.table)
    assert (again.classes, again.model_id, again.slide.mpp) == (cells.classes, "m", 0.5)
    assert b"patient" not in (tmp_path / "cells.parquet").read_bytes()


def test_parts_without_detections_give_an_empty_map(tmp_path):
    cells = stitch_detections(write_parts(tmp_path / "d", []), GRID, SLIDE, tmp_path, CONFIG, model_id="m")
    assert (len(cells), cells.counts(), cells.boxes().shape) == (0, {}, (0, 4))
    assert CellMap.read(tmp_path / "cells.parquet").table.schema.equals(schema.CELLS)


def test_a_missing_part_is_an_error_not_an_empty_slide(tmp_path):
    folder = write_parts(tmp_path / "detections", [row(0, SHARED)], [row(1, SHARED)], [])
    (folder / "part-00001.parquet").unlink()
    with pytest.raises(MissingArtifactError, match="part-00001"):
        stitch_detections(folder, GRID, SLIDE, tmp_path, CONFIG, model_id="m")
    with pytest.raises(MissingArtifactError, match="part-00000"):
        stitch_detections(tmp_path / "nowhere", GRID, SLIDE, tmp_path, CONFIG, model_id="m")


def test_no_parts_are_right_when_no_patch_was_to_be_looked_at(tmp_path):
    artifact.write_table(tmp_path / "patches.parquet", artifact.empty_table(schema.PATCHES), schema.PATCHES)
    assert len(stitch_detections(tmp_path / "detections", GRID, SLIDE, tmp_path, CONFIG, model_id="m")) == 0


def test_parts_of_another_slide_or_detector_are_refused(tmp_path):
    with pytest.raises(StaleArtifactError, match="slide S9, not of S1"):
        stitch_detections(
            write_parts(tmp_path / "a", [{**row(0, SHARED), "slide_id": "S9"}]),
            GRID,
            SLIDE,
            tmp_path,
            CONFIG,
            model_id="m",
        )
    folder = write_parts(tmp_path / "b", [row(0, SHARED)], [])
    table = artifact.empty_table(schema.DETECTIONS)
    artifact.write_table(folder / "part-00001.parquet", table, schema.DETECTIONS, {"classes": '["HSIL"]'})
    with pytest.raises(DamagedArtifactError, match="other classes"):
        stitch_detections(folder, GRID, SLIDE, tmp_path, CONFIG, model_id="m")


def test_an_overlap_that_cannot_hold_the_largest_cell_is_refused_in_micrometres(tmp_path):
    folder = write_parts(tmp_path / "detections", [row(0, SHARED)])
    with pytest.raises(ConfigError, match=r"overlap by 20\.0 µm .* is 25 µm"):
        stitch_detections(folder, GRID, SLIDE, tmp_path, StitchingConfig(largest_cell_um=25), model_id="m")
    assert not (tmp_path / "cells.parquet").exists()


def test_cells_lie_along_the_curve():
    # Four quarters of a slide: down on the left, up on the right; equal boxes by class.
    grid = TileGrid(width=160, height=160, patch=160, overlap=40)
    corners = [(10, 10), (10, 90), (90, 90), (90, 10)]
    rows = [row(0, [x, y, x + 20, y + 20], name) for x, y in corners[::-1] for name in ("NILM", "HSIL")]
    result = stitch(artifact.table_of(rows, schema.DETECTIONS), grid, CONFIG, model_id="m").to_pylist()
    found = [(cell["x0_px"], cell["y0_px"], cell["label"]) for cell in result]
    assert found == [(x, y, name) for x, y in corners for name in ("HSIL", "NILM")]


def test_pairs_are_found_whatever_the_sizes_of_boxes():
    rng = np.random.default_rng(3)
    corner = rng.random((300, 2)) * 1000
    boxes = np.hstack([corner, corner + rng.choice([1.0, 20.0, 900.0], (300, 2), p=[0.4, 0.55, 0.05])])
    patch = rng.integers(0, 5, 300)
    first, second = overlapping(boxes.T, patch, np.arange(300))
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    expected = np.argwhere(np.triu((low < high).all(axis=2) & (patch[:, None] != patch[None]), k=1))
    found = np.sort(np.column_stack([first, second]), axis=1)
    assert found[np.lexsort(found.T[::-1])].tolist() == expected.tolist()


def test_a_box_off_by_less_than_a_pixel_is_cut_to_its_patch():
    assert cells_of(row(0, [-0.4, 10, 20, 30])) == [([0, 10, 20, 30], "NILM", 0.8, 1)]
