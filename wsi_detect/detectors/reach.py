"""How far a map feels the border of its patch: probed, so that it holds for every backbone.

What depends on a NaN is NaN: the arithmetic itself says which values look at a pixel. It is done in float64 on the CPU:
programs that transform blocks of pixels for speed, in which a NaN spreads to neighbours, take float32 alone.
"""

import copy

import torch
from torch import Tensor

from wsi_detect.detectors.heatmap import EvidenceModel
from wsi_detect.errors import ConfigError

#: Lines of pixels a probe is tried on, one after the other, and their height, network-input px.
_LENGTHS, _HEIGHT = (256, 512, 1024, 2048), 32


@torch.no_grad()
def margin_px(model: EvidenceModel) -> int:
    """Patch px; evidence this far or farther from all borders of its patch is as if the patch had none.

    It is half the receptive field where the field is widest, for borders at multiples of `model.stride_px`.

    Raises:
        ConfigError: a value depends on the whole image, as with squeeze-and-excitation or attention: maps would have
            seams whatever the overlap.
    """
    probe = copy.deepcopy(model).cpu().double().eval()
    return max(_reach(probe, across) for across in (False, True))


def _reach(model: EvidenceModel, across: bool) -> int:
    """Patch px, along x, or across along y."""
    scale = model.preparation.input_scale
    step, side = model.stride_px, round(_HEIGHT / scale)
    for length in (round(px / scale) for px in _LENGTHS):
        begin = length // 2 // step * step
        line = torch.zeros(1, 3, side, length, dtype=torch.float64)
        line[..., begin : begin + step] = torch.nan
        felt = _nan(model, line.transpose(2, 3) if across else line, across)
        first, last = int(felt.min()), int(felt.max())
        if first > 0 and last < length - 1:
            return max(begin - first, last + 1 - (begin + step))
    raise ConfigError(
        "evidence model: a value of the map depends on the whole image, so maps of patches cannot be joined; choose a "
        "backbone of convolutions alone (no squeeze-and-excitation, no attention), or an earlier last_stage"
    )


def _nan(model: EvidenceModel, line: Tensor, across: bool) -> Tensor:
    """Places along the line whose evidence is NaN."""
    maps = model.evidence(line)[0]
    return torch.isnan(maps).any(dim=1 if across else 0).nonzero()[:, 0]
