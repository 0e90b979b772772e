import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_detect.tiling.evidence_grid import MapGrid, area_means, grown, lay_windows
from wsi_detect.tiling.grid import TileGrid

GRIDS = st.builds(
    lambda width, height, patch, overlap, shift: TileGrid(
        width, height, patch, overlap * patch // 100, shift=shift % (patch - overlap * patch // 100)
    ),
    st.integers(1, 400),
    st.integers(1, 400),
    st.integers(8, 150),
    st.integers(0, 80),
    st.integers(0, 100),
)


@given(GRIDS, st.floats(0.3, 20))
def test_blocks_tile_the_map(grid, px):
    laid = MapGrid(grid, px)
    height, width = laid.shape
    owners = np.zeros((height, width), int)
    for x0, y0, x1, y1 in laid.blocks():
        assert x0 <= x1
        assert y0 <= y1
        owners[y0:y1, x0:x1] += 1
    assert (owners == 1).all()
    # The map covers the slide, but for less than a hundredth of a px.
    assert width * px >= grid.width - 0.02 * px
    assert (width - 1) * px < grid.width


@given(GRIDS, st.floats(0.3, 20))
def test_a_px_belongs_to_the_core_its_centre_lies_in(grid, px):
    laid = MapGrid(grid, px)
    for core, (x0, y0, x1, y1) in zip(grid.cores(), laid.blocks(), strict=True):
        if x1 > x0 and y1 > y0:
            first, last = (np.array([x0, y0]) + 0.5) * px, (np.array([x1, y1]) - 0.5) * px
            assert (first >= core[:2] - 1e-3 * px).all()
            assert (np.minimum(last, [grid.width, grid.height]) <= core[2:] + 1e-3 * px).all()


@given(GRIDS, st.floats(0.5, 4), st.integers(0, 60), st.sampled_from([1, 4, 16, 32]), st.integers(1, 5))
def test_windows_hold_their_block_and_its_margin(grid, scale, margin, stride, reduce):
    laid = MapGrid(grid, scale * reduce)
    blocks = laid.blocks()
    windows = lay_windows(laid, blocks, scale, margin, stride)
    slide = np.array([grid.width, grid.height]) / scale
    assert windows.side % stride == 0
    assert (windows.corners % stride == 0).all()
    assert (windows.corners >= 0).all()
    assert (windows.corners <= windows.needed[:, :2] + 1e-3).all()
    assert (windows.corners + windows.side >= windows.needed[:, 2:] - 1e-3).all()
    # Nothing but the last lattice step of a window lies beyond a slide larger than it.
    beyond = windows.corners + windows.side - slide
    assert (beyond[:, slide > windows.side] < stride + 1e-3).all()
    for (x0, y0, x1, y1), needed in zip(laid.extents(blocks) / scale, windows.needed, strict=True):
        assert needed == pytest.approx(
            [max(x0 - margin, 0), max(y0 - margin, 0), min(x1 + margin, slide[0]), min(y1 + margin, slide[1])]
        )


def test_blocks_of_a_row_written_out():
    """Patches of 60 px at 0, 40, 80 and 100 (shifted inwards): cores end at 50, 90 and 120."""
    grid = TileGrid(160, 60, 60, 20)
    assert grid.cores()[:, [0, 2]].tolist() == [[0, 50], [50, 90], [90, 120], [120, 160]]
    # The centre of px 12 is 50: it lies in the core that begins there.
    assert MapGrid(grid, 4.0).blocks()[:, [0, 2]].tolist() == [[0, 12], [12, 22], [22, 30], [30, 40]]
    assert MapGrid(grid, 4.0).shape == (15, 40)


@pytest.mark.parametrize(
    ("low", "high", "mean"),
    [(0, 2, 1.5), (1, 2, 2.0), (0.5, 1.5, 1.5), (0.25, 1.0, 1.0), (1.5, 3.5, 3.75), (0, 4, 3.0)],
)
def test_means_weigh_px_by_what_lies_in_the_span(low, high, mean):
    values = np.array([1.0, 2.0, 4.0, 5.0])
    assert area_means(values, np.array([low]), np.array([high]))[0] == pytest.approx(mean)


@given(st.integers(2, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_means_of_a_partition_keep_the_sum(count, parts, seed):
    rng = np.random.default_rng(seed)
    values = rng.random((count, 3))
    edges = np.concatenate([[0.0], np.sort(rng.random(parts - 1)) * count, [count]])
    edges = edges[np.concatenate([[True], np.diff(edges) > 1e-4])]
    edges[-1] = count
    means = area_means(values, edges[:-1], edges[1:])
    np.testing.assert_allclose((means * np.diff(edges)[:, None]).sum(axis=0), values.sum(axis=0), atol=1e-5 * count)


def test_a_mask_grows_by_as_many_px_to_each_side():
    mask = np.zeros((7, 9), bool)
    mask[1, 6] = True
    assert (grown(mask, 0) == mask).all()
    assert np.argwhere(grown(mask, 2)).tolist() == [[y, x] for y in range(4) for x in range(4, 9)]
    assert grown(mask, 20).all()
    assert not grown(np.zeros((3, 4), bool), 2).any()
