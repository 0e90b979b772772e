"""A run in a process of its own, to be killed: `killed_program.py SLIDES BUNDLE OUT STORE`.

When it lives to its end it prints how many writes and renames it made.
"""

import itertools
import sys
from pathlib import Path

from wsi_detect import artifact
from wsi_detect.run import Batch, RunConfig, list_slides, run_batch
from wsi_detect.testing.blobs import load

if __name__ == "__main__":
    slides, bundle, out, store = sys.argv[1:]
    tiling = {"patch_px": 256, "overlap_um": 16, "shard_patches": 2, "codec": store}
    config = RunConfig.model_validate({"tiling": tiling})
    run_batch(list_slides([slides]), Batch(Path(out), Path(bundle), config, runtime=load), workers=0)
    steps = artifact._steps
    assert isinstance(steps, itertools.count)
    print(next(steps) - 1)
