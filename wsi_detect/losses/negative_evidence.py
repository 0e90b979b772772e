"""NEGEV: where the abnormal is, from image labels alone (Belharbi et al., MIDL 2022, arXiv 2201.02445).

A decoder gives each pixel two logits, background (channel 0) and region (channel 1). Images that may hold a region are
trained at a few pixels whose labels a class activation map (CAM) suggests; fully negative images at all their pixels,
which are background. From the source (paper, slides and the authors' program): the terms, their reduction, the size
barrier, and the seeders. Ours: means go over all processes of a distributed run, and the defaults of `SeedRule` for the
two seeders that the paper did not end up with.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.losses.processes import summed, world

BACKGROUND, REGION = 0, 1
#: Label of a pixel that no one vouches for.
IGNORE = -255

_BARRIER_START, _BARRIER_END, _BARRIER_FACTOR = 1.0, 10.0, 1.01
_OTSU_BINS = 256


class NegativeEvidenceLoss(nn.Module):
    """seed_weight x seeds term + negative_weight x negative term + size_weight x size barrier, as a dict.

    Attributes:
        barrier: scalar float64, t of the size barrier; part of the state, raised by `end_epoch`.
    """

    barrier: Tensor

    def __init__(
        self,
        *,
        seed_weight: float = 1.0,
        negative_weight: float = 1.0,
        size_weight: float = 0.0,
        seeds_of_negatives: bool = False,
    ) -> None:
        """Make the loss.

        Args:
            seed_weight: lambda of the paper; 1 was best.
            negative_weight: of the negative term; 1 in the paper.
            size_weight: of the size barrier; the paper's runs are without.
            seeds_of_negatives: the seeds term takes fully negative images too, as for data that have none.
        """
        super().__init__()
        self.seed_weight, self.negative_weight, self.size_weight = seed_weight, negative_weight, size_weight
        self.seeds_of_negatives = seeds_of_negatives
        self.register_buffer("barrier", torch.tensor(_BARRIER_START, dtype=torch.float64))

    def forward(
        self, logits: Tensor, seeds: Tensor, *, negative: Tensor, vouched: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the weighted terms.

        Args:
            logits: (B, 2, H, W), background first.
            seeds: (B, H, W) int64, `REGION`, `BACKGROUND` or `IGNORE`.
            negative: (B,) bool, the image is fully negative.
            vouched: (B,) bool, the image is taken to have its label (ours: of a bag only some are); None for all. The
                others count neither for the seeds nor for the sizes.

        Returns:
            Scalars `seeds`, `negative` and, if it has a weight, `size`. A term without a pixel or an image is 0.
        """
        taught = torch.ones_like(negative) if self.seeds_of_negatives else ~negative
        if vouched is not None:
            taught = taught & vouched
        terms = {
            "seeds": self.seed_weight * partial_cross_entropy(logits, seeds, taught),
            "negative": self.negative_weight * full_negative(logits, negative),
        }
        if self.size_weight:
            terms["size"] = self.size_weight * size_barrier(logits, taught, float(self.barrier))
        return terms

    def end_epoch(self) -> None:
        """Harden the size barrier: t grows by 1 % an epoch, from 1 to 10."""
        self.barrier.mul_(_BARRIER_FACTOR).clamp_(max=_BARRIER_END)


def partial_cross_entropy(logits: Tensor, seeds: Tensor, taught: Tensor) -> Tensor:
    """Mean cross-entropy over the seeded pixels of the images that are taught; 0 without any.

    Args:
        logits: (B, 2, H, W).
        seeds: (B, H, W) int64, with `IGNORE`.
        taught: (B,) bool.
    """
    counted = taught[:, None, None] & (seeds != IGNORE)
    return _mean_entropy(logits, torch.where(counted, seeds, 0), counted)


def full_negative(logits: Tensor, negative: Tensor) -> Tensor:
    """Mean over all pixels of fully negative images of -log(1 - S_region); 0 without such an image.

    Args:
        logits: (B, 2, H, W).
        negative: (B,) bool.
    """
    label = torch.full_like(logits[:, 0], BACKGROUND, dtype=torch.int64)
    return _mean_entropy(logits, label, negative[:, None, None].expand_as(label))


def size_barrier(logits: Tensor, taught: Tensor, t: float) -> Tensor:
    """Half of psi_t(-size of the region) + psi_t(-size of the background), mean over the images taught; 0 without any.

    The sizes are sums of probabilities, px². Neither part of an image may vanish.
    """
    sizes = torch.softmax(logits, dim=1).sum(dim=(2, 3))  # (B, 2)
    each = log_barrier(-sizes, t).sum(dim=1) / 2
    count = summed(taught.sum()).clamp(min=1)
    return world() * torch.where(taught, each, each.new_zeros(())).sum() / count


def log_barrier(z: Tensor, t: float) -> Tensor:
    """Extended log-barrier psi_t of constraints z <= 0: finite and smooth on both sides.

    psi_t(z) = -log(-z) / t for z <= -1 / t², else t z - log(1 / t²) / t + 1 / t.
    """
    inside = z <= -1 / t**2
    safe = torch.where(inside, z, -1.0)
    return torch.where(inside, -torch.log(-safe) / t, t * z + 2 * math.log(t) / t + 1 / t)


