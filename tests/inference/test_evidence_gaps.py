"""Maps of whole slides where something could not be read, or has no usable answer: that is not evidence of nothing."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_evidence import INFO, TinyNet, TornSlide, mapped

from wsi_detect.errors import ModelError
from wsi_detect.inference.evidence import map_evidence
from wsi_detect.inference.windows import Demand, look
from wsi_detect.slides.resample import RegionPixels
from wsi_detect.tiling.patch_store import PatchStore


class Spoilt(TinyNet):
    """Says nothing usable about every window whose first px is as given."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def __call__(self, patches):
        maps = super().__call__(patches)
        maps[0, 20, 20] = self.values
        return maps


def test_a_patch_without_usable_answer_is_no_evidence_of_nothing(stores, slide, tmp_path):
    store = PatchStore.open(stores(), slide)
    found, values = mapped(store, tmp_path, Spoilt(np.nan), batch_size=1)
    states = found.columns["state"]
    assert found.attributes["states"]["failed"] == (states == 3).sum() > 0
    assert np.isnan(found.columns["core_max"][states == 3]).all()
    sight = look(store, Demand(0.25, 0.02, INFO.margin_px, 4, 4))
    for (x0, y0, x1, y1), state in zip(sight.blocks, states, strict=True):
        block = values[y0:y1, x0:x1]
        assert np.isnan(block).all() if state == 3 else np.isfinite(block).all()


def test_values_beyond_0_and_1_are_refused(stores, slide, tmp_path):
    with pytest.raises(ModelError, match=r"tiny@1 gives values from .* to 2; evidence lies in"):
        map_evidence(PatchStore.open(stores(), slide), Spoilt(2.0), tmp_path)


@pytest.mark.parametrize(("reduce", "mpp"), [(1, 0.25), (4, 0.25), (3, 0.31)])
def test_px_that_a_torn_block_has_a_say_in_are_not_looked_at(stores, slide, tmp_path, reduce, mpp):
    """All others have the value they have on a slide that is whole."""
    model = TinyNet(replace(INFO, mpp=mpp))
    _, whole_map = mapped(PatchStore.open(stores("none", 0), slide), tmp_path / "whole", model, reduce=reduce)
    torn = TornSlide(slide, 0, 0, 192, 128)
    found, values = mapped(
        PatchStore.open(stores("none", 0), torn), tmp_path / "torn", model, reduce=reduce, max_unreadable=0.9
    )
    unseen = np.isnan(values)
    np.testing.assert_allclose(values[~unseen], whole_map[~unseen], atol=1e-4)
    # What the model sees of the block, 15 px of its own around it, and no more than a px of the map and the filter.
    reach, px = INFO.margin_px * mpp / 0.25, found.px
    near, far = (
        [np.arange(count) < (edge + reach + more) / px for count, edge in zip(unseen.shape, (128, 192), strict=True)]
        for more in (-px, px + 5)
    )
    assert unseen[np.ix_(*near)].all()
    assert not unseen[~(far[0][:, None] & far[1])].any()
    assert 0.4 < unseen.mean() < 0.7
    # Patches of which nothing is left have no answer; of others the highest is of what was looked at.
    assert found.attributes["states"]["unreadable"] > 0
    assert found.columns["core_max"][found.columns["state"] == 1].max() <= 1


def test_what_cannot_be_read_is_not_shown(stores, slide, tmp_path):
    """The block of a window of which too much is lost, whoever owns its px."""
    rows = {}
    for most in (0.1, 0.9):
        store = PatchStore.open(stores("none", 0), TornSlide(slide, 0, 0, 192, 64))
        model = TinyNet()
        found, values = mapped(store, tmp_path / str(most), model, max_unreadable=most)
        rows[most] = np.flatnonzero(found.columns["state"] == 2)
        over = np.flatnonzero(found.columns["unreadable"] > most)
        assert set(over) <= set(rows[most])
        assert sum(shape[0] for shape in model.shown) == len(store) - len(over)
        sight = look(store, Demand(0.25, 0.02, INFO.margin_px, 4, 4))
        for x0, y0, x1, y1 in sight.blocks[rows[most]]:
            assert np.isnan(values[y0:y1, x0:x1]).all()
    assert len(rows[0.1]) > len(rows[0.9])


def test_a_stored_patch_that_lost_something_is_not_looked_at(stores, slide, tmp_path):
    """Which px those were is not kept, only how many."""
    store = PatchStore.open(stores(), slide)
    plain = PatchStore.read

    class Torn(PatchStore):
        def read(self, row, window=None, out=None):
            region = plain(self, row, window, out)
            return RegionPixels(region.rgb, 0.0, 0.01) if row == 7 else region

    torn = Torn(**{name: getattr(store, name) for name in store.__dataclass_fields__})
    model = TinyNet()
    found, values = mapped(torn, tmp_path, model)
    assert [int(row) for row in np.flatnonzero(found.columns["state"] == 2)] == [7]
    assert found.columns["unreadable"][7] == np.float32(0.01)
    assert sum(shape[0] for shape in model.shown) == len(store) - 1
    sight = look(store, Demand(0.25, 0.02, INFO.margin_px, 4, 4))
    x0, y0, x1, y1 = sight.blocks[7]
    assert np.isnan(values[y0:y1, x0:x1]).all()
    assert np.isnan(values).sum() == (y1 - y0) * (x1 - x0)
