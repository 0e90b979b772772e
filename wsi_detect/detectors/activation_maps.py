"""Where a classifier looks: CAM, Grad-CAM++ and LayerCAM, as maps of whole images.

A is the last stage of the encoder (C channels), y the logit of the column asked for, g the gradient of y by A. The
logit is the mean of its activation map plus a bias, so y needs no further pass. Maps are normalised image by image, as
in NEGEV's comparison, and raised to the image by bilinear interpolation.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from wsi_detect.detectors.heatmap import EvidenceModel

#: (model, images (B, 3, H, W), columns (B,)) → maps (B, H, W) in [0, 1].
Mapper = Callable[[EvidenceModel, Tensor, Tensor], Tensor]


def normalised(maps: Tensor) -> Tensor:
    """Maps (..., H, W) from their least value to their greatest onto [0, 1]; a constant map becomes 0."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1), 0.0)


@torch.no_grad()
def cam(model: EvidenceModel, images: Tensor, columns: Tensor) -> Tensor:
    """Class activation map, sum over channels of w_c A_c (Zhou et al., CVPR 2016); w are the weights of the logit."""
    return _raised(_of(model.activation(images), columns), images)


@torch.no_grad()
def instance_probability(model: EvidenceModel, images: Tensor, columns: Tensor) -> Tensor:
    """Sigmoid of the activation map, as it is: what multiple-instance learning maps, taught by the highest places."""
    return F.interpolate(
        torch.sigmoid(_of(model.activation(images), columns))[:, None],
        size=images.shape[-2:],
        mode="bilinear",
        align_corners=False,
    )[:, 0]


def grad_cam_pp(model: EvidenceModel, images: Tensor, columns: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhyay et al., WACV 2018, equations 10 to 19), of the score exp(y)."""
    stage, gradient = _stage_and_gradient(model, images, columns)
    return _raised(grad_cam_pp_map(stage, gradient), images)


def layer_cam(model: EvidenceModel, images: Tensor, columns: Tensor) -> Tensor:
    """LayerCAM (Jiang et al., IEEE TIP 2021, equations 6 and 7) of the last stage."""
    stage, gradient = _stage_and_gradient(model, images, columns)
    return _raised(layer_cam_map(stage, gradient), images)


def grad_cam_pp_map(stage: Tensor, gradient: Tensor) -> Tensor:
    """relu(sum_c w_c A_c), w_c = sum_xy alpha relu(g), alpha = g² / (2 g² + g³ sum_xy A); 0 where g is 0.

    With the score exp(y) every derivative of it is exp(y) times a power of g; exp(y) is in all of them once, so the map
    is the same without it but for a factor, which the normalisation takes out.

    Args:
        stage: (B, C, h, w).
        gradient: (B, C, h, w).
    """
    below = 2 * gradient**2 + gradient**3 * stage.sum(dim=(2, 3), keepdim=True)
    alpha = torch.where(below != 0, gradient**2 / torch.where(below != 0, below, 1), 0.0)
    weight = (alpha * F.relu(gradient)).sum(dim=(2, 3), keepdim=True)
    return F.relu((weight * stage).sum(dim=1))


def layer_cam_map(stage: Tensor, gradient: Tensor) -> Tensor:
    """relu(sum_c relu(g) A_c): each place of a channel has a weight of its own.

    Args:
        stage: (B, C, h, w).
        gradient: (B, C, h, w).
    """
    return F.relu((F.relu(gradient) * stage).sum(dim=1))


#: Name → map over a frozen classifier.
MAPPERS: dict[str, Mapper] = {"cam": cam, "grad_cam_pp": grad_cam_pp, "layer_cam": layer_cam}


def _of(maps: Tensor, columns: Tensor) -> Tensor:
    """Maps (B, K, h, w) → (B, h, w), each image's own column."""
    return maps[torch.arange(len(maps), device=maps.device), columns]


def _stage_and_gradient(model: EvidenceModel, images: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        stage = model.stage(images)
    with torch.enable_grad():
        stage = stage.detach().requires_grad_()
        logit = _of(model.classifier.activation(stage), columns).mean(dim=(1, 2)).sum()
        (gradient,) = torch.autograd.grad(logit, stage)
    return stage.detach(), gradient


def _raised(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (B, h, w) at the images' size, normalised first and so in [0, 1] after it."""
    size = images.shape[-2:]
    return F.interpolate(normalised(maps.float())[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
