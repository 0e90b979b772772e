"""Focal planes: the one asked for, the middle one, the sharpest one of each patch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from wsi_detect.errors import DamagedSlideError, UnsupportedSlideError
from wsi_detect.slides import open_slide
from wsi_detect.slides.planes import plane_of
from wsi_detect.slides.reader import SlideInfo
from wsi_detect.testing.ome import write_ome
from wsi_detect.testing.painter import lay_cells, paint_region
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

SIDE = 512


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """Five planes: cells on the left half are sharp in plane 1, those on the right half in plane 4."""
    cells = lay_cells(SIDE, SIDE, 60, seed=3)
    sharp = Image.fromarray(paint_region(cells, width=SIDE, height=SIDE, seed=3))
    planes = []
    for plane in range(5):
        left, right = (np.asarray(sharp.filter(ImageFilter.GaussianBlur(2 * abs(plane - best)))) for best in (1, 4))
        planes.append(np.hstack([left[:, : SIDE // 2], right[:, SIDE // 2 :]]))
    return write_ome(tmp_path_factory.mktemp("stack") / "stack.ome.tif", planes, levels=2, tile_px=128)


@pytest.mark.parametrize(
    ("choice", "place", "plane"),
    [
        ("sharpest", (0, 0, 256), 1),
        ("sharpest", (256, 128, 256), 4),
        ("sharpest", (0, 256, 200), 1),
        ("middle", (0, 0, 256), 2),
        (0, (0, 0, 256), 0),
        (4, (0, 0, 256), 4),
    ],
)
def test_the_plane_is_what_was_asked_for(choice, place, plane, stack):
    with open_slide(stack) as slide:
        assert [plane_of(slide, choice, *place) for _ in range(2)] == [plane, plane]


@pytest.mark.parametrize("choice", [-1, 5, 100])
def test_a_plane_that_is_not_there_is_refused(choice, stack):
    with (
        open_slide(stack) as slide,
        pytest.raises(UnsupportedSlideError, match=rf"5 focal plane.*not a plane {choice}"),
    ):
        plane_of(slide, choice, 0, 0, 64)


class Stack:
    """A slide of one grey checked pattern a plane; `contrasts` says how strong, None that it cannot be decoded."""

    def __init__(self, contrasts):
        self.contrasts, self.read = contrasts, []
        self.info = SlideInfo("S", None, 100, 100, None, "missing", (1.0,), focal_planes=len(contrasts))

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        self.read.append((x_px, y_px, level, width, height, plane))
        if self.contrasts[plane] is None:
            raise DamagedSlideError("no")
        check = np.indices((height, width)).sum(0) // 2 % 2
        return np.repeat((100 + check * self.contrasts[plane])[..., None], 3, -1).astype(np.uint8), None


@pytest.mark.parametrize(
    ("contrasts", "plane"),
    [
        ([0, 0, 0, 0, 0], 2),
        ([0, 0, 0, 0], 2),
        ([9, 0, 0, 0, 9], 0),
        ([9, 9, 0, 0, 9], 1),
        ([9, 9, 0, 9, 9], 1),
        ([100, 0, 99.9, 0, 0], 2),
        ([50, 0, 40, 0, 0], 0),
        ([None, 5, None, 0, 0], 1),
        ([None, None, None], 1),
        ([7], 0),
    ],
)
def test_of_equals_the_middle_most(contrasts, plane):
    assert plane_of(Stack(contrasts), "sharpest", 0, 0, 100) == plane


@pytest.mark.parametrize(
    ("size", "window"), [(100, (25, 25, 0, 50, 50)), (2000, (744, 744, 0, 512, 512)), (1, (0, 0, 0, 1, 1))]
)
def test_only_the_middle_is_looked_at(size, window):
    slide = Stack([1, 2, 3])
    plane_of(slide, "sharpest", 0, 0, size)
    assert slide.read == [(*window, plane) for plane in range(3)]


def test_one_plane_is_not_looked_at():
    slide = Stack([5])
    assert [plane_of(slide, choice, 0, 0, 100) for choice in ("middle", "sharpest", 0)] == [0, 0, 0]
    assert slide.read == []


@given(st.lists(st.integers(0, 100), min_size=1, max_size=9))
def test_none_is_clearly_sharper_than_the_chosen(contrasts):
    chosen = plane_of(Stack(contrasts), "sharpest", 0, 0, 64)
    assert contrasts[chosen] ** 2 >= 0.97 * max(contrasts) ** 2


def test_the_sharpest_plane_is_stored_and_recorded(stack, tmp_path):
    config = TilingConfig(patch_px=256, overlap_um=16, shard_patches=4, codec="zstd", plane="sharpest")
    store = tile_slide(stack, tmp_path / "out", config)
    planes = store.columns["plane"].astype(int)
    assert set(planes) <= {1, 4}
    assert len(set(planes)) == 2
    with open_slide(stack) as slide:
        for row, plane in enumerate(planes):
            x, y = (int(value) for value in store.origin_px[row])
            stored, read = store.read(row).rgb, slide.read_region(x, y, 0, 256, 256, plane=plane)[0]
            assert (stored == read).all()
