"""Tiles damaged slides and holds the stores against OpenSlide, one line of JSON a slide; run in a process of its own.

A slide that takes more than 20 seconds, or 3 GB, ends the process: the last line names it.
"""

import json
import resource
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import openslide
import tifffile

from wsi_detect.errors import WsiDetectError
from wsi_detect.slides import open_slide
from wsi_detect.tiling.mask import MaskConfig
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide

TILE = 256
SECONDS = 20
GB = 3
LOSSLESS = ("jpeg_tiles", "zstd", "none")


def verdict(path: Path, x: int, y: int) -> np.ndarray | str:
    """RGBA of a tile as others have it, or their error; a handle that met an error is spoilt for the next."""
    if openslide.OpenSlide.detect_format(path) is None:
        return tifffile_verdict(path, x, y)
    try:
        with openslide.OpenSlide(path) as slide:
            return np.asarray(slide.read_region((x, y), 0, (TILE, TILE)))
    except openslide.OpenSlideError as error:
        return str(error)


def tifffile_verdict(path: Path, x: int, y: int) -> np.ndarray | str:
    """The same by tifffile, for a file of which OpenSlide misses a part it insists on."""
    with tifffile.TiffFile(path) as tiff, path.open("rb") as stream:
        page = tiff.pages.first
        number = y // TILE * -(-page.imagewidth // TILE) + x // TILE
        stream.seek(page.dataoffsets[number])
        content = stream.read(page.databytecounts[number])
        if len(content) < page.databytecounts[number]:
            return "is cut off"
        try:
            tile, _, _ = page.decode(content, number, jpegtables=page.jpegtables)
        except (ValueError, RuntimeError) as error:
            return str(error)
    return np.dstack([tile[0], np.full((TILE, TILE), 255, np.uint8)])


def judge(path: Path, codec: str) -> list[str]:
    """What the store of a slide hides, one sentence a patch; nothing is what we want."""
    # Copied without a look inside, a tile would be found out by whoever reads it.
    config = TilingConfig(
        patch_px=TILE,
        overlap_px=0,
        codec=codec,
        mask=MaskConfig(preparation="none"),
        quality=False,
        check_tiles=codec == "jpeg_tiles",
        shard_patches=4,
    )
    found = []
    with tempfile.TemporaryDirectory() as out, open_slide(path, mpp=0.25, slide_id="damaged") as slide:
        store = tile_slide(slide, Path(out), config)
        for row, (x, y) in enumerate(store.origin_px.tolist()):
            patch, truth = store.read(row), verdict(path, x, y)
            if codec != "none":
                columns = (store.columns["unreadable"][row], store.columns["no_data"][row])
                assert (patch.unreadable, patch.no_data) == columns, (row, columns)
            counted, empty = patch.unreadable, patch.no_data
            if isinstance(truth, str):
                found += [] if counted > 0 else [f"patch {row} is not counted as unreadable: {truth}"]
                continue
            found += [f"patch {row} is counted as unreadable, and is not"] if counted > 0 else []
            data = truth[..., 3] == 255
            found += [] if (empty > 0) == (not data.all()) else [f"patch {row}: {empty} counted as without data"]
            if codec in LOSSLESS and not counted and (patch.rgb[data] != truth[data][:, :3]).any():
                found.append(f"patch {row} has other pixels than OpenSlide")
    return found


def main() -> None:
    """Arguments: codec and path of each slide, in turn."""
    resource.setrlimit(resource.RLIMIT_AS, (GB << 30, GB << 30))
    for codec, path in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        print(json.dumps([path, "begun"]), flush=True)
        signal.alarm(SECONDS)
        try:
            outcome = judge(Path(path), codec)
        except WsiDetectError as error:
            outcome = f"refused: {error}"
        signal.alarm(0)
        print(json.dumps([path, outcome]), flush=True)


if __name__ == "__main__":
    main()
