"""NEGEV's terms and seeders: what counts, what is drawn, and two processes as one."""

import importlib
import math
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes

from wsi_detect.losses.negative_evidence import (
    BACKGROUND,
    IGNORE,
    REGION,
    NegativeEvidenceLoss,
    SeedRule,
    draw_seeds,
    full_negative,
    log_barrier,
    partial_cross_entropy,
    size_barrier,
)


def logits_of(region):
    """Two channels whose softmax gives these probabilities of the region."""
    p = torch.tensor(region, dtype=torch.float64)
    return torch.stack([torch.log(1 - p), torch.log(p)], dim=1)


NO, YES = torch.tensor([False]), torch.tensor([True])


def test_only_seeded_pixels_count():
    logits = logits_of([[[0.8, 0.3], [0.5, 0.9]]])
    seeds = torch.tensor([[[REGION, BACKGROUND], [IGNORE, IGNORE]]])
    expected = -(math.log(0.8) + math.log(0.7)) / 2
    assert partial_cross_entropy(logits, seeds, YES).item() == pytest.approx(expected)
    assert partial_cross_entropy(logits, seeds, NO).item() == 0
    assert partial_cross_entropy(logits, torch.full_like(seeds, IGNORE), YES).item() == 0


def test_a_negative_image_counts_whole():
    logits = logits_of([[[0.8, 0.3], [0.5, 0.9]]])
    expected = -(math.log(0.2) + math.log(0.7) + math.log(0.5) + math.log(0.1)) / 4
    assert full_negative(logits, YES).item() == pytest.approx(expected)
    assert full_negative(logits, NO).item() == 0


def test_size_barrier():
    """Sizes 1.5 and 0.5 px² at t = 1: -ln 1.5 for the one, -0.5 + 1 for the other, halved."""
    logits = logits_of([[[0.9, 0.6]]])
    assert size_barrier(logits, YES, 1.0).item() == pytest.approx((-math.log(1.5) + 0.5) / 2)
    assert size_barrier(logits, NO, 1.0).item() == 0


@pytest.mark.parametrize("t", [1.0, 3.0, 10.0])
def test_barrier_is_smooth_where_its_branches_meet(t):
    z = torch.tensor([-1 / t**2 - 1e-9, -1 / t**2 + 1e-9], dtype=torch.float64, requires_grad=True)
    value = log_barrier(z, t)
    slope = torch.autograd.grad(value.sum(), z)[0]
    assert value[0].item() == pytest.approx(value[1].item(), abs=1e-6)
    assert slope.tolist() == pytest.approx([t, t], rel=1e-5)


def test_terms_and_their_weights():
    torch.manual_seed(0)
    logits = torch.randn(3, 2, 6, 6)
    seeds = torch.randint(0, 2, (3, 6, 6))
    negative = torch.tensor([True, False, False])
    plain = NegativeEvidenceLoss(size_weight=1.0)(logits, seeds, negative=negative)
    halves = NegativeEvidenceLoss(seed_weight=0.5, negative_weight=0.25, size_weight=2.0)
    assert {name: value.item() for name, value in halves(logits, seeds, negative=negative).items()} == pytest.approx(
        {"seeds": plain["seeds"].item() / 2, "negative": plain["negative"].item() / 4, "size": 2 * plain["size"].item()}
    )
    assert set(NegativeEvidenceLoss()(logits, seeds, negative=negative)) == {"seeds", "negative"}
    everyone = NegativeEvidenceLoss(seeds_of_negatives=True)(logits, seeds, negative=negative)["seeds"]
    assert everyone.item() == pytest.approx(partial_cross_entropy(logits, seeds, negative | True).item())


@pytest.mark.parametrize("scale", [0.0, 80.0, 1e4])
@pytest.mark.parametrize("negative", [[True, True], [False, False], [True, False], []])
def test_gradients_are_finite(scale, negative):
    torch.manual_seed(0)
    images = len(negative)
    logits = (torch.randn(images, 2, 4, 4).sign() * scale).requires_grad_()
    seeds = torch.full((images, 4, 4), IGNORE)
    terms = NegativeEvidenceLoss(size_weight=1.0)(logits, seeds, negative=torch.tensor(negative, dtype=torch.bool))
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()


