"""The bags of patches drawn under the labels of slides."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wsi_detect.data.augment import augmenter
from wsi_detect.data.bags import BagDataset, BagLoader, BagRule, LabelledSlide
from wsi_detect.errors import LabelError
from wsi_detect.geometry import PatchFrame


class Numbered:
    """Patches whose every px is the number of slide and patch; the slide ends within them."""

    patch_px, mpp = 64, 1.0

    def __init__(self, slide, patches, width=48):
        self.number, self.patches = slide, patches
        self.slide = SimpleNamespace(width_px=width, height_px=1000)

    def __len__(self):
        return self.patches

    def frame(self, i):
        return PatchFrame(0.0, 0.0, 1.0)

    def read(self, i, window=None):
        x0, y0, x1, y1 = window or (0, 0, 64, 64)
        rgb = np.full((y1 - y0, x1 - x0, 3), 10 * self.number + i, np.uint8)
        rgb[:, max(self.slide.width_px - x0, 0) :] = 255
        return SimpleNamespace(rgb=rgb)


def _slides(positive=3, negative=2, patches=4):
    count = positive + negative
    return [LabelledSlide(str(k), Numbered(k, patches), np.array([k < positive])) for k in range(count)]


def _dataset(slides, bags=4, patches=3, share=0.5, steps=6, seed=0):
    augment = augmenter("flip", 32, aim=0.0)
    return BagDataset(slides, BagRule(bags, patches, share), steps, augment=augment, seed=seed)


def test_a_bag_is_of_one_slide_and_has_its_label():
    for batch in map(_dataset(_slides()).__getitem__, range(6)):
        assert batch.images.shape == (12, 3, 32, 32)
        values = batch.images[:, 0, 0, 0].view(4, 3)
        slides = values // 10
        assert bool((slides == slides[:, :1]).all())
        # No patch twice where there are enough.
        assert all(len(set(row)) == 3 for row in values.tolist())
        assert batch.targets[:, 0].tolist() == (slides[:, 0] < 3).float().tolist()
        assert sum(batch.targets[:, 0].tolist()) == 2
        # Nothing beyond the edge of the slide.
        assert int(batch.images.max()) < 255


@pytest.mark.parametrize(("share", "most"), [(0.25, 1), (0.5, 2), (0.6, 3), (0.75, 3)])
def test_the_share_of_bags_with_a_region(share, most):
    counts = [int(_dataset(_slides(), share=share, steps=40)[k].targets.sum()) for k in range(40)]
    assert max(counts) == most
    assert np.mean(counts) == pytest.approx(4 * share, abs=0.3)


def test_a_slide_of_fewer_patches_than_a_bag_gives_them_again():
    batch = _dataset(_slides(patches=1))[0]
    assert batch.images.shape[0] == 12


def test_a_step_follows_from_seed_and_number():
    one, same, other = _dataset(_slides()), _dataset(_slides()), _dataset(_slides(), seed=1)
    assert all(torch.equal(one[k].images, same[k].images) for k in (3, 1, 5))
    assert not all(torch.equal(one[k].images, other[k].images) for k in range(6))


def test_a_loader_goes_on_where_it_stopped():
    whole = [batch.images for batch in BagLoader(_dataset(_slides()))]
    first = BagLoader(_dataset(_slides()))
    handed = iter(first)
    begun = [next(handed).images for _ in range(2)]
    assert first.state_dict() == {"steps": 2}
    second = BagLoader(_dataset(_slides()))
    second.load_state_dict(first.state_dict())
    rest = [batch.images for batch in second]
    assert len(whole) == 6
    assert len(rest) == 4
    assert all(torch.equal(a, b) for a, b in zip(whole, begun + rest, strict=True))
    # The next round is a whole one.
    assert second.state_dict() == {"steps": 0}
    assert len(list(second)) == 6


@pytest.mark.parametrize(("positive", "negative"), [(0, 3), (3, 0)])
def test_slides_of_one_kind_teach_nothing(positive, negative):
    with pytest.raises(LabelError, match=f"of 3 slides {negative} are fully negative"):
        _dataset(_slides(positive, negative))
