"""A small network as an evidence model, a slide that is torn, and what tests of maps do with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from wsi_detect.detectors.evidence_info import EvidenceInfo
from wsi_detect.errors import DamagedSlideError
from wsi_detect.inference.evidence import EvidenceConfig, map_evidence
from wsi_detect.tiling.evidence_map import EvidenceMap

INFO = EvidenceInfo(
    model_id="tiny@1",
    columns=("region",),
    region=("HSIL",),
    patch_px=64,
    mpp=0.25,
    mpp_assumed=False,
    preparation="smear",
    margin_px=15,
    stride_px=4,
    threshold=0.5,
    model={},
    data_card="none",
)
#: Odd sides, no multiple of anything.
WIDTH, HEIGHT = 301, 203


class TinyNet:
    """A network of fixed weights that reduces its input fourfold and raises it again; a value sees at most 15 px."""

    def __init__(self, info=INFO):
        torch.manual_seed(3)
        self.info = info
        self.shown = []
        layers = [nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1)]
        self._net = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1)).eval()

    @torch.inference_mode()
    def __call__(self, patches):
        self.shown.append(patches.shape)
        x = torch.from_numpy(np.ascontiguousarray(patches)).permute(0, 3, 1, 2).float() / 255
        high, wide = (-(-side // 4) * 4 for side in x.shape[2:])
        x = F.pad(x, (0, wide - x.shape[3], 0, high - x.shape[2]), mode="replicate")
        maps = torch.sigmoid(40 * F.interpolate(self._net(x), scale_factor=4, mode="bilinear", align_corners=False))
        return maps[:, 0, : patches.shape[1], : patches.shape[2]].numpy()


class TornSlide:
    """A slide of tiles of 64 px, those of a block cannot be decoded."""

    def __init__(self, slide, x0, y0, x1, y1):
        self.info = replace(slide.info, native_tile_px=(64, 64))
        self._slide, self._block = slide, (x0, y0, x1, y1)

    def read_region(self, x_px, y_px, level, width, height, *, plane=0):
        x0, y0, x1, y1 = self._block
        if x_px < x1 and x_px + width > x0 and y_px < y1 and y_px + height > y0:
            raise DamagedSlideError("torn")
        return self._slide.read_region(x_px, y_px, level, width, height, plane=plane)


def mapped(store, out, model=None, **config):
    path = map_evidence(store, model or TinyNet(), out, EvidenceConfig.model_validate(config))
    found = EvidenceMap.open(path)
    return found, found.evidence((0, found.shape[0]), (0, found.shape[1]))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
