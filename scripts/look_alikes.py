"""How far copies of pictures and different pictures are apart, in bits of the hash that the leak check compares.

    python scripts/look_alikes.py FOLDER [--json FILE]

Every picture of the folder, at any depth, is changed in each way below and compared with itself; and all are compared
with each other. `wsi_detect.data.leaks.MAX_DISTANCE` should lie between the two.
"""

import argparse
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from wsi_detect.data.leaks import MAX_DISTANCE, distance, image_hash

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(io.BytesIO(stream.getvalue()))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG 30": lambda image: _jpeg(image, 30),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirrored and turned": lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    "30 % darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "30 % brighter (cut at white)": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "moved by 2 %": lambda image: image.crop((image.width // 50, 0, image.width, image.height)),
    "5 % cut off two sides": lambda image: image.crop(
        (image.width // 20, image.height // 20, image.width, image.height)
    ),
}


def main(folder: Path) -> dict[str, float]:
    """Print the table; gives its figures by name."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    hashes, found = [], {name: [] for name in CHANGES}
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        looks = image_hash(np.asarray(image))
        if looks is None:
            continue
        hashes.append(looks)
        for name, change in CHANGES.items():
            other = image_hash(np.asarray(change(image)))
            found[name].append(256 if other is None else distance(looks, other))
    apart = [distance(one, two) for k, one in enumerate(hashes) for two in hashes[:k]]
    found["of two pictures"] = apart
    print(f"{len(hashes)} pictures, {len(apart)} pairs; the limit is {MAX_DISTANCE} of 255 bits")
    figures = {}
    for name, values in found.items():
        if values:
            low, middle, high = (float(v) for v in np.percentile(values, [0, 50, 100]))
            print(f"{name:32} least {low:4.0f}  median {middle:4.0f}  most {high:4.0f}")
            figures |= {f"{name}/least": low, f"{name}/median": middle, f"{name}/most": high}
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    measured = main(chosen.folder)
    if chosen.json:
        chosen.json.write_text(json.dumps(measured, indent=1))