@dataclass(frozen=True, slots=True)
class SeedRule:
    """How pixels are drawn as evidence.

    Attributes:
        seeder: `probability`, the paper's, draws region pixels with the CAM's weight and background pixels with one
            minus it; `low_background` draws background pixels evenly from the least activated ones alone; `otsu` does
            too, and region pixels from above Otsu's threshold, eroded.
        region: pixels an image drawn for the region; more than 1 did not help in the paper.
        background: pixels drawn for the background.
        dilation_px: side of the square each pixel grows to, odd.
        low_share: share of the pixels that counts as least activated.
        erosion_px: side of the square of the erosion of `otsu`, odd.
        eps: added to the CAM, so that every pixel can be drawn.
    """

    seeder: Literal["probability", "low_background", "otsu"] = "probability"
    region: int = 1
    background: int = 1
    dilation_px: int = 3
    low_share: float = 0.2
    erosion_px: int = 11
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.seeder not in ("probability", "low_background", "otsu"):
            raise ValueError(f"seeder is probability, low_background or otsu, not {self.seeder!r}")
        if min(self.region, self.background) < 0 or not self.dilation_px % 2 or not self.erosion_px % 2:
            raise ValueError("seeds: numbers of pixels are not negative, and sides in px are odd")
        if not 0 < self.low_share <= 1:
            raise ValueError(f"seeds: low_share lies in (0, 1], got {self.low_share}")


def draw_seeds(cam: Tensor, rule: SeedRule, generator: torch.Generator | None = None) -> Tensor:
    """Draw evidence from class activation maps, anew at every step.

    Args:
        cam: (B, H, W) in [0, 1], of the true class.
        rule: how.
        generator: of random numbers.

    Returns:
        (B, H, W) int64, `REGION`, `BACKGROUND` or `IGNORE`; a pixel that both claim is `IGNORE`.
    """
    region, background = _weights(cam, rule)
    one = _dilated(_drawn(region, rule.region, generator), rule.dilation_px)
    other = _dilated(_drawn(background, rule.background, generator), rule.dilation_px)
    seeds = torch.full(cam.shape, IGNORE, dtype=torch.int64, device=cam.device)
    seeds[one & ~other] = REGION
    seeds[other & ~one] = BACKGROUND
    return seeds


def seed_probabilities(cam: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Weights c = (CAM + eps) / sum(CAM + eps) of region pixels, and 1 - c of background pixels, both (B, H, W)."""
    raised = cam + eps
    c = raised / raised.sum(dim=(-2, -1), keepdim=True)
    return c, 1 - c


def _weights(cam: Tensor, rule: SeedRule) -> tuple[Tensor, Tensor]:
    region, background = seed_probabilities(cam, rule.eps)
    if rule.seeder == "probability":
        return region, background
    pixels = cam.flatten(1)
    lowest = pixels.argsort(dim=1)[:, : max(1, math.ceil(rule.low_share * pixels.shape[1]))]
    background = torch.zeros_like(pixels).scatter(1, lowest, 1.0).view_as(cam)
    if rule.seeder == "otsu":
        above = cam > torch.stack([_otsu(image) for image in cam])[:, None, None]
        core = ~_dilated(~above, rule.erosion_px)
        # An erosion that leaves nothing is undone; where there is no threshold either, the CAM alone decides.
        for kept in (above, core):
            region = torch.where(kept.any(dim=(1, 2))[:, None, None], kept.to(cam.dtype), region)
    return region, background


def _otsu(cam: Tensor) -> Tensor:
    """Threshold that splits a map (H, W) in [0, 1] with the greatest variance between the sides (Otsu 1979)."""
    held = torch.histc(cam.float(), bins=_OTSU_BINS, min=0, max=1)
    centre = (torch.arange(_OTSU_BINS, device=cam.device) + 0.5) / _OTSU_BINS
    below = held.cumsum(0)
    mean = (held * centre).cumsum(0)
    above = below[-1] - below
    apart = mean / below.clamp(min=1) - (mean[-1] - mean) / above.clamp(min=1)
    best = (below * above * apart**2).argmax()
    return ((best + 1) / _OTSU_BINS).to(cam.dtype)


def _drawn(weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Mask (B, H, W) of `count` pixels drawn by weight without replacement, or of as many as have a weight."""
    flat = weights.flatten(1)
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    for row, weight in zip(chosen, flat, strict=True):
        number = min(count, int((weight > 0).sum()))
        if number:
            row[torch.multinomial(weight, number, generator=generator)] = True
    return chosen.view_as(weights)


def _dilated(mask: Tensor, side_px: int) -> Tensor:
    return F.max_pool2d(mask[:, None].float(), side_px, stride=1, padding=side_px // 2)[:, 0] > 0


def _mean_entropy(logits: Tensor, label: Tensor, counted: Tensor) -> Tensor:
    entropy = F.cross_entropy(logits, label, reduction="none")  # (B, H, W)
    count = summed(counted.sum()).clamp(min=1)
    return world() * torch.where(counted, entropy, entropy.new_zeros(())).sum() / count
