"""Training samples a CPU second: our loader against a plain one over a folder of JPEGs.

    python scripts/bench_loader.py

Samples are 512 px from patches of 1024 px with 30 boxes each, drawn in random order, loaded and collated in this
process with one thread; figures are CPU milliseconds a sample.

* `ours/jpeg_tiles`, `ours/jpeg`: `PatchDataset` with the preset `cytology` over a store of the slide's own tiles, and
  over one of JPEG quality 90: zoom, one of eight turns, colour (4 in 5), blur and JPEG (3 in 20 each); uint8 planes,
  which the model normalises.
* `plain`: the same patches as JPEG files of quality 90, decoded whole by simplejpeg, then albumentations:
  RandomCrop(512), D4, RandomBrightnessContrast(p=0.5), HueSaturationValue(p=0.5), GaussianBlur(p=0.1), Normalize, boxes
  with it; float32 planes. No zoom, no JPEG: less is done than in ours.
* `library`: those files, decoded whole, and what `cytology` does by albumentations: RandomSizedCrop (zoom 0.8 to 1.25),
  D4, ColorJitter(p=0.8), GaussianBlur(p=0.15), ImageCompression(p=0.15); uint8 planes. What is left between this and
  ours is not a matter of doing less.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import bench_common
import bench_slides
import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from wsi_detect import artifact, schema
from wsi_detect.data.augment import augmenter, limit_threads
from wsi_detect.data.dataset import PatchDataset, collate
from wsi_detect.data.index import build_index, read_index
from wsi_detect.data.samplers import Draw
from wsi_detect.tiling.chunk import JPEG_LEVEL, encode_jpeg
from wsi_detect.tiling.patch_store import PatchStore
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

PATCH, CROP = 1024, 512
BOXES = 30
BATCH = 8
GOAL, FLOOR = 1.8, 1.5


class Folder(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """A folder of JPEGs and a chain of albumentations, as one would write it."""

    def __init__(self, files: Sequence[Path], boxes: Sequence[NDArray[np.float64]], chain: Any) -> None:
        self.files, self.boxes, self.chain = files, boxes, chain

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode, augment, turn into tensors."""
        image = simplejpeg.decode_jpeg(self.files[draw.row].read_bytes())
        boxes = self.boxes[draw.row]
        made = self.chain(image=image, bboxes=boxes, labels=np.zeros(len(boxes), np.int64))
        found = np.asarray(made["bboxes"], np.float32).reshape(-1, 4)
        pixels = torch.from_numpy(np.ascontiguousarray(made["image"].transpose(2, 0, 1)))
        return pixels, {"boxes": torch.from_numpy(found), "labels": torch.as_tensor(made["labels"], dtype=torch.int64)}


class Draws(Sampler[Draw]):
    """Rows in random order, another one at every iteration."""

    def __init__(self, rows: int, count: int) -> None:
        self.rows, self.count, self.epoch = rows, count, 0

    def __iter__(self) -> Any:
        self.epoch += 1
        rows = np.random.default_rng(self.epoch).integers(0, self.rows, self.count)
        return (Draw(int(row), self.epoch, position) for position, row in enumerate(rows))

    def __len__(self) -> int:
        return self.count


