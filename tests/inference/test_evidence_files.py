"""Maps of whole slides as files: what a kill leaves, what is refused, what the codes keep."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wsi_detect.errors import DamagedArtifactError, MissingArtifactError
from wsi_detect.inference.evidence import PARTS
from wsi_detect.slides import open_slide
from wsi_detect.testing.dark_evidence import write_bundle
from wsi_detect.testing.hand_map import write_map
from wsi_detect.tiling.evidence_map import FULL, NOT_LOOKED, EvidenceMap, decode, encode
from wsi_detect.tiling.plan import TilingConfig
from wsi_detect.tiling.tiler import tile_slide


@pytest.fixture(scope="module")
def store(small_painted, tmp_path_factory):
    """Folder of a store of twelve shards."""
    out = tmp_path_factory.mktemp("store")
    mask = {"preparation": "none"}
    rule = {"patch_px": 128, "overlap_px": 36, "codec": "zstd", "mask": mask, "shard_patches": 4}
    with open_slide(small_painted.path) as slide:
        tile_slide(slide, out, TilingConfig.model_validate(rule))
    return out / "patches.zarr"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PROGRAM = """
import itertools, sys
from pathlib import Path
from wsi_detect import artifact
from wsi_detect.inference.evidence import EvidenceConfig, map_evidence
from wsi_detect.testing.dark_evidence import load
from wsi_detect.tiling.patch_store import PatchStore
store = PatchStore.open(Path(sys.argv[1]))
map_evidence(store, load(Path(sys.argv[2])), Path(sys.argv[3]), EvidenceConfig(reduce=3))
print(next(artifact._steps) - 1)
"""


def test_a_killed_run_is_finished_by_the_same_command(store, tmp_path):
    """`kill -9` at a write or a rename, at places all over the run: equal bytes, at most one part made twice."""
    bundle = write_bundle(tmp_path / "bundle")

    def run(out, fault="kill:1000000"):
        command = [sys.executable, "-c", PROGRAM, str(store), str(bundle), str(out)]
        environment = {**os.environ, "WSI_DETECT_FAULT": fault}
        return subprocess.run(command, env=environment, capture_output=True, text=True, start_new_session=True)

    whole_run = run(tmp_path / "golden")
    assert whole_run.returncode == 0, whole_run.stderr
    steps = int(whole_run.stdout)
    assert steps > 20
    for share in (0.4, 0.95):
        out = tmp_path / f"killed{share}"
        assert run(out, f"kill:{round(share * steps)}").returncode == -signal.SIGKILL
        kept = {path: path.stat().st_ino for path in (out / PARTS).glob("part-*.parquet")}
        assert kept
        with pytest.raises(MissingArtifactError, match=r"unfinished|missing"):
            EvidenceMap.open(out / "heatmap.zarr")
        second = run(out)
        assert second.returncode == 0, second.stderr
        # Each part is a write and a rename; what was there is not made again.
        assert int(second.stdout) <= steps - 2 * len(kept)
        assert files(out) == files(tmp_path / "golden")


def test_a_map_that_lost_something_is_refused(tmp_path):
    found = write_map(tmp_path, np.random.default_rng(0).random((50, 60)))
    path = found.path / "evidence" / "c" / "0" / "0"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(DamagedArtifactError, match="bytes"):
        EvidenceMap.open(found.path)
    path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    with pytest.raises(DamagedArtifactError, match="checksum"):
        EvidenceMap.open(found.path).codes((0, 8), (0, 8))
    path.unlink()
    with pytest.raises(MissingArtifactError, match="missing"):
        EvidenceMap.open(found.path)


def test_codes_keep_what_a_network_can_tell():
    values = np.array([0.0, 1e-5, 0.3, 1.0, 1.0004, np.nan])
    codes = encode(values)
    assert codes.tolist() == [0, 1, 19660, FULL, FULL, NOT_LOOKED]
    np.testing.assert_allclose(decode(codes), [0, 1 / FULL, 0.3, 1, 1, np.nan], atol=8e-6)
