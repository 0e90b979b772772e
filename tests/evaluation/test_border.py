"""How deep cells lie in their patches, recall by depth, and what audits say of several slides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.errors import LabelError
from wsi_detect.evaluation.border import FoundCells, border_audit, found_cells, grid_change, patch_depth
from wsi_detect.evaluation.fields import FieldPrediction, FieldTruth
from wsi_detect.run.audit import _with_share
from wsi_detect.tiling.grid import TileGrid

#: Two patches of 100 px with an overlap of 20: [0, 100) and [80, 180) along x.
PAIR = TileGrid(180, 100, 100, 20)
INF = float("inf")


@pytest.mark.parametrize(
    ("box", "depth"),
    [
        ([10, 10, 20, 20], 80),  # 100 is the only border of the first patch
        ([70, 10, 90, 30], 10),  # the first holds it, 10 px from its border
        ([85, 10, 95, 30], 5),  # 5 px from either border
        ([90, 10, 98, 30], 10),  # the second holds it deeper: 90 - 80
        ([0, 0, 180, 100], -80),  # every patch cuts it by 80 px
        ([70, 10, 110, 50], -10),
        ([170, 90, 180, 100], 90),  # in the far corner of the slide: only the border at 80 counts
        ([300, 10, 310, 20], None),  # in no patch
    ],
)
def test_depth_by_hand(box, depth):
    result = patch_depth(np.array([box], float), PAIR.boxes(), 180, 100)
    assert result == pytest.approx(np.array([np.nan if depth is None else depth]), nan_ok=True)


def test_one_patch_has_no_border_and_no_box_has_no_depth():
    grid = TileGrid(80, 60, 100, 20)
    assert patch_depth(np.array([[0, 0, 80, 60], [5, 5, 9, 9]]), grid.boxes(), 80, 60).tolist() == [INF, INF]
    assert patch_depth(np.zeros((0, 4)), grid.boxes(), 80, 60).shape == (0,)
    assert np.isnan(patch_depth(np.array([[0, 0, 9, 9]]), np.zeros((0, 4)), 80, 60)).all()


@given(
    st.integers(60, 400),
    st.integers(60, 400),
    st.integers(50, 120),
    st.integers(10, 40),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(1, 9),
)
@settings(max_examples=100, deadline=None)
def test_a_cell_no_larger_than_the_overlap_is_whole_in_some_patch(width, height, patch, overlap, u, v, side):
    grid = TileGrid(width, height, patch, overlap)
    x, y = u * (width - side), v * (height - side)
    box = np.array([[x, y, x + side, y + side]])
    depth = patch_depth(box, grid.boxes(), width, height)[0]
    assert depth >= -1e-9
    # Beside the definition, written plainly.
    best = -INF
    for x0, y0, x1, y1 in grid.boxes():
        if x0 <= box[0, [0, 2]].mean() <= x1 and y0 <= box[0, [1, 3]].mean() <= y1:
            low = [now - edge for now, edge in ((x, x0), (y, y0)) if edge > 0]
            high = [edge - now - side for now, edge, rim in ((x, x1, width), (y, y1, height)) if edge < rim]
            best = max(best, min(low + high, default=INF))
    assert depth == pytest.approx(best)


def truth(rows, name="a", size=(180, 100)) -> FieldTruth:
    return FieldTruth(name, *size, np.array(rows, float).reshape(-1, 4), ["HSIL"] * len(rows))


def test_cells_are_found_whatever_their_class_and_only_where_shown():
    rows = [[10, 10, 20, 20], [85, 10, 95, 30], [120, 40, 140, 60]]
    found = FieldPrediction("a", np.array(rows, float), np.array([0.9, 0.2, 0.5]), ["NILM", "HSIL", "HSIL"])
    cells = found_cells([found], [truth(rows), truth([], "b")], {"a": PAIR.boxes(), "b": PAIR.boxes()}, min_score=0.5)
    assert cells.depth_px.tolist() == [80, 5, 40]
    assert cells.found.tolist() == [True, False, True]
    assert (cells.image.tolist(), cells.images) == ([0, 0, 0], 2)


def test_images_without_patches_or_size_are_named():
    with pytest.raises(LabelError, match="image a: its patches are not given"):
        found_cells([], [truth([])], {}, min_score=0.5)
    with pytest.raises(LabelError, match="image a: its size is not known"):
        found_cells([], [truth([], size=(0, 0))], {"a": PAIR.boxes()}, min_score=0.5)


def cells(depth, found, image, images=None) -> FoundCells:
    number = max(image, default=-1) + 1 if images is None else images
    return FoundCells(np.array(depth, float), np.array(found, bool), np.array(image, np.int64), number)


def test_bands_by_hand():
    given_cells = cells([-5, 0, 31.9, 32, 64, 500, INF, np.nan], [0, 1, 0, 1, 1, 1, 0, 1], [0, 0, 1, 1, 0, 1, 1, 0])
    audit = border_audit(given_cells, replicates=100)
    assert [(band.low_px, band.high_px, band.cells, band.recall) for band in audit.bands] == [
        (-INF, 0, 1, 0.0),
        (0, 32, 2, 0.5),
        (32, 64, 1, 1.0),
        (64, INF, 3, pytest.approx(2 / 3)),
    ]
    assert audit.difference == pytest.approx(2 / 3 - 2 / 4)
    assert audit.unseen == 1
    # Image 0 alone: interior 1 of 1, rim 1 of 2. Image 1 alone: interior 1 of 2, rim 1 of 2.
    assert (audit.interval.low, audit.interval.high) == (pytest.approx(0.0), pytest.approx(0.5))
    # The shallowest cell is in image 0; a draw in four has image 1 twice.
    assert 10 <= audit.bands[0].interval.undefined <= 40


def test_no_cell_and_no_image():
    for empty in (cells([], [], []), cells([], [], [], 3), cells([np.nan], [1], [0], 3)):
        audit = border_audit(empty, [0.0], replicates=20)
        assert [(band.cells, band.recall) for band in audit.bands] == [(0, None), (0, None)]
        assert (audit.difference, audit.interval.low) == (None, None)
    assert audit.unseen == 1


def test_a_detector_blind_at_borders_is_caught_and_a_sound_one_is_not():
    random = np.random.default_rng(0)
    depth, image = random.uniform(0, 200, 4000), np.repeat(np.arange(40), 100)
    groups = (np.arange(40) // 4).tolist()
    blind = random.random(4000) < np.where(depth < 32, 0.6, 0.9)
    sound = random.random(4000) < 0.9
    audit = border_audit(cells(depth, blind, image), [32.0], groups=groups, replicates=300)
    assert audit.interval.low > 0.2
    audit = border_audit(cells(depth, sound, image), [32.0], groups=groups, replicates=300)
    assert audit.interval.low < 0 < audit.interval.high


def audit_of(cells, classes) -> dict:
    """What `wsi-detect audit` writes of a slide, by its own function for the shares."""
    return {"cells": _with_share(cells), "classes": {name: _with_share(counts) for name, counts in classes.items()}}


AUDITS = [
    audit_of(
        {"first": 10, "second": 9, "same": 7, "renamed": 1, "first_only": 2, "second_only": 1},
        {
            "HSIL": {
                "first": 4,
                "second": 4,
                "same": 3,
                "renamed_from": 1,
                "renamed_to": 0,
                "first_only": 0,
                "second_only": 1,
            }
        },
    ),
    audit_of({"first": 5, "second": 5, "same": 5, "renamed": 0, "first_only": 0, "second_only": 0}, {}),
]


def test_audits_are_pooled():
    change = grid_change(AUDITS, replicates=200)
    assert (change.cells, change.changed) == (16, pytest.approx(4 / 16))
    # Of one slide the share is that of its own audit.
    assert grid_change(AUDITS[:1]).changed == pytest.approx(AUDITS[0]["cells"]["changed"], abs=1e-6)
    assert (change.interval.low, change.interval.high) == (0.0, pytest.approx(4 / 11))
    hsil = grid_change(AUDITS, "HSIL", replicates=200)
    assert (hsil.cells, hsil.changed) == (5, pytest.approx(2 / 5))
    assert hsil.changed == pytest.approx(AUDITS[0]["classes"]["HSIL"]["changed"])
    assert hsil.interval.undefined > 20
    assert grid_change([]).changed is None
    assert grid_change(AUDITS, "SCC").changed is None
    # One patient's two slides are one group: nothing is known of how patients differ.
    assert grid_change(AUDITS, groups=["p", "p"]).interval.low is None
