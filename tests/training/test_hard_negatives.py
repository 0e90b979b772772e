"""The sampler of a training run with hard negatives: drawn as often as asked, tied to the table it began with."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wsi_detect import artifact, schema
from wsi_detect.data.index import build_index, read_index
from wsi_detect.errors import ConfigError, StaleArtifactError
from wsi_detect.geometry import PatchFrame
from wsi_detect.tiling.grid import TileGrid
from wsi_detect.training.config import TrainingConfig
from wsi_detect.training.loop import claim
from wsi_detect.training.trainer import _made_from, _train_loader


@dataclass
class Store:
    path: Path
    patch_px = 100
    mpp = 0.5
    patch_ids = np.arange(16)
    coverage = np.ones(16, np.float32)
    columns = {"focus": np.full(16, np.nan, np.float32)}  # noqa: RUF012

    def frame(self, i):
        x, y = TileGrid(400, 400, 100, 0).origins()[i]
        return PatchFrame(float(x), float(y), 1.0)


@pytest.fixture
def index(tmp_path):
    """Sixteen patches of a slide with a cell in patch 0, sixteen of a slide without."""
    box = dict(zip(schema.BOX_COLUMNS, (10.0, 10.0, 40.0, 40.0), strict=True))
    row = {"slide_id": "pos", "annotation_id": "0", "label": "HSIL", "source_label": "HSIL", **box}
    annotations = tmp_path / "annotations.parquet"
    artifact.write_table(annotations, artifact.table_of([row], schema.ANNOTATIONS), schema.ANNOTATIONS)
    stores = {name: Store(tmp_path / name) for name in ("neg", "pos")}
    return build_index(stores, annotations, dict.fromkeys(stores, "train"), tmp_path, ["HSIL"])


@pytest.fixture
def table(tmp_path):
    def write(*patches):
        box = dict.fromkeys(schema.BOX_COLUMNS, 0.0)
        rows = [
            {"slide_id": "neg", "patch_id": patch, "rank": k + 1, "evidence": 0.9, "share_above": 0.1, **box}
            for k, patch in enumerate(patches)
        ]
        path = tmp_path / "hard_negatives.parquet"
        artifact.write_table(path, artifact.table_of(rows, schema.HARD_NEGATIVES), schema.HARD_NEGATIVES)
        return str(path)

    return write


def config(**loader):
    values = {"batch_size": 4, "background_share": 0.5, **loader}
    return TrainingConfig.model_validate({"loader": values})


def test_hard_negatives_are_drawn_as_often_as_asked(index, table):
    trainer = SimpleNamespace(world_size=1, global_rank=0)
    rule = config(hard_negatives=table(3, 8), hard_share=0.5)
    loader = _train_loader(read_index(index), rule, trainer)
    drawn = np.concatenate([loader._order.order(epoch) for epoch in range(50)])
    # Rows go by slide id: the first sixteen are those of `neg`, row 16 has the cell.
    shares = np.bincount(drawn, minlength=32) / len(drawn)
    assert shares[16] == pytest.approx(0.5, abs=0.02)
    assert shares[[3, 8]].sum() == pytest.approx(0.25 + 0.25 * 2 / 31, abs=0.02)
    assert (np.delete(shares, [3, 8, 16]) < 0.02).all()


def test_hard_negatives_without_background_are_refused(index, table):
    rule = config(hard_negatives=table(3), background_share=0.0)
    with pytest.raises(ConfigError, match="background_share above 0"):
        _train_loader(read_index(index), rule, SimpleNamespace(world_size=1, global_rank=0))


def test_a_run_goes_on_with_the_table_it_began_with(index, table, tmp_path):
    rule = config(hard_negatives=table(3, 8))
    claim(tmp_path / "run", _made_from(index, rule))
    claim(tmp_path / "run", _made_from(index, rule))
    table(3, 8, 9)
    with pytest.raises(StaleArtifactError):
        claim(tmp_path / "run", _made_from(index, rule))
