from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_detect.errors import ConfigError
from wsi_detect.tiling.grid import TileGrid, check_overlap


@pytest.mark.parametrize(
    ("grid", "origins"),
    [
        (TileGrid(width=5, height=2, patch=2, overlap=0), [[0, 0], [2, 0], [3, 0]]),
        (TileGrid(width=4, height=4, patch=2, overlap=0), [[0, 0], [2, 0], [0, 2], [2, 2]]),
        (TileGrid(width=4, height=2, patch=2, overlap=1), [[0, 0], [1, 0], [2, 0]]),
        (TileGrid(width=3, height=2, patch=8, overlap=4), [[0, 0]]),
        (TileGrid(width=8, height=8, patch=8, overlap=7), [[0, 0]]),
        (TileGrid(width=11, height=2, patch=6, overlap=2, align=4), [[0, 0], [4, 0], [8, 0]]),
        (TileGrid(width=11, height=2, patch=6, overlap=2, align=2), [[0, 0], [4, 0], [6, 0]]),
        (TileGrid(width=6, height=2, patch=6, overlap=2, align=4), [[0, 0]]),
        (TileGrid(width=11, height=2, patch=4, overlap=0, shift=2), [[0, 0], [2, 0], [6, 0], [7, 0]]),
        (TileGrid(width=5, height=2, patch=4, overlap=0, shift=2), [[0, 0], [1, 0]]),
        (TileGrid(width=4, height=2, patch=4, overlap=0, shift=2), [[0, 0]]),
        (TileGrid(width=15, height=2, patch=6, overlap=2, align=2, shift=2), [[0, 0], [2, 0], [6, 0], [10, 0]]),
    ],
)
def test_origins(grid, origins):
    assert grid.origins().tolist() == origins
    assert len(grid) == len(origins)
    assert grid.shape[0] * grid.shape[1] == len(origins)


def test_cores_meet_halfway_through_the_overlap():
    grid = TileGrid(width=10, height=6, patch=6, overlap=2)
    assert grid.cores().tolist() == [[0, 0, 5, 6], [5, 0, 10, 6]]


def test_a_patch_hangs_over_a_smaller_slide_but_its_box_does_not():
    grid = TileGrid(width=3, height=2, patch=8, overlap=0)
    assert grid.boxes().tolist() == [[0, 0, 3, 2]]
    assert grid.cores().tolist() == [[0, 0, 3, 2]]


@pytest.mark.parametrize(
    ("width", "height", "overlap", "align", "shift"),
    [
        (0, 5, 0, 1, 0),
        (5, -1, 0, 1, 0),
        (5, 5, 4, 1, 0),
        (5, 5, -1, 1, 0),
        (5, 5, 1, 2, 0),
        (5, 5, 1, 1, 3),
        (5, 5, 1, 1, -1),
        (5, 5, 0, 2, 1),
    ],
)
def test_impossible_grids_are_refused(width, height, overlap, align, shift):
    with pytest.raises(ValueError, match=r"overlap must lie|at least one pixel|not a multiple|shift must be"):
        TileGrid(width=width, height=height, patch=4, overlap=overlap, align=align, shift=shift)


@st.composite
def grids(draw):
    patch = draw(st.integers(20, 300))
    # A stride of at least a quarter of the patch keeps the number of patches small.
    stride = draw(st.integers(-(-patch // 4), patch))
    align = draw(st.sampled_from([step for step in range(1, stride + 1) if stride % step == 0]))
    return TileGrid(
        width=draw(st.integers(1, 1000)),
        height=draw(st.integers(1, 1000)),
        patch=patch,
        overlap=patch - stride,
        align=align,
        shift=align * draw(st.integers(0, stride // align - 1)),
    )


@settings(deadline=None)
@given(grid=grids(), seed=st.integers(0, 2**32 - 1))
def test_every_point_has_one_owner_and_every_core_lies_in_its_patch(grid, seed):
    cores, origins = grid.cores(), grid.origins()
    assert len(cores) == len(origins) == len(grid)
    points = np.random.default_rng(seed).random((20, 2)) * [grid.width, grid.height]
    inside = (points[:, None] >= cores[:, :2]) & (points[:, None] < cores[:, 2:])
    assert (inside.all(axis=2).sum(axis=1) == 1).all()
    assert (cores[:, :2] >= origins).all()
    assert (cores[:, 2:] <= origins + grid.patch).all()
    assert (cores[:, 2:] > cores[:, :2]).all()
    assert np.isclose((cores[:, 2:] - cores[:, :2]).prod(axis=1).sum(), grid.width * grid.height)


@settings(deadline=None)
@given(grid=grids())
def test_neighbours_overlap_by_at_least_the_overlap(grid):
    for length in (grid.width, grid.height):
        line = replace(grid, width=length, height=1)
        starts = line.origins()[:, 0]
        assert (np.diff(starts) <= grid.patch - grid.overlap).all()
        assert (np.diff(starts) > 0).all()
        assert starts[0] == 0
        assert 0 <= starts[-1] + grid.patch - length < max(grid.align, grid.patch - length + 1)
        assert (starts % grid.align == 0).all()


@pytest.mark.parametrize(
    ("overlap_px", "mpp", "cell_um", "fits"),
    [(200, 0.25, 50, True), (199, 0.25, 50, False), (0, 0.25, 0, True), (0, 0.5, 20, False), (100, 0.5, 50, True)],
)
def test_an_overlap_that_cannot_hold_a_cell_is_refused(overlap_px, mpp, cell_um, fits):
    if fits:
        check_overlap(overlap_px, mpp, cell_um)
        return
    with pytest.raises(ConfigError, match=f"largest cell expected is {cell_um} µm; set tiling.overlap_um to at least"):
        check_overlap(overlap_px, mpp, cell_um)
