"""From pixels to the batch a network takes; lives inside the detector, so every runtime takes the same pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsi_detect.detectors.matching import Target

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
#: Sides of a batch are multiples of this.
_MULTIPLE = 32


class Preparation(nn.Module):
    """Scale, normalise and pad images; scale and check targets. Has no weights."""

    def __init__(self, input_scale: float) -> None:
        """Make it.

        Args:
            input_scale: network-input px per patch px; below 1 the patch is reduced first.
        """
        super().__init__()
        self.input_scale = input_scale
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Images (3, H, W) uint8 or float in [0, 1] → one normalised batch, padded right and below to 32s."""
        if len({(image.shape, image.dtype) for image in images}) == 1:
            return _padded(self.batch(torch.stack(list(images))))
        ready = [self.batch(image[None])[0] for image in images]
        height, width = (max(image.shape[k] for image in ready) for k in (-2, -1))
        return torch.stack([_padded(image, height, width) for image in ready])

    def batch(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) uint8 or float in [0, 1], reduced and normalised, not padded."""
        if pixels.dtype == torch.uint8:
            pixels = pixels.float() / 255
        if self.input_scale == 0.5 and pixels.shape[-1] % 2 == 0 and pixels.shape[-2] % 2 == 0:
            pixels = F.avg_pool2d(pixels, 2)
        elif self.input_scale != 1.0:
            pixels = F.interpolate(
                pixels, scale_factor=self.input_scale, mode="bilinear", antialias=True, align_corners=False
            )
        ready: Tensor = (pixels - self.mean) / self.std  # type: ignore[operator]
        return ready

    def padded(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) → what `forward` makes of B images of one size; without Python lists, for export."""
        return _padded(self.batch(pixels))

    def targets(self, targets: Sequence[Target]) -> list[Target]:
        """Targets in network-input px, with `ignore_boxes` (I, 4) in any case.

        Raises:
            ValueError: a box without area.
        """
        return [self._target(target, number) for number, target in enumerate(targets)]

    def _target(self, target: Target, number: int) -> Target:
        boxes = target["boxes"].float()
        if len(boxes) and not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise ValueError(f"image {number} of the batch has a box without area")
        ignore = target.get("ignore_boxes", boxes.new_zeros(0, 4))
        return {
            "boxes": boxes * self.input_scale,
            "labels": target["labels"],
            "ignore_boxes": ignore.float() * self.input_scale,
        }


def _padded(pixels: Tensor, height: int = 0, width: int = 0) -> Tensor:
    """Zeros to the right and below, up to the next multiple of 32 of the larger of its own and the given sides."""
    own = pixels.shape[-2:]
    sides = [padded_side(max(a, b)) for a, b in zip(own, (height, width), strict=True)]
    return F.pad(pixels, (0, sides[1] - own[1], 0, sides[0] - own[0]))


def padded_side(side: int) -> int:
    """Side of a padded image, network-input px."""
    return -(-side // _MULTIPLE) * _MULTIPLE