def test_the_barrier_hardens_and_is_kept():
    loss = NegativeEvidenceLoss(size_weight=1.0)
    for _ in range(3):
        loss.end_epoch()
    assert loss.barrier.item() == pytest.approx(1.01**3)
    other = NegativeEvidenceLoss(size_weight=1.0)
    other.load_state_dict(loss.state_dict())
    assert other.barrier == loss.barrier
    for _ in range(1000):
        loss.end_epoch()
    assert loss.barrier.item() == 10


# --- seeds ----------------------------------------------------------------------------------------------------------


def spot(side=40):
    """A map with a bright square of 16 px."""
    cam = torch.zeros(2, side, side)
    cam[:, 10:26, 10:26] = 1.0
    return cam + torch.rand(2, side, side, generator=torch.Generator().manual_seed(1)) * 0.1 * (cam == 0)


@pytest.mark.parametrize("seeder", ["probability", "low_background", "otsu"])
def test_seeds(seeder):
    cam = spot()
    generator = torch.Generator().manual_seed(0)
    rule = SeedRule(seeder=seeder)
    drawn = torch.stack([draw_seeds(cam, rule, generator) for _ in range(200)])
    assert set(drawn.unique().tolist()) == {REGION, BACKGROUND, IGNORE}
    counts = (drawn == REGION).sum(dim=(2, 3))
    assert counts.max() == 9
    if seeder != "probability":  # the background can then not lie on the bright square
        assert (drawn[:, :, 12:24, 12:24] != BACKGROUND).all()
    if seeder == "otsu":  # a pixel of the eroded square, and one around it
        inside = torch.zeros(40, 40, dtype=torch.bool)
        inside[14:22, 14:22] = True
        assert not (drawn == REGION)[:, :, ~inside].any()
        assert (counts == 9).all()
    again = draw_seeds(cam, rule, torch.Generator().manual_seed(0))
    assert again.equal(drawn[0])
    assert not drawn[1].equal(drawn[0])


def test_pixels_that_both_claim_are_no_evidence():
    cam = torch.ones(1, 1, 2)
    seeds = [draw_seeds(cam, SeedRule(), torch.Generator().manual_seed(k)) for k in range(5)]
    assert all((seed == IGNORE).all() for seed in seeds)


@pytest.mark.parametrize("seeder", ["probability", "low_background", "otsu"])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_flat_map_gives_seeds_too(seeder, level):
    """Whatever the map, one pixel for each side: neither a blank nor a saturated map may end the training."""
    seeds = draw_seeds(torch.full((3, 20, 20), level), SeedRule(seeder=seeder), torch.Generator().manual_seed(0))
    assert ((seeds == REGION).sum(dim=(1, 2)) + (seeds == BACKGROUND).sum(dim=(1, 2)) > 0).all()


def test_no_seed_is_asked_for():
    assert (draw_seeds(spot(), SeedRule(region=0, background=0)) == IGNORE).all()
    assert draw_seeds(torch.zeros(0, 8, 8), SeedRule()).shape == (0, 8, 8)


@pytest.mark.parametrize(
    "options", [{"seeder": "best"}, {"dilation_px": 2}, {"erosion_px": 4}, {"region": -1}, {"low_share": 0.0}]
)
def test_rules_that_cannot_be(options):
    with pytest.raises(ValueError, match="seed"):
        SeedRule(**options)


# --- two processes --------------------------------------------------------------------------------------------------


def batch():
    maker = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 2, 6, 6, generator=maker)
    seeds = torch.randint(-1, 2, (5, 6, 6), generator=maker)
    return logits, torch.where(seeds < 0, IGNORE, seeds), torch.tensor([True, False, False, True, False])


def gradient(part):
    logits, seeds, negative = batch()
    own = logits[part].requires_grad_()
    terms = NegativeEvidenceLoss(size_weight=1.0)(own, seeds[part], negative=negative[part])
    return torch.autograd.grad(torch.stack(list(terms.values())).sum(), own)[0]


def one_of_two(rank, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    # The second process has one negative image only, and no seed.
    torch.save(gradient(slice(0, 3) if rank == 0 else slice(3, 5)), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    multiprocessing.get_context("forkserver").set_forkserver_preload(["wsi_detect.losses"])
    start = importlib.import_module("test_negative_evidence").one_of_two  # by a name that the processes can import
    start_processes(start, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    torch.testing.assert_close(torch.cat(parts) / 2, gradient(slice(0, 5)))
