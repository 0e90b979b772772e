import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wsi_detect import artifact, schema
from wsi_detect.errors import ResolutionMismatchError, StaleArtifactError
from wsi_detect.geometry import PatchFrame
from wsi_detect.inference.detect import DetectionConfig, detect_patches
from wsi_detect.inference.detector import Detections, no_detections, on_slide
from wsi_detect.slides.resample import RegionPixels
from wsi_detect.testing.blobs import load, write_bundle
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.tiling.quality import QUALITY_COLUMNS, measure_patch


@dataclass
class FakeSlide:
    slide_id: str = "A"


class FakeStore:
    """Five patches of 8 px in three shards; patch k is a square of grey k."""

    slide = FakeSlide()
    grid = TileGrid(40, 8, 16, 8)
    mpp = 0.25
    patch_px = 8
    patch_ids = np.array([0, 1, 2, 3], np.int64)
    coverage = np.array([1.0, 0.5, 0.25, 1.0], np.float32)
    shards = (range(0, 2), range(2, 3), range(3, 4))
    index_only = False
    ground = (240.0, 240.0, 240.0)

    def __init__(self, unreadable=(0.0, 0.0, 0.0, 0.0)):
        self.unreadable = unreadable
        self.reads = []
        self.columns = {name: np.array([k, np.nan, k, k], np.float32) for k, name in enumerate(QUALITY_COLUMNS)}

    def __len__(self):
        return 4

    def frame(self, row):
        return PatchFrame(8.0 * row, 0.0, 2.0)

    def read(self, row):
        self.reads.append(row)
        return RegionPixels(np.full((8, 8, 3), row, np.uint8), 0.125 * row, self.unreadable[row])


class FakeDetector:
    """One cell in each patch, at (1, 2, 3, 4) patch px; patches of the grey `broken` give no number."""

    def __init__(self, info, broken=None):
        self.info = info
        self.broken = broken
        self.batches = []

    def __call__(self, patches):
        self.batches.append(len(patches))
        return [self._one(int(patch[0, 0, 0])) for patch in patches]

    def _one(self, grey):
        if grey == self.broken:
            return replace(no_detections(3), finite=False)
        boxes = np.array([[1, 2, 3, 4]], np.float32)
        return Detections(boxes, np.float32([0.5]), np.array([1]), np.float32([[0.1, 0.5, 0.2]]))


@pytest.fixture
def info(tmp_path):
    return load(write_bundle(tmp_path / "bundle", patch_px=8, mpp=0.25)).info


def test_one_part_a_shard_in_slide_px(tmp_path, info):
    folder = detect_patches(FakeStore(), FakeDetector(info), tmp_path)
    parts = sorted(folder.glob("part-*.parquet"))
    assert [part.name for part in parts] == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    table = pa.concat_tables([artifact.read_table(part, schema.DETECTIONS) for part in parts])
    assert table["patch_id"].to_pylist() == [0, 1, 2, 3]
    assert table["x0_px"].to_pylist() == [2.0, 10.0, 18.0, 26.0]
    assert table["y1_px"].to_pylist() == [8.0] * 4
    assert set(table["label"].to_pylist()) == {"LSIL"}
    assert json.loads(pq.read_schema(parts[0]).metadata[b"classes"]) == ["NILM", "LSIL", "HSIL"]


def test_every_patch_has_a_state(tmp_path, info):
    store = FakeStore(unreadable=(0.0, 0.9, 0.1, 0.0))
    detect_patches(store, FakeDetector(info, broken=3), tmp_path, DetectionConfig(max_unreadable=0.5))
    rows = artifact.read_table(tmp_path / "patches.parquet", schema.PATCHES).to_pylist()
    assert [(row["patch_id"], row["status"], row["reason"]) for row in rows] == [
        (0, "done", None),
        (1, "unreadable", "90% of the patch cannot be decoded"),
        (2, "done", None),
        (3, "failed", "non-finite output"),
    ]
    assert [row["no_data"] for row in rows] == [0.0, 0.125, 0.25, 0.375]


def test_quality_is_the_stores_own(tmp_path, info):
    detect_patches(FakeStore(), FakeDetector(info), tmp_path)
    rows = artifact.read_table(tmp_path / "patches.parquet", schema.PATCHES).to_pylist()
    assert [row["focus"] for row in rows] == [0, None, 0, 0]
    assert [row["mucus"] for row in rows] == [4, None, 4, 4]


def test_quality_of_an_index_only_store_is_measured_here(tmp_path, info):
    rng = np.random.default_rng(0)
    pixels = rng.integers(40, 240, (4, 64, 64, 3), dtype=np.uint8)
    pixels[2] = 240

    class IndexOnly(FakeStore):
        index_only = True

        def read(self, row):
            return RegionPixels(pixels[row], 0.0, 0.0)

    detect_patches(IndexOnly(), FakeDetector(info), tmp_path)
    rows = artifact.read_table(tmp_path / "patches.parquet", schema.PATCHES).to_pylist()
    expected = [measure_patch(part, FakeStore.ground) for part in pixels]
    assert [row["focus"] for row in rows] == pytest.approx(
        [e.focus if k != 2 else None for k, e in enumerate(expected)]
    )
    assert [row["stain"] for row in rows][2] is None


def test_batches_do_not_cross_shards(tmp_path, info):
    detector = FakeDetector(info)
    detect_patches(FakeStore(), detector, tmp_path, DetectionConfig(batch_size=3))
    assert detector.batches == [2, 1, 1]


def test_a_second_run_reads_what_is_missing_and_writes_the_same(tmp_path, info, caplog):
    folder = detect_patches(FakeStore(), FakeDetector(info), tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "part-00001.parquet").unlink()
    store = FakeStore()
    with caplog.at_level("INFO"):
        detect_patches(store, FakeDetector(info), tmp_path)
    assert store.reads == [2]
    assert "resuming, 2 of 3 parts found" in caplog.text
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("config", "model", "named"),
    [
        (DetectionConfig(batch_size=2), "dark-blobs", "config"),
        (DetectionConfig(), "another", "model"),
    ],
)
def test_parts_of_another_making_are_refused(tmp_path, info, config, model, named):
    detect_patches(FakeStore(), FakeDetector(info), tmp_path)
    with pytest.raises(StaleArtifactError, match=named):
        detect_patches(FakeStore(), FakeDetector(replace(info, model_id=model)), tmp_path, config)


def test_another_resolution_is_refused(tmp_path, info):
    with pytest.raises(ResolutionMismatchError, match=r"0\.25 µm/px, the model was trained at 0\.5.*tiling.mpp=0\.5"):
        detect_patches(FakeStore(), FakeDetector(replace(info, mpp=0.5)), tmp_path)


def test_a_store_without_patches_gives_typed_tables(tmp_path, info):
    store = FakeStore()
    store.shards, store.patch_ids = (), np.zeros(0, np.int64)
    detect_patches(store, FakeDetector(info), tmp_path)
    assert artifact.read_table(tmp_path / "patches.parquet", schema.PATCHES).num_rows == 0


def test_what_lies_beside_a_small_slide_is_no_cell():
    boxes = np.array([[2, 2, 6, 6], [14, 2, 17, 6], [15, 2, 19, 6], [2, 40, 6, 44]], np.float32)
    found = Detections(
        boxes, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.zeros(4, np.int64), np.ones((4, 1), np.float32)
    )
    kept = on_slide(found, PatchFrame(0.0, 0.0, 1.0), 16, 16)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.8])
