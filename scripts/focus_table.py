"""How focus falls as real fields are blurred, and which threshold parts the sharp from the blurred.

    python scripts/focus_table.py [FOLDER] [--list NAMES.txt] [--shrink 2] [--grain 2]

Each field is cut into patches of 512 px. FOLDER holds pictures; without it, the twelve fields of the demonstration.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

import wsi_detect.testing
from wsi_detect.tiling.mask import clean_ground
from wsi_detect.tiling.quality import QualityConfig, measure_patch

SIGMAS = (0, 0.5, 1, 1.5, 2, 3, 4)
PATCH = 512


def focus_of(path: Path, shrink: int, grain: float) -> np.ndarray:
    """Focus of each patch of a field under each blur: (blurs, patches)."""
    field = Image.open(path).convert("RGB")
    if shrink > 1:
        field = field.resize((field.width // shrink, field.height // shrink), Image.Resampling.BOX)
    ground = clean_ground(np.asarray(field))
    rng = np.random.default_rng(0)
    rows = []
    for sigma in SIGMAS:
        rgb = np.asarray(field.filter(ImageFilter.GaussianBlur(sigma)) if sigma else field)
        if grain:
            rgb = np.clip(rgb + rng.normal(0, grain, rgb.shape), 0, 255).round().astype(np.uint8)
        starts = [range(0, max(side - PATCH, 0) + 1, PATCH) for side in rgb.shape[:2]]
        rows.append(
            [measure_patch(rgb[y : y + PATCH, x : x + PATCH], ground).focus for y in starts[0] for x in starts[1]]
        )
    return np.array(rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(wsi_detect.testing.__file__).parent / "demo_fields"
    )
    parser.add_argument("--list", type=Path, help="names of the fields to take, one a line")
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--grain", type=float, default=0.0, help="sigma of noise put on after the blur, grey levels")
    chosen = parser.parse_args()
    names = (
        chosen.list.read_text().split() if chosen.list else [path.name for path in sorted(chosen.folder.glob("*.jpg"))]
    )
    found = np.concatenate([focus_of(chosen.folder / name, chosen.shrink, chosen.grain) for name in names], axis=1)
    found = found[:, ~np.isnan(found).any(axis=0)]
    threshold = QualityConfig().in_focus
    falling = (np.diff(found, axis=0) < 0).all(axis=0).mean()
    print(f"{len(names)} fields, {found.shape[1]} patches; focus falls with every blur in {falling:.1%}")
    print(f"| blur, px | 5 % | median | 95 % | under {threshold:g} |\n|---|---|---|---|---|")
    for sigma, row in zip(SIGMAS, found, strict=True):
        low, middle, high = np.quantile(row, [0.05, 0.5, 0.95])
        print(f"| {sigma:g} | {low:.2f} | {middle:.2f} | {high:.2f} | {(row < threshold).mean():.1%} |")


if __name__ == "__main__":
    main()