def chains() -> dict[str, Any]:
    """Return the chains of `plain` and of `library`."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    import albumentations as album

    # Of a crop of 410 to 640 px; the preset draws the zoom evenly in its logarithm, which costs the same.
    zoomed = album.RandomSizedCrop(min_max_height=(410, 640), size=(CROP, CROP))
    jitter = album.ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), (-0.03, 0.03), p=0.8)
    focus = album.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.2), p=0.15)
    packed = album.ImageCompression(quality_range=(50, 90), p=0.15)
    contrast, hue = album.RandomBrightnessContrast(p=0.5), album.HueSaturationValue(p=0.5)
    steps = {
        "plain": [
            album.RandomCrop(CROP, CROP),
            album.D4(),
            contrast,
            hue,
            album.GaussianBlur(p=0.1),
            album.Normalize(),
        ],
        "library": [zoomed, album.D4(), jitter, focus, packed],
    }
    boxes = album.BboxParams(format="pascal_voc", label_fields=["labels"], min_visibility=0.75, clip=True)
    return {name: album.Compose(chain, bbox_params=boxes) for name, chain in steps.items()}


def make_data(slide: Path, folder: Path) -> tuple[dict[str, Any], int]:
    """Tile a slide twice, write the patches as files, lay 30 boxes on each; return the data sets and their length."""
    stores = {codec: _tiled(slide, folder / codec, codec) for codec in ("jpeg_tiles", "jpeg")}
    first = stores["jpeg_tiles"]
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, PATCH - 120, (len(first), BOXES, 2))
    boxes = list(np.concatenate([corners, corners + rng.uniform(40, 120, corners.shape)], axis=2))
    table = [
        {
            "slide_id": "S", "annotation_id": f"{row}-{k}", "label": "NILM", "source_label": "NILM",
            **dict(zip(schema.BOX_COLUMNS, box, strict=True)),
        }
        for row in range(len(first)) for k, box in enumerate(first.frame(row).to_slide(boxes[row]).tolist())
    ]  # fmt: skip
    annotations = folder / "annotations.parquet"
    artifact.write_table(annotations, artifact.table_of(table, schema.ANNOTATIONS), schema.ANNOTATIONS)
    sets: dict[str, Any] = {}
    for codec, store in stores.items():
        index = read_index(build_index({"S": store}, annotations, {"S": "train"}, folder / codec / "index", ["NILM"]))
        sets[f"ours/{codec}"] = PatchDataset(index, "train", augment=augmenter("cytology", CROP))
    files = [folder / f"{row}.jpg" for row in range(len(first))]
    for row, file in enumerate(files):
        file.write_bytes(encode_jpeg(first.read(row).rgb, JPEG_LEVEL))
    return sets | {name: Folder(files, boxes, chain) for name, chain in chains().items()}, len(first)


def _tiled(slide: Path, out: Path, codec: Literal["jpeg_tiles", "jpeg"]) -> PatchStore:
    return tile_slide(
        slide, out, TilingConfig(patch_px=PATCH, overlap_px=0, codec=codec, quality=False, skip_blank=False)
    )


def loaded(loader: DataLoader[Any], samples: int) -> float:
    """CPU milliseconds a sample, over an epoch."""
    cpu, _ = bench_common.cpu_and_wall(lambda: [None for _ in loader])
    return cpu / samples * 1e3


def main() -> None:
    """Measure, print, write."""
    options = bench_common.parser(__doc__).parse_args()
    torch.set_num_threads(1)
    limit_threads()
    samples, rounds = (32, 1) if options.quick else (400, 7)
    slide = bench_slides.make("tct", options.slides, options.quick)
    with tempfile.TemporaryDirectory(dir=options.slides) as folder:
        sets, patches = make_data(slide, Path(folder))
        loaders = {
            name: DataLoader(data, BATCH, sampler=Draws(patches, samples), collate_fn=collate)
            for name, data in sets.items()
        }
        cases: dict[str, Callable[[], float]] = {
            name: partial(loaded, loader, samples) for name, loader in loaders.items()
        }
        found = bench_common.medians(cases, rounds)
    results = {f"{name}/cpu_ms": value for name, value in found.items()}
    for name in ("ours/jpeg_tiles", "ours/jpeg"):
        for other in ("plain", "library"):
            results[f"{name}/over_{other}"] = found[other] / found[name]
    rows = [
        {"loader": name, "CPU ms": ms, "samples/s a core": 1000 / ms, "against plain": found["plain"] / ms}
        for name, ms in found.items()
    ]
    print(f"{bench_common.machine()}; {patches} patches of {slide.name}\n{bench_common.table(rows)}")
    print(bench_common.judge("ours/jpeg_tiles over plain", results["ours/jpeg_tiles/over_plain"], GOAL, FLOOR))
    bench_common.emit(results, options.json)


if __name__ == "__main__":
    main()
